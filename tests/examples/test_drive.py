"""The control loop speaks to the service as the contract says, and says plainly what went wrong."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from examples.autoscaler import drive
from examples.autoscaler.dynamics import ACTION_NAMES, FIELDS

Asked = list[tuple[str, dict[str, Any]]]
Reply = Callable[[int], tuple[int, dict[str, Any]]]


def decision(count: int, **changes: object) -> dict[str, Any]:
    """What actd answers to its `count`-th request."""
    usual = {
        "decision_id": f"decision-{count}",
        "action": 2,
        "action_name": "hold",
        "policy": "autoscaler",
        "version": "1",
        "source": "policy",
        "violations": [],
    }
    return {**usual, **changes}


@contextmanager
def service(reply: Reply) -> Iterator[tuple[str, Asked]]:
    """A fake actd on a port of the system's choice: gives its URL and, as they come, the requests it was asked."""
    asked: Asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            status, body = reply(len(asked)) if self.path == "/act" else (200, {"items": ["accepted"]})
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing: the test reads what it needs."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_minute_is_one_act_that_carries_the_last_reward() -> None:
    """`previous` names the decision before, `feedback` its reward; the first has none, the last is closed alone."""
    with service(lambda count: (200, decision(count))) as (url, asked):
        code = drive.main(["--url", url, "--minutes", "4", "--session", "loop", "--json"])

    acts = [body for path, body in asked if path == "/act"]
    assert code == 0
    assert [path for path, _ in asked] == ["/act"] * 4 + ["/feedback"]
    assert [body["previous"] for body in acts] == [None, "decision-1", "decision-2", "decision-3"]
    assert "feedback" not in acts[0]
    assert all(body["feedback"]["reward"] < 0 for body in acts[1:])
    assert all(body["session"] == "loop" for body in acts)
    assert all(list(body["observation"]) == [field.name for field in FIELDS] for body in acts)
    last = asked[-1][1]
    assert (last["decision_id"], last["truncated"]) == ("decision-4", True)
    assert set(last["next_observation"]) == {field.name for field in FIELDS}


def test_observed_at_is_the_simulated_clock() -> None:
    """Guards measure cooldowns in simulated minutes, however fast the loop runs; request ids never repeat."""
    with service(lambda count: (200, decision(count))) as (url, asked):
        drive.main(["--url", url, "--minutes", "3", "--json"])

    times = [body["observed_at"] for path, body in asked if path == "/act"]
    assert [time - times[0] for time in times] == [0, 60, 120]
    assert len({body["request_id"] for path, body in asked if path == "/act"}) == 3


def test_the_answer_is_carried_out() -> None:
    """The replicas in the next observation follow the action that was answered."""
    names = iter(("scale_up_2", "hold", "scale_down_1", "hold"))
    with service(lambda count: (200, decision(count, action_name=next(names)))) as (url, asked):
        drive.main(["--url", url, "--minutes", "4", "--json"])

    counts = [body["observation"]["replicas"] for path, body in asked if path == "/act"]
    assert [count - counts[0] for count in counts] == [0, 2, 2, 1]


def test_interventions_and_fallbacks_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Prevented violations count by constraint, answers from elsewhere by source and reason."""
    prevented = [{"constraint": "cooldown", "verdict": "prevented"}, {"constraint": "watch", "verdict": "reported"}]

    def reply(count: int) -> tuple[int, dict[str, Any]]:
        if count == 2:
            return 200, decision(count, source="baseline", reason="DeadlineExceeded")
        return 200, decision(count, violations=prevented if count == 1 else [])

    with service(reply) as (url, _):
        drive.main(["--url", url, "--minutes", "3", "--json"])
    said = json.loads(capsys.readouterr().out)

    assert said["interventions"] == {"cooldown": 1}
    assert said["fallbacks"] == {"baseline: DeadlineExceeded": 1}
    assert said["actions"] == {"hold": 3}
    assert said["policy"]["minutes"] == said["hpa"]["minutes"] == 3


def test_people_get_a_row_every_so_often_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows at the asked minutes and at the last one, then both controllers side by side."""
    with service(lambda count: (200, decision(count))) as (url, _):
        drive.main(["--url", url, "--minutes", "7", "--every", "3"])
    lines = capsys.readouterr().out.splitlines()

    assert [line[:11] for line in lines if line.startswith("01-05")] == ["01-05 00:00", "01-05 00:03", "01-05 00:06"]
    assert any(line.startswith("SLO-breach minutes") for line in lines)
    assert lines[-1] == "fallbacks: none"


def test_a_csv_is_played_and_paced(tmp_path: Path) -> None:
    """--trace plays a file to its end with its own clock, --pace waits after each minute."""
    file = tmp_path / "day.csv"
    file.write_text("minute,requests\n1998-06-08 00:00,50\n1998-06-08 00:01,60\n", encoding="utf-8")
    slept: list[float] = []
    with service(lambda count: (200, decision(count))) as (url, asked):
        drive.main(["--url", url, "--trace", str(file), "--pace", "0.5", "--json"], sleep=slept.append)

    assert [body["observed_at"] for path, body in asked if path == "/act"] == [897264000, 897264060]
    assert slept == [0.5, 0.5]


def test_no_service_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing listens the loop says how to start the service."""
    with service(lambda count: (200, decision(count))) as (url, _):
        pass

    assert drive.main(["--url", url, "--minutes", "1"]) == 1
    assert capsys.readouterr().err == f"no service answers at {url}; start it with `make serve`\n"


def test_an_error_answer_shows_its_code_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    """The service's own words reach the person at the terminal."""
    error = {"error": {"code": "schema", "path": "$.observation", "message": "unknown field"}}
    with service(lambda _: (422, error)) as (url, _):
        code = drive.main(["--url", url, "--minutes", "1"])

    assert code == 1
    assert capsys.readouterr().err == f"{url}/act answered 422 schema: unknown field\n"


def test_another_policy_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """A service with other actions is told apart before anything is carried out."""
    with service(lambda count: (200, decision(count, action_name="left"))) as (url, _):
        code = drive.main(["--url", url, "--minutes", "1"])

    assert code == 1
    assert f"the action 'left', expected one of {', '.join(ACTION_NAMES)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--minutes", "0"], "--minutes is 0"),
        (["--every", "0"], "--every is 0"),
        (["--pace", "-1"], "--pace is -1.0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--peak-replicas", "99"], "--peak-replicas is 99.0"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse says it and leaves with status 2."""
    with pytest.raises(SystemExit) as left:
        drive.main(arguments)

    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--url", "localhost:8080"], ["--url", "http://h:99999"], ["--trace", "none.csv"]]
)
def test_a_bad_url_or_trace_is_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse cannot know is said in the same way, with status 1."""
    assert drive.main(arguments) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
