"""The locustfile against the real service, and against servers that fail.

Always as a subprocess: importing locust patches sockets and threads.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtests.launch import ROOT, Server

KINDS = ("/act steady", "/act burst", "/act new session")


def locust(host: str, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Ten users for a few seconds, started where only the locustfile's folder is known."""
    command = [sys.executable, "-m", "locust", "--locustfile", str(ROOT / "loadtests" / "locustfile.py")]
    headless = ["--headless", "--only-summary", "--users", "10", "--spawn-rate", "10", "--host", host]
    return subprocess.run(
        [*command, *headless, *options], capture_output=True, text=True, cwd=folder, timeout=60, check=False
    )


class Failing(BaseHTTPRequestHandler):
    """Tells a schema, and answers everything else with 500."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The schema, where it is asked for."""
        if self.path != "/policy":
            self._answer(404, b"{}")
            return
        field = {"name": "cpu", "low": 0, "high": 1}
        space = {"kind": "fields", "dtype": "float32", "fields": [field]}
        self._answer(200, json.dumps({"observation": space, "facts": [], "actions": ["hold"]}).encode())

    def do_POST(self) -> None:
        """A failure."""
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(500, b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing: the output of a test is pytest's."""

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def failing() -> Iterator[str]:
    """The address of a server that fails."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_all_controllers_are_answered(service: Server, tmp_path: Path) -> None:
    """Steady, burst and many sessions run without a failure, and their quantiles are told."""
    done = locust(service.serving.url, tmp_path, "--run-time", "4s", "--period", "0.02")

    assert done.returncode == 0, done.stdout + done.stderr
    for kind in (*KINDS, "/feedback", "Aggregated"):
        line = rf"^{kind}: (\d+) requests, P50 [\d.]+ ms, P95 [\d.]+ ms, P99 [\d.]+ ms$"
        found = re.search(line, done.stdout, re.MULTILINE)
        assert found is not None, kind
        assert int(found[1]) > 0
    assert re.search(r"^OK: 0 of \d+ requests failed", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(("ratio", "status"), [("0.001", 1), ("1", 0)])
def test_too_many_failures_fail_the_run(failing: str, ratio: str, status: int, tmp_path: Path) -> None:
    """The exit status goes by the stated ratio."""
    done = locust(failing, tmp_path, "--run-time", "1s", "--fail-ratio", ratio)

    assert done.returncode == status, done.stdout + done.stderr
    assert re.search(r"^(FAILED|OK): (\d+) of \2 requests failed \(100", done.stdout, re.MULTILINE)


def test_without_a_service_it_says_so(failing: str, tmp_path: Path) -> None:
    """Where nobody tells the schema, the run ends at once with its own status."""
    done = locust(f"{failing}/nowhere", tmp_path, "--run-time", "30s")

    assert done.returncode == 2, done.stdout + done.stderr
    assert "did not tell the schema" in done.stderr
