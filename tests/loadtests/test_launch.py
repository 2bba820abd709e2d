"""A server's process: where it serves, what CPU time it used, and its end."""

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.launch import Server, Serving, cpu_ns, said
from loadtests.wrk import BenchFailed

# Works in a thread that ends, then says what its own accounting is and waits.
_SPINS = """
import sys, threading, time
def spin():
    while time.thread_time() < 0.2: pass
spinner = threading.Thread(target=spin); spinner.start(); spinner.join()
print(time.process_time_ns(), flush=True)
sys.stdin.read()
"""


def test_cpu_time_of_another_process_is_its_own_accounting() -> None:
    """What is read from outside is what the process says of itself, ended threads included."""
    with subprocess.Popen([sys.executable, "-c", _SPINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        own = int(child.stdout.readline())

        seen = cpu_ns(child.pid)

        child.communicate()
    assert own >= 200_000_000
    assert 0 <= seen - own < 50_000_000


def test_a_process_that_is_gone_is_a_sentence() -> None:
    """A server that died while it was measured does not count as one that used no CPU."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    with pytest.raises(BenchFailed, match=f"process {child.pid} is gone"):
        cpu_ns(child.pid)


@pytest.mark.parametrize("end", [", writer 2a88ee4c188b1669)", ")"])
def test_the_line_that_says_where_it_serves_is_found(end: str) -> None:
    """The service's line and the other servers' are read alike, among others."""
    output = f"something else\nactd: serving cartpole-1 on http://127.0.0.1:18080 (process 19987{end}\n"

    assert said(output) == Serving("cartpole-1", "http://127.0.0.1:18080", 19987)
    assert said("actd: serving nothing yet\n") is None


def test_a_server_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    """A server that cannot start says why, in the sentence that the bench ends with."""
    server = Server("broken", ["-c", "import sys; sys.exit('there is no such policy')"], tmp_path / "log")

    with pytest.raises(BenchFailed, match=r"broken did not start.*there is no such policy"), server:
        pass


def test_the_service_ends_with_its_processes(service: Server) -> None:
    """The data plane is gone when the block ends, and comes to rest while nobody asks it anything."""
    assert service.rested()
    assert cpu_ns(service.serving.pid) > 0

    service.__exit__(None, None, None)

    with pytest.raises(BenchFailed, match="is gone"):
        cpu_ns(service.serving.pid)
