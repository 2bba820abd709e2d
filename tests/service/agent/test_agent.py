"""The agent as a process: started, told to stop, killed, refused."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.versions.lease import read_page
from tests.redis_server import RedisServer
from tests.service.agent.agents import CONFIG, eventually, page_after
from tests.service.agent.pens import Pen

ROOT = Path(__file__).parents[3]


class Process:
    """One agent with a data folder and what it said."""

    def __init__(self, data: Path, *options: str, url: str = "") -> None:
        self.data = data
        config = data / "policy.toml"
        config.write_text(CONFIG)
        (data / "keyring.json").write_text(json.dumps({"keys": {"1": (b"k" * 32).hex()}}))
        environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "ACTD_KEYRING")}
        environment |= {"REDIS_URL": url} if url else {}
        command = [sys.executable, "-m", "service.agent", "--config", str(config), "--data", str(data), *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment
        )

    def admin(self) -> str:
        """The line it says when it is up, and the address in it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("actd agent: admin on http://127.0.0.1:"), line
        return line.split()[4].rstrip(",")

    def get(self, url: str) -> Any:
        """JSON from the admin port."""
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
            return json.loads(answer.read())

    def ended(self) -> tuple[int, str]:
        """Its status and what it said to standard error, once it has ended."""
        _, said = self.process.communicate(timeout=15)
        return self.process.returncode, said.decode()


@contextmanager
def agent(data: Path, *options: str, url: str = "") -> Iterator[Process]:
    """An agent that does not outlive the test."""
    running = Process(data, *options, url=url)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate(timeout=15)


def transitions(data: Path) -> list[tuple[Any, ...]]:
    """What the embedded store has, in one query."""
    db = sqlite3.connect(data / "store.sqlite")
    try:
        return db.execute("SELECT seq, reward, next_observation, closed_by FROM transitions ORDER BY id").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


class TestEmbedded:
    """Without REDIS_URL."""

    def test_a_journal_becomes_transitions_in_one_sqlite_file(self, tmp_path: Path) -> None:
        """Feedback, successor and timeout, with the heartbeat published and the ledger told."""
        pen = Pen(1, tmp_path / "journal")
        now = int(time.time() * 1000) - 60_000
        one = pen.decision(now)
        pen.feedback(now + 100, one, 0.5)
        two = pen.decision(now + 100, previous=one)
        pen.feedback(now + 200, two, 1.5, terminated=True)
        pen.decision(now + 300)
        pen.beat(now + 20_000)
        with agent(tmp_path) as running:
            url = running.admin()
            eventually(lambda: len(transitions(tmp_path)) == 3)
            told = running.get(f"{url}/ledger")
            pages = [eventually(lambda: page_after(tmp_path, 0))]
            pages.append(eventually(lambda: page_after(tmp_path, pages[0].heartbeat)))
            assert running.get(f"{url}/decisions/{one.id}")["decision"]["id"] == one.id
            running.process.send_signal(signal.SIGTERM)
            status, said = running.ended()

        assert transitions(tmp_path) == [
            (1, 0.5, f"[{now + 100}.0]", "next_act"),
            (3, 1.5, None, "episode_end"),
            (5, 0.0, None, "timeout"),
        ]
        assert (told["store"], told["reachable"]) == ("sqlite", True)
        assert told["journal"]["accepted"] == told["journal"]["delivered"] == 6
        assert told["joiner"]["transitions"] == {"next_act": 1, "episode_end": 1, "timeout": 1}
        assert [page.generation for page in pages] == [1, 1]
        assert (status, "Traceback" in said) == (0, False)
        pen.close()

    def test_the_supervisors_end_ships_the_rest_and_ends_it(self, tmp_path: Path) -> None:
        """Standard input ends: what is in the journal is shipped, the status is 0. An interrupt is not for it."""
        pen = Pen(1, tmp_path / "journal")
        pen.introduce(1)
        with agent(tmp_path, "--supervised") as running:
            running.admin()
            running.process.send_signal(signal.SIGINT)
            for ms in range(2, 1500):
                pen.beat(ms)
            assert running.process.stdin is not None
            running.process.stdin.close()
            running.process.stdin = None
            assert running.ended()[0] == 0
        db = sqlite3.connect(tmp_path / "store.sqlite")
        rows = db.execute("SELECT count(*), max(seq) FROM records").fetchone()
        db.close()

        assert rows == (1499, 1499)
        pen.close()

    def test_kills_at_random_moments_change_nothing(self, tmp_path: Path) -> None:
        """An agent killed again and again leaves each record, and each transition, once and in order."""
        pen = Pen(1, tmp_path / "journal")
        for round_ in range(2):
            for n in range(400):
                ms = 10_000 * round_ + n
                pen.feedback(ms, pen.decision(ms, session=str(n)), 1.0, terminated=True)
            with agent(tmp_path) as running:
                running.admin()
                time.sleep(0.03 * round_)
        with agent(tmp_path) as running:
            running.admin()
            eventually(lambda: len(transitions(tmp_path)) >= 800)

        assert [row[0] for row in transitions(tmp_path)] == list(range(1, 1600, 2))
        pen.close()


class TestRedis:
    """With REDIS_URL."""

    def test_a_consumer_reads_transitions_with_xread(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """Redis is not there at first, which is no error: nothing is lost, and nothing risky is allowed meanwhile."""
        redis_server.kill()
        pen = Pen(1, tmp_path / "journal")
        decision = pen.decision(1000)
        pen.feedback(1001, decision, 0.5, terminated=True)
        with agent(tmp_path, url=redis_server.url) as running:
            url = running.admin()
            assert running.get(f"{url}/ledger")["reachable"] is False
            page = eventually(lambda: read_page(tmp_path / "state" / "agent.page"))
            assert (page.heartbeat, page.failing.startswith("ship: ")) == (0, True)
            redis_server.start()
            with redis_server.client() as client:
                found: Any = eventually(lambda: client.xread({"actd:{svc}:transitions": "0"}, block=1000))
            assert eventually(lambda: page_after(tmp_path, 0)).failing == ""

        ((_, ((_, fields),)),) = found
        assert json.loads(fields[b"transition"])["decision_id"] == decision.id
        pen.close()

    def test_a_store_of_another_deployment_ends_it_with_3(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """One sentence, nothing shipped."""
        pen = Pen(1, tmp_path / "journal")
        pen.beat(1)
        with redis_server.client() as client:
            client.set("actd:{svc}:key", "another")
            with agent(tmp_path, url=redis_server.url) as running:
                status, said = running.ended()
            assert client.keys("*") == [b"actd:{svc}:key"]

        assert status == 3
        assert said.count("\n") == 1
        assert "another" in said
        pen.close()
