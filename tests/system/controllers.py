"""Load on a service: control loops that remember what they were answered, and what its journal has of it."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from service.log.journal import CHAIN_START, chain_of, read_segment, segments
from service.log.records import AnyRecord, Decision, Writer
from tests.system.serving import Client

CONTROLLERS = 16
# What is stored, by writer and sequence number.
Stored = dict[tuple[str, int], AnyRecord]


class Controller(threading.Thread):
    """A control loop on one keep-alive connection: ``answered`` has the id and action of every whole answer.

    ``broken`` counts requests that got none, ``gone`` those that nobody listened to, and ``refused`` has the answers
    that were no decision.
    """

    def __init__(self, number: int, port: int, told: threading.Event) -> None:
        super().__init__(name=f"controller-{number}", daemon=True)
        self.answered: list[tuple[str, int]] = []
        self.broken = 0
        self.gone = 0
        self.refused: list[str] = []
        self._number = number
        self._port = port
        self._told = told

    def run(self) -> None:
        """Decide, act, tell the reward; after a broken connection the same question again, on a new one."""
        with Client(self._port) as client:
            while not self._told.is_set():
                try:
                    status, told = client.post("/act", self._request())
                except (OSError, HTTPException) as error:
                    if isinstance(error, ConnectionRefusedError):
                        self.gone += 1
                    else:
                        self.broken += 1
                    client.close()
                    self._told.wait(0.01)
                    continue
                if status == 200:
                    self.answered.append((told["decision_id"], told["action"]))
                else:
                    self.refused.append(f"{status} {told}")

    def _request(self) -> dict[str, object]:
        step = len(self.answered)
        request: dict[str, object] = {
            "session": f"session-{self._number}",
            "observation": {"cpu": step % 11 / 10, "queue": step, "replicas": self._number},
            "previous": self.answered[-1][0] if self.answered else None,
        }
        return request | {"feedback": {"reward": float(step)}} if self.answered else request


@contextmanager
def load(port: int) -> Iterator[list[Controller]]:
    """Controllers that go on until the end of the block, and all end with it."""
    told = threading.Event()
    controllers = [Controller(number, port, told) for number in range(CONTROLLERS)]
    for controller in controllers:
        controller.start()
    try:
        yield controllers
    finally:
        told.set()
        for controller in controllers:
            controller.join(30)


def answers(controllers: list[Controller]) -> int:
    """How many decisions have been answered so far."""
    return sum(len(controller.answered) for controller in controllers)


def journalled(data: Path) -> Stored:
    """Every record of every writer; sequences without gap or repetition, and chains that hold to the last line."""
    found: Stored = {}
    for folder in sorted((data / "journal").glob("[0-9a-f]*")):
        chain, previous = CHAIN_START, 0
        for path in segments(folder):
            whole = path.read_bytes()
            start = 0
            for line in read_segment(whole):
                assert line.record is not None, (path, start, line.damage)
                assert line.chain == chain, (path, start)
                assert line.record.seq == previous + 1, (path, start)
                chain, previous = chain_of(whole[start : line.end]), line.record.seq
                start = line.end
                found[folder.name, line.record.seq] = line.record
        first = found[folder.name, 1]
        assert isinstance(first, Writer)
        assert first.writer == folder.name
    return found


def decisions_of(stored: Stored) -> Counter[str]:
    """How many times each decision is there."""
    return Counter(record.id for record in stored.values() if isinstance(record, Decision))
