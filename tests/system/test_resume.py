"""``kill -9`` of the data plane under load: sessions go on as they were, and who asks again is answered the same."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import pytest

from service.application import assemble
from service.config import Config
from service.log.records import Decision
from tests import ports
from tests.artefacts import ACTIONS
from tests.in_process import Serving, asking
from tests.system.controllers import journalled
from tests.system.serving import Client, Service, demo, eventually

LOOPS, SESSIONS = 4, 40
# Answers between two kills, in all loops.
BETWEEN = 400
READY_WITHIN_S = 3.0
CONFIG = """\
name = "test"
policy = "demo-1.onnx"

[limits]
deadline_ms = 10000
batch_bytes = 100000000

[breaker]
consecutive = 10000
minimum = 10000

[[constraints]]
kind = "cooldown"
name = "rests"
actions = ["scale_down"]
seconds = 3600

[baseline]
kind = "constant"
action = "hold"
"""


class Loop(threading.Thread):
    """Controls sessions of its own, one after another, and asks again under the same request id where none answers."""

    def __init__(self, number: int, port: int, told: threading.Event) -> None:
        super().__init__(daemon=True)
        self.answered: dict[str, str] = {}
        self.broken = 0
        self.refused: list[str] = []
        self._number, self._port, self._told = number, port, told

    def run(self) -> None:
        """Decide until told to stop."""
        with Client(self._port) as client:
            while not self._told.is_set():
                count = len(self.answered)
                request = asking(
                    f"s{self._number}-{count % SESSIONS}",
                    {"cpu": count % 7 / 10, "queue": 0.0, "replicas": 3.0},
                    request_id=f"r{self._number}-{count}",
                    **({"previous": None} if count < SESSIONS else {}),
                )
                try:
                    status, told = client.post("/act", request)
                except (OSError, HTTPException):
                    self.broken += 1
                    client.close()
                    self._told.wait(0.01)
                    continue
                if status == 200:
                    self.answered[str(request["request_id"])] = told["decision_id"]
                else:
                    self.refused.append(f"{status} {told}")


def killed(folder: Path, artefact: bytes, kills: int) -> None:
    """Kill the data plane so many times under load, and look at what every session was."""
    config = demo(folder, CONFIG)
    (folder / "demo-1.onnx").write_bytes(artefact)
    told = threading.Event()
    with Service(config, folder / "data") as service:
        loops = [Loop(number, service.port, told) for number in range(LOOPS)]
        for loop in loops:
            loop.start()
        try:
            for count in range(1, kills + 2):
                plane, before = service.plane(count), sum(len(loop.answered) for loop in loops)
                eventually(more_than(loops, before + BETWEEN), within_s=60, what=service.output)
                if count <= kills:
                    service.kill_plane(plane)
        finally:
            told.set()
            for loop in loops:
                loop.join(30)
        assert service.stop() == 0

    assert [one for loop in loops for one in loop.refused] == []
    assert sum(loop.broken for loop in loops) >= kills
    assert_gone_on([one for one in journalled(folder / "data").values() if isinstance(one, Decision)], loops)


def more_than(loops: list[Loop], count: int) -> Callable[[], bool]:
    """Whether there are more answers than that."""
    return lambda: sum(len(loop.answered) for loop in loops) > count


def assert_gone_on(decisions: list[Decision], loops: list[Loop]) -> None:
    """No session was unknown, no memory was lost, no step was made twice, and no cooldown was forgotten."""
    assert [one.session for one in decisions if not one.state.known] == []
    assert Counter(one.reason for one in decisions) == Counter({None: len(decisions)})
    asked = {str((one.options or {})["request_id"]): one.id for one in decisions}
    assert len(asked) == len(decisions)
    assert {name: asked[name] for loop in loops for name in loop.answered} == {
        name: identity for loop in loops for name, identity in loop.answered.items()
    }
    by_id = {one.id: one for one in decisions}
    for one in decisions:
        before = None if one.previous is None else by_id[one.previous]
        assert one.step == (0 if before is None or before.step is None else before.step + 1)
    downs = Counter(one.session for one in decisions if one.action == ACTIONS.index("scale_down"))
    assert set(downs.values()) == {1}


@pytest.mark.parametrize("artefact", [ports.recurrent(), ports.masked()], ids=["with a memory", "without"])
def test_sessions_go_on_after_three_kills(tmp_path: Path, artefact: bytes) -> None:
    """160 sessions, each of which began once: known in every process, with their memories, cooldowns and steps."""
    killed(tmp_path, artefact, 3)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("artefact", [ports.recurrent(), ports.masked()], ids=["with a memory", "without"])
def test_sessions_go_on_after_twenty_kills(tmp_path: Path, artefact: bytes) -> None:
    """The same, twenty times."""
    killed(tmp_path, artefact, 20)


def kept_waiting_s(pid: int) -> float:
    """How long a process has waited for a processor that others had: that is not of its own making."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_it_is_ready_again_soon_with_a_hundred_thousand_sessions(tmp_path: Path) -> None:
    """Within three seconds of a ``kill -9``, three times; the first and the last of the sessions are known."""
    config, count = demo(tmp_path, CONFIG), 100_000

    async def fill() -> None:
        plane = assemble(Config.read(config), tmp_path / "data")
        served = Serving(plane)
        for at in range(0, count, 4000):
            rows = [asking(f"session-{i}", previous=None) for i in range(at, at + 4000)]
            assert (await served.post("/act/batch", {"requests": rows})).status == 200
        plane.engine.pool.shutdown(wait=False, cancel_futures=True)
        plane.journal.close()

    asyncio.run(fill())
    took = []
    with Service(config, tmp_path / "data") as service:
        for kills in range(1, 4):
            plane = service.plane(kills)
            began = time.monotonic()
            service.kill_plane(plane)
            ready_again = service.plane(kills + 1)
            took.append(time.monotonic() - began - kept_waiting_s(ready_again.pid))
        with Client(service.port) as client:
            for i in (0, 1, count // 2, count - 1):
                assert client.post("/act", asking(f"session-{i}"))[0] == 200
            ready, report = client.get("/ready"), client.get("/report")
        assert ready[1]["resumed"] == {"sessions": count, "incomplete": None}
        assert report[1]["resumed"]["sessions"] == count
        assert service.stop() == 0

    assert [round(seconds, 1) for seconds in took if seconds > READY_WITHIN_S] == []
    last = [one for one in journalled(tmp_path / "data").values() if isinstance(one, Decision)][-4:]
    assert all(one.state.known for one in last)
