"""Resuming: a process that died leaves its sessions to the next one, as they were, or as not known."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import add
from os import utime
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

import msgspec
import numpy as np
import pytest

from export.spec import Box, Field
from guards.baselines import KEPT
from service.api.idempotency import KEPT_S
from service.clock import Clock
from service.decision.sessions import SessionState
from service.log.ids import body_of, body_prefix
from service.log.journal import segments
from service.log.records import Loss, encode_record
from service.recovery.lineage import Instant, Lineage
from service.versions.engine import Engine
from tests import ports
from tests.acting import factors, gaussian
from tests.fakes import NOW
from tests.in_process import Serving, asking
from tests.in_process import serving as served_from

PATIENT: dict[str, Any] = {"deadline_ms": 20_000}
NEVER_OPENS = {"consecutive": 10_000, "minimum": 10_000}
VALVE = Box(fields=(Field(name="valve", low=-2, high=2),))
STATEFUL: list[dict[str, Any]] = [
    {"kind": "budget", "name": "spent", "cost": "cpu if action == 'scale_up' else 0.1", "at_most": 2, "seconds": 9},
    {"kind": "max_switches", "name": "switched", "at_most": 2, "seconds": 4},
    {"kind": "rate_limit", "name": "moved", "per_second": 1.2, "effect": {"scale_up": 1.0, "scale_down": -1.0}},
    {"kind": "cooldown", "name": "rests", "actions": ["scale_down"], "seconds": 7},
    {"kind": "rule", "name": "not twice", "forbid": "action == 'scale_up' and action == previous_action and cpu < 0.2"},
]
OVER_FACTORS: list[dict[str, Any]] = [
    {"kind": "budget", "name": "spent", "cost": "1 if pump == 'on' else 0", "at_most": 3, "seconds": 9},
    {
        "kind": "rate_limit",
        "name": "moved",
        "per_second": 0.9,
        "levels": {f"fan={n}": i for i, n in enumerate(("still", "slow", "fast", "storm"))},
    },
    {"kind": "cooldown", "name": "rests", "actions": ["valve=open"], "seconds": 7},
    {"kind": "max_switches", "name": "switched", "at_most": 2, "seconds": 4},
]
OVER_NUMBERS: list[dict[str, Any]] = [
    {"kind": "rate_limit", "name": "moved", "of": "valve", "per_second": 0.4},
    {"kind": "rule", "name": "kept", "forbid": "valve > 0.2 and queue > 0.4 or queue > 0.9"},
]
PID = {"kind": "pid", "of": "cpu / fade", "target": 0.4, "kp": 0.9, "ki": 0.3, "kd": 0.1, "last_resort": [0.0]}
HOLD = {"kind": "constant", "action": "hold", "last_resort": "hold"}
IDLE = {"kind": "constant", "action": [0, 0, 0], "last_resort": [0, 0, 0]}
# A service for each way to act, to remember and to tell the time.
WORLDS: dict[str, dict[str, Any]] = {
    "a list": {"constraints": STATEFUL, "baseline": HOLD, "explore": {"kind": "epsilon_greedy", "epsilon": 0.7}},
    "a list by the caller's clock": {"constraints": STATEFUL, "baseline": HOLD, "guard_clock": "observed_at"},
    "factors": {"artefact": factors(), "constraints": OVER_FACTORS, "baseline": IDLE, "guard_clock": "observed_at"},
    "numbers": {
        "artefact": gaussian(VALVE),
        "constraints": OVER_NUMBERS,
        "baseline": PID,
        "facts": ["fade"],
        "guard_clock": "observed_at",
        "explore": {"kind": "gaussian"},
    },
    "a memory": {"artefact": ports.recurrent(), "constraints": STATEFUL[3:], "baseline": HOLD},
    "a mask": {"artefact": ports.masked(), "constraints": STATEFUL[:2], "baseline": HOLD},
}
SESSIONS = tuple("abcdefgh")


@contextmanager
def serving(
    folder: Path, artefact: bytes | None = None, *, behind: float = 0.0, boot: str = "", **settings: Any
) -> Iterator[Serving]:
    """Serve with a clock that is so far (s) behind; after the machine was started again, where a ``boot`` is named.

    Requests have time, unless their ``limits`` say otherwise: on a busy machine the policy would be too late, and the
    baseline holds, as who has to rest does.
    """
    clock, settings = Clock(lambda: time.time() - behind), {"limits": PATIENT, **settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.application.Instant", Started(boot))
        with served_from(folder, artefact, clock, **settings) as served:
            yield served


class Started:
    """The instant of a machine that was started again, where a boot is named."""

    def __init__(self, boot: str) -> None:
        self._boot = boot

    def now(self, wall: Callable[[], float]) -> Instant:
        now = Instant.now(wall)
        return msgspec.structs.replace(now, boot=self._boot) if self._boot else now


class Walk:
    """Controllers that begin, go on, go back, end episodes and are late, at random; ``told`` has their decisions."""

    def __init__(self, seed: int, **world: Any) -> None:
        self.random = Random(seed)  # noqa: S311 - a test that repeats itself
        self.timed, self.fades = world.get("guard_clock") == "observed_at", "facts" in world
        self.told: dict[str, list[str]] = {name: [] for name in SESSIONS}
        self.step = 0

    def request(self, name: str) -> dict[str, object]:
        random, last = self.random, self.told[name]
        told: dict[str, Any] = {"deadline_ms": random.choice((20_000, 20_000, 1e-6))}
        chance = random.random()
        if not last or chance < 0.1:
            told["previous"] = None
        elif chance < 0.6:
            told["previous"] = random.choice(last[-5:]) if chance < 0.3 else last[-1]
        if last and random.random() < 0.1:
            told["feedback"] = {random.choice(("terminated", "truncated")): True}
        if self.timed:
            told["observed_at"] = NOW + self.step * 0.7
        if self.fades and random.random() < 0.9:
            told["facts"] = {"fade": 0.5}
        return asking(name, [random.random(), random.random(), 3.0], **told)

    async def go(self, served: Serving, steps: int) -> None:
        served.permit()
        for _ in range(steps):
            self.step += 1
            names = self.random.sample(SESSIONS, self.random.randrange(1, 4))
            replies = (await served.post("/act/batch", {"requests": [self.request(one) for one in names]})).json()
            for name, reply in zip(names, replies["decisions"], strict=True):
                if "decision_id" in reply:
                    self.told[name].append(reply["decision_id"])
            some = self.told[self.random.choice(SESSIONS)]
            if some and self.random.random() < 0.1:
                await served.post("/feedback", {"decision_id": self.random.choice(some[-2:]), "terminated": True})


def states(served: Serving) -> dict[str, tuple[SessionState, ...]]:
    """The last states of all sessions."""
    return {name: served.application.sessions._of(name) for name in SESSIONS}


def assert_same(
    found: dict[str, tuple[SessionState, ...]], expected: dict[str, tuple[SessionState, ...]], engine: Engine
) -> None:
    """All of it to the bit, but memories, which a policy was run for once more, within its tolerance."""
    assert found.keys() == expected.keys()
    for name, whole in expected.items():
        pairs = list(zip(found[name], whole, strict=True))
        assert [bare(one) for one, _ in pairs] == [bare(other) for _, other in pairs]
        for one, other in pairs:
            assert (one.memory is None) == (other.memory is None)
            if one.memory is not None and other.memory is not None:
                assert one.memory.digest == other.memory.digest == engine.digest
                for a, b in zip(one.memory.values, other.memory.values, strict=True):
                    assert (a.dtype, a.shape) == (b.dtype, b.shape)
                    assert np.allclose(a, b, rtol=0, atol=1e-6)


def bare(state: SessionState) -> SessionState:
    """A state without its memory."""
    return msgspec.structs.replace(state, memory=None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("world", WORLDS)
async def test_sessions_are_as_the_dead_process_had_them(tmp_path: Path, world: str, seed: int) -> None:
    """Histories, episodes, memories, those decisions that one may step back to, and the episodes that have ended; over
    three processes, where sessions are asked for and where nobody does."""
    told = {"limits": PATIENT, "breaker": NEVER_OPENS, **WORLDS[world]}
    walk = Walk(seed, **told)
    with serving(tmp_path, **told) as first:
        await walk.go(first, 60)
        before, ended = states(first), [*first.application.sessions._ended]
        assert sum(map(len, before.values())) > len(SESSIONS)
    with serving(tmp_path, **told) as second:
        sessions, resumed = second.application.sessions, second.application.resumed
        assert resumed.summary() == {"sessions": len([one for one in before.values() if one]), "incomplete": None}
        assert_same(states(second), before, second.application.engine)
        assert [*sessions._ended] == ended
        await walk.go(second, 25)
        before, ended = states(second), [*sessions._ended]
    with serving(tmp_path, **told) as third:
        while third.application.resumed.retained.build(3):
            pass
        assert_same(states(third), before, third.application.engine)
        assert [*third.application.sessions._ended] == ended
        await walk.go(third, 10)
        decisions = third.decisions()

    assert {name for name, whole in before.items() if whole} == set(SESSIONS)
    if world == "numbers":
        assert any(KEPT in state.history.kept for whole in before.values() for state in whole)
    if world == "a memory":
        assert any(state.memory is not None for whole in before.values() for state in whole)
    assert any(decision.state.known and decision.step for decision in decisions)


UP = {"cpu": 1.0, "queue": 0.0, "replicas": 3.0}
QUIET = {"cpu": 0.0, "queue": 0.0, "replicas": 3.0}
COOLDOWN: list[dict[str, Any]] = [{"kind": "cooldown", "name": "rests", "actions": ["scale_down"], "seconds": 60}]


async def names(served: Serving, *sessions: str, **told: Any) -> list[str]:
    """What the sessions are told to do where little is going on: to scale down, unless that has to rest."""
    replies = [await served.act(name, QUIET, **told) for name in sessions]
    return [reply.json()["action_name"] for reply in replies]


async def test_a_cooldown_goes_on_over_a_restart_and_no_other_is_in_its_worst_state(tmp_path: Path) -> None:
    """The issue's example: who has scaled down rests, who has not may."""
    with serving(tmp_path, constraints=COOLDOWN) as served:
        await names(served, "down", previous=None)
        await served.act("up", UP, previous=None)
    with serving(tmp_path, constraints=COOLDOWN) as served:
        found = await names(served, "down", "up", "new")
        known = [(decision.session, decision.state.known, decision.step) for decision in served.decisions()]

    assert found == ["hold", "scale_down", "hold"]
    assert known == [("down", True, 1), ("up", True, 1), ("new", False, None)]


async def test_the_report_says_what_was_taken_over(tmp_path: Path) -> None:
    """How many sessions, from how many records, and what was not; so do readiness and the metrics."""
    with serving(tmp_path) as served:
        for name in "abc":
            await served.act(name, previous=None)
    with serving(tmp_path) as served:
        report = (await served.get("/report")).json()["resumed"]
        ready = (await served.get("/ready")).json()["resumed"]
        metrics = (await served.get("/metrics")).body.decode()

    seconds = report.pop("seconds")
    assert 0 <= seconds < 5
    told = {"sessions": 3, "incomplete": None, "records": 4, "request_ids": 0, "memories_lost": 0, "unreadable": 0}
    assert report == told
    assert ready == {"sessions": 3, "incomplete": None}
    assert "actd_sessions_resumed" in metrics


class TestDamage:
    """Behind what is damaged or missing there may have been a decision of any session."""

    @staticmethod
    async def after(folder: Path, harm: Callable[[list[Path]], object], **first: Any) -> tuple[list[str], str]:
        """What the sessions a to f may do after harm was done to the log that has a decision of each in order, twice
        two processes; and what is said of it."""
        settings = {"constraints": COOLDOWN, **first}
        with serving(folder, **settings) as served:
            for name in "abc":
                await served.act(name, UP, previous=None)
        with serving(folder, **settings) as served:
            for name in "def":
                await served.act(name, UP, previous=None)
        order = [one.writer for one in Lineage(folder / "data").ancestors]
        harm([segments(folder / "data" / "journal" / writer)[0] for writer in reversed(order)])
        with serving(folder, **settings) as served:
            said = served.application.resumed.why
            return await names(served, *"abcdef"), said

    async def test_where_nothing_is_damaged_all_are_known(self, tmp_path: Path) -> None:
        """Or what follows would say nothing."""
        assert await self.after(tmp_path, lambda _: None) == (["scale_down"] * 6, "")

    async def test_a_damaged_line_hides_what_is_before_it(self, tmp_path: Path) -> None:
        """One bit of e's decision: f is known, e and all before are not."""

        def harm(logs: list[Path]) -> None:
            data = bytearray(logs[1].read_bytes())
            data[data.index(b'"session":"e"') + 11] ^= 1
            logs[1].write_bytes(data)

        found, said = await self.after(tmp_path, harm)
        assert found == ["hold"] * 5 + ["scale_down"]
        assert "is damaged before byte" in said

    async def test_a_missing_line_hides_what_is_before_it(self, tmp_path: Path) -> None:
        """It is cut out of the first of the two logs; the other is whole."""

        def harm(logs: list[Path]) -> None:
            lines = logs[0].read_bytes().splitlines(keepends=True)
            logs[0].write_bytes(b"".join(lines[:2] + lines[3:]))

        found, said = await self.after(tmp_path, harm)
        assert found == ["hold", "hold"] + ["scale_down"] * 4
        assert "records 3 to 3 are missing" in said

    async def test_a_missing_log_hides_all_that_is_before_it(self, tmp_path: Path) -> None:
        """The last process's folder, its segment, or all of its lines are gone: that of the one before is no use."""
        folder = tmp_path / "a"
        found, said = await self.after(folder, lambda logs: rmtree(logs[1].parent))
        assert found == ["hold"] * 6
        assert "is not there any more" in said
        harms: list[Callable[[list[Path]], object]] = [
            lambda logs: logs[1].rename(logs[1].with_suffix(".gone")),
            lambda logs: logs[1].write_bytes(b""),
        ]
        for i, harm in enumerate(harms):
            found, said = await self.after(tmp_path / f"{i}", harm)
            assert found == ["hold"] * 6
            assert "its log is empty" in said

    async def test_a_log_without_its_beginning_hides_what_is_before_it(self, tmp_path: Path) -> None:
        """Retention has deleted the oldest segments, and older writers may have decided in between."""

        def harm(logs: list[Path]) -> None:
            lines = logs[1].read_bytes().splitlines(keepends=True)
            logs[1].with_name(f"{3:020d}.log").write_bytes(b"".join(lines[2:]))
            logs[1].unlink()

        found, said = await self.after(tmp_path, harm)
        assert found == ["hold"] * 4 + ["scale_down"] * 2
        assert "records 1 to 2 are not there any more" in said

    async def test_a_loss_on_the_record_hides_what_is_before_it(self, tmp_path: Path) -> None:
        """It does not say whose decisions were lost."""
        with serving(tmp_path, constraints=COOLDOWN) as served:
            journal = served.application.journal
            await served.act("a", UP, previous=None)
            lost = Loss(seq=journal.next_seq, ms=journal.last_ms, count=1, cause="test")
            journal.append([encode_record(lost)], lost.ms)
            await served.act("b", UP, previous=None)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            assert await names(served, "a", "b") == ["hold", "scale_down"]
            assert "tells of a loss" in served.application.resumed.why

    async def test_an_unfinished_last_line_hides_nothing(self, tmp_path: Path) -> None:
        """The process died while it wrote it, before anybody was answered."""

        def harm(logs: list[Path]) -> None:
            for log in logs:
                with log.open("ab") as file:
                    file.write(b'00000000 {"kind":"decision"')

        assert await self.after(tmp_path, harm) == (["scale_down"] * 6, "")

    async def test_what_was_cut_off_after_an_end_in_order_is_missed(self, tmp_path: Path) -> None:
        """A process that was told to stop has said where its log ends."""
        with serving(tmp_path, constraints=COOLDOWN) as served:
            async with served.application.alive():
                for name in "ab":
                    await served.act(name, UP, previous=None)
            (log,) = segments(served.application.journal.folder)
        whole = log.read_bytes()
        with serving(tmp_path, constraints=COOLDOWN) as served:
            assert await names(served, "a", "b") == ["scale_down"] * 2
        log.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
        with serving(tmp_path, constraints=COOLDOWN) as served:
            assert "records 3 to 3 are missing" in served.application.resumed.why

    async def test_a_machine_that_went_down_may_have_lost_the_end(self, tmp_path: Path) -> None:
        """Not where the disk was promised, nor where the process ended in order; a clock set back hides all."""
        found = {}
        for durability in ("journal", "disk"):
            for ends in (False, True):
                for later in (0.0, -3600.0):
                    folder = tmp_path / f"{durability} {ends} {later}"
                    settings: dict[str, Any] = {"constraints": COOLDOWN, "durability": durability}
                    with serving(folder, **settings) as served:
                        await served.act("a", UP, previous=None)
                        await served.application.committer.settled()
                        if ends:
                            async with served.application.alive():
                                pass
                    with serving(folder, boot="another", behind=-later, **settings) as served:
                        found[durability, ends, later] = await names(served, "a") == ["scale_down"]

        assert found == {(d, e, by): by == 0 and (d == "disk" or e) for d, e, by in found}

    async def test_a_writer_that_still_lives_keeps_its_sessions(self, tmp_path: Path) -> None:
        """What it decides next is not known here; the sessions of the one before it are."""
        with serving(tmp_path, constraints=COOLDOWN) as served:
            for name in "ab":
                await served.act(name, UP, previous=None)
        with serving(tmp_path, constraints=COOLDOWN) as living:
            await living.act("b", UP)
            with serving(tmp_path, constraints=COOLDOWN) as served:
                assert await names(served, "a", "b") == ["scale_down", "hold"]

    async def test_logs_that_have_no_place_in_the_lineage(self, tmp_path: Path) -> None:
        """What a writer decided nobody knows when is no use, nor what it had been before; a copy changes nothing."""
        writers = tmp_path / "data" / "state" / "writers"
        with serving(tmp_path, constraints=COOLDOWN) as served:
            for name in "ab":
                await served.act(name, UP, previous=None)
            first, saved = served.application.journal.folder, writers.read_bytes()
        with serving(tmp_path, constraints=COOLDOWN) as served:
            await served.act("b", UP)
        copy = first.with_name("0" * 16)
        copy.mkdir()
        (copy / "lock").write_bytes(b"")
        (copy / segments(first)[0].name).write_bytes(segments(first)[0].read_bytes())
        writers.write_bytes(saved)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            assert await names(served, "a", "b") == ["scale_down", "hold"]
        for text in (b"", b"00000000 []\n", None):
            if text is None:
                writers.unlink()
            else:
                writers.write_bytes(text)
            with serving(tmp_path, constraints=COOLDOWN) as served:
                assert served.application.resumed.summary() == {
                    "sessions": 0,
                    "incomplete": "the order of its writers is not known",
                }

    async def test_a_line_that_is_not_what_it_was_is_not_gone_on_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the search and the question the file was changed: the session is not known, and it is counted."""
        monkeypatch.setattr("service.log.readback._SMALL", 0)  # a small segment would be held in memory
        with serving(tmp_path, constraints=COOLDOWN) as served:
            for name in "abc":
                await served.act(name, UP, previous=None)
            (log,) = segments(served.application.journal.folder)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            whole = log.read_bytes()
            harmed = whole.replace(b'"session":"a"', b'"session":"x"')
            log.write_bytes(harmed[: harmed.index(b'"session":"c"')])
            assert await names(served, "a", "b", "c") == ["hold", "scale_down", "hold"]
            assert served.application.resumed.to_json()["unreadable"] == 2

    async def test_what_cannot_be_worked_out_is_not_known(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A record that is one and makes no sense costs its own session its history, and nobody an answer."""
        budget = {"kind": "budget", "name": "spent", "cost": "queue", "at_most": 2, "seconds": 9}
        constraints = [*COOLDOWN, budget]
        with serving(tmp_path, constraints=constraints) as served:
            journal = served.application.journal
            await served.act("a", UP, previous=None)
            (decision,) = served.decisions()
            body = body_of(body_prefix(served.application.keyring.current, journal.writer), decision.ms, 3, "stable")
            odd = msgspec.structs.replace(
                decision, seq=3, id=served.application.keyring.current.token(body), session="odd", observation=[1.0]
            )
            journal.append([encode_record(odd)], odd.ms)
            await served.act("b", UP, previous=None)
        with serving(tmp_path, constraints=constraints) as served:
            assert not served.application.resumed.retained.build(8)
            assert await names(served, "a", "odd", "b") == ["scale_down", "hold", "scale_down"]
            assert served.application.resumed.to_json()["unreadable"] == 1
        assert "its history is not known" in caplog.text

    async def test_a_folder_that_cannot_be_read_hides_what_is_before_it(self, tmp_path: Path) -> None:
        """It does not keep the service from starting."""

        def harm(logs: list[Path]) -> None:
            lock = logs[1].parent / "lock"
            lock.unlink()
            lock.mkdir()

        found, said = await self.after(tmp_path, harm)
        assert found == ["hold"] * 6
        assert "cannot be read (Is a directory)" in said


class TestAnotherConfiguration:
    """What constraints remembered means something where they are the same."""

    @staticmethod
    async def known(folder: Path, **changed: Any) -> tuple[bool, dict[str, tuple[float, ...]]]:
        """Whether a session is known to a process with some of the configuration changed, and what is kept of it."""
        baseline = {"kind": "pid", "of": "queue", "target": 5.0, "ki": -0.01, "last_resort": "hold"}
        baseline["effect"] = {"scale_up": 1, "scale_down": -1, "hold": 0}
        told: dict[str, Any] = {"constraints": STATEFUL, "baseline": baseline}
        with serving(folder, **told) as served:
            for i in range(4):
                await served.act("s", **({} if i else {"previous": None}))
        with serving(folder, **{**told, **changed}) as served:
            state = served.application.sessions.remembered("s", time.time())
            return state.history.known, dict(state.history.kept)

    async def test_what_does_not_remember_may_change(self, tmp_path: Path) -> None:
        """A rule, the explorer, the deadline; a constraint that is gone is not kept for."""
        rules = [*STATEFUL[:4], {"kind": "rule", "name": "new", "forbid": "cpu > 2"}]
        assert (await self.known(tmp_path / "a", constraints=rules))[0]
        assert (await self.known(tmp_path / "b", explore={"kind": "softmax", "temperature": 1.0}))[0]
        known, kept = await self.known(tmp_path / "c", constraints=STATEFUL[2:])
        assert known
        assert "spent" not in kept

    async def test_what_remembers_may_not(self, tmp_path: Path) -> None:
        """Another window, another set of actions, a new one, another clock: the session is in its worst state."""
        longer = [*STATEFUL[:3], {**STATEFUL[3], "seconds": 8}]
        wider = [*STATEFUL[:3], {**STATEFUL[3], "actions": ["scale_up"]}]
        more = [*STATEFUL, {**STATEFUL[3], "name": "another"}]
        for name, constraints in (("a", longer), ("b", wider), ("c", more)):
            assert (await self.known(tmp_path / name, constraints=constraints))[0] is False
        assert (await self.known(tmp_path / "d", guard_clock="observed_at"))[0] is False

    async def test_what_was_decided_meanwhile_under_others_counts(self, tmp_path: Path) -> None:
        """Back under the first constraints, a session is known where nothing was decided under the others."""
        longer = [{**COOLDOWN[0], "seconds": 61}]
        with serving(tmp_path, constraints=COOLDOWN) as served:
            for name in "ab":
                await served.act(name, UP, previous=None)
        with serving(tmp_path, constraints=longer) as served:
            assert await names(served, "b") == ["hold"]
        with serving(tmp_path, constraints=COOLDOWN) as served:
            assert await names(served, "a", "b") == ["scale_down", "hold"]

    async def test_another_baseline_begins_anew(self, tmp_path: Path) -> None:
        """What constraints keep goes on."""
        known, kept = await self.known(tmp_path / "a")
        other = {"kind": "pid", "of": "queue", "target": 4.0, "ki": -0.01, "last_resort": "hold"}
        other["effect"] = {"scale_up": 1, "scale_down": -1, "hold": 0}
        changed = await self.known(tmp_path / "b", baseline=other)

        assert known
        assert KEPT in kept
        assert changed[0]
        assert changed[1].keys() == kept.keys()

    async def test_another_version_has_no_memory(self, tmp_path: Path) -> None:
        """The history is the session's, the memory the version's; it says that it has lost it."""
        with serving(tmp_path, ports.recurrent(), limits=PATIENT) as served:
            await served.act("s", previous=None)
        with serving(tmp_path, ports.recurrent(version="2"), limits=PATIENT) as served:
            reply = (await served.act("s")).json()
            assert (reply["source"], reply["reason"]) == ("baseline", "HistoryUnknown")
            assert served.decisions()[0].state.known
            assert served.application.resumed.to_json()["memories_lost"] == 1


class TestRequestIds:
    """Who asks again after a restart has the answer that it would have had."""

    async def test_the_same_body_has_the_same_decision(self, tmp_path: Path) -> None:
        """To the byte, once in the log; alone, in a batch, and by the baseline."""
        asked = [asking("s", request_id="r", previous=None), asking("t", request_id="r", deadline_ms=1e-6)]
        with serving(tmp_path) as served:
            before = [await served.post("/act", one) for one in asked]
        with serving(tmp_path) as served:
            after = [await served.post("/act", one) for one in asked]
            again = (await served.post("/act/batch", {"requests": asked})).json()["decisions"]
            assert served.decisions() == []
            assert served.application.resumed.to_json()["request_ids"] == 2

        assert [one.body for one in after] == [one.body for one in before]
        assert again == [one.json() for one in before]

    async def test_another_body_is_a_conflict(self, tmp_path: Path) -> None:
        """And another session's request id is its own, and so is a new one."""
        with serving(tmp_path) as served:
            first = (await served.act("s", request_id="r", previous=None)).json()
        with serving(tmp_path) as served:
            other = await served.act("s", QUIET, request_id="r", previous=None)
            elsewhere = (await served.act("t", request_id="r", previous=None)).json()
            new = (await served.act("s", request_id="q", previous=None)).json()

        assert (other.status, other.error["code"]) == (409, "conflict")
        assert len({one["decision_id"] for one in (first, elsewhere, new)}) == 3

    async def test_a_request_id_holds_for_a_minute_of_both_processes(self, tmp_path: Path) -> None:
        """What was decided 50 s before is the same for 10 s more, what was 70 s before for none."""
        found = {}
        for ago in (50.0, 70.0):
            folder = tmp_path / str(ago)
            with serving(folder, behind=ago, durability="disk") as served:
                first = (await served.act("s", request_id="r")).json()["decision_id"]
                (log,) = segments(served.application.journal.folder)
            utime(log, (time.time() - ago,) * 2)
            with serving(folder, boot="another", durability="disk") as served:
                again = (await served.act("s", request_id="r")).json()["decision_id"]
                served.application.endpoint._clock = partial(add, 11.0, served.application.endpoint._clock())
                later = (await served.act("s", request_id="r")).json()["decision_id"]
                found[ago, "again"], found[ago, "later"] = first == again, first == later

        assert KEPT_S == 60
        assert found == {(50.0, "again"): True, (50.0, "later"): False, (70.0, "again"): False, (70.0, "later"): False}


class TestBounds:
    """There is no time and no room for everything."""

    async def test_no_more_sessions_than_there_may_be(self, tmp_path: Path) -> None:
        """Those used last are known, and leave first when new ones come."""
        limits = {**PATIENT, "sessions": 3}
        with serving(tmp_path, limits=limits) as served:
            for name in "abcdec":
                await served.act(name, previous=None)
        with serving(tmp_path, limits=limits) as served:
            sessions = served.application.sessions
            assert len(sessions) == 3
            assert (served.application.resumed.found, served.application.resumed.why) == (3, "")
            await served.act("new", previous=None)
            assert len(sessions) == 3
            assert [bool(sessions._of(name)) for name in "abdec"] == [False, False, False, True, True]

    async def test_what_there_is_no_time_for_is_not_known_and_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By work, by time, and by size."""
        monkeypatch.setattr("service.recovery.search._CHECK_EVERY", 4)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            for i in range(20):
                await served.act(f"s{i}", UP, previous=None)
        for name in ("WORK_S", "READ_S", "READ_BYTES"):
            with monkeypatch.context() as bounded:
                bounded.setattr(f"service.recovery.search.{name}", -1)
                with serving(tmp_path, constraints=COOLDOWN) as served:
                    assert served.application.resumed.found == 0
                    assert "there was no time for more than" in served.application.resumed.why
        assert "is not known" in caplog.text

    async def test_a_slow_policy_is_run_at_start_for_what_it_remembers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where there is no time for that, the memory is lost, and it says so."""
        told: dict[str, Any] = {"artefact": ports.recurrent(), "limits": PATIENT}
        with serving(tmp_path, **told) as served:
            for name in "ab":
                await served.act(name, previous=None)
        monkeypatch.setattr("service.versions.engine.INLINE_BUDGET_S", 0.0)
        with serving(tmp_path, **told) as served:
            assert not served.application.engine.inline
            assert len(served.application.resumed.retained._built) == 2
            await served.act("a")
        monkeypatch.setattr("service.recovery.resume.REPLAY_S", -1.0)
        with serving(tmp_path, **told) as served:
            reply = (await served.act("b")).json()
            assert reply["reason"] == "HistoryUnknown"
            assert served.application.resumed.to_json()["memories_lost"] == 1

    async def test_nothing_is_held_open_in_the_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sessions are worked out while it serves, and then the logs are let go of."""
        monkeypatch.setattr("service.log.readback._SMALL", 0)
        monkeypatch.setattr("service.recovery.resume.KEPT_S", 0.0)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            for i in range(30):
                await served.act(f"s{i}", QUIET, previous=None)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            archive = served.application.resumed.reader._archive
            assert len(archive._segments) == 1
            async with served.application.alive():
                async with asyncio.timeout(20):
                    while archive._segments:  # noqa: ASYNC110 - nobody is told
                        await asyncio.sleep(0.01)
            assert len(served.application.sessions) == 30
            assert await names(served, "s0", "s29") == ["hold", "hold"]
            assert all(decision.state.known for decision in served.decisions())


class TestClocks:
    """A cooldown takes as long as it takes, whatever was done to the clock between two processes."""

    @pytest.mark.parametrize("behind", [3600.0, -3600.0, 0.0])
    async def test_a_clock_that_was_set_changes_no_cooldown(self, tmp_path: Path, behind: float) -> None:
        """Forward, back, or not: what was done a moment ago was done a moment ago."""
        with serving(tmp_path, constraints=COOLDOWN, behind=behind) as served:
            await names(served, "s", previous=None)
        with serving(tmp_path, constraints=COOLDOWN) as served:
            (down,) = served.application.sessions._of("s")
            assert await names(served, "s") == ["hold"]
            (decision,) = served.decisions()

        assert down.history.known
        assert [abs(at - time.time()) < 10 for at in (down.history.since, *down.history.used.values())] == [True] * 2
        assert 0 <= decision.at - max(decision.state.used.values()) < 10

    @pytest.mark.parametrize("step", [3600.0, -3600.0, 86400.0 * 365])
    async def test_f99_a_clock_that_was_set_while_a_process_served_changes_no_cooldown(
        self, tmp_path: Path, step: float
    ) -> None:
        """Its own time did not go after it, the next process begins from it: between the two it is translated."""
        set_by = [0.0]
        with served_from(tmp_path, None, Clock(lambda: time.time() + set_by[0]), constraints=COOLDOWN) as served:
            await names(served, "s", previous=None)
            set_by[0] = step
            await served.act("t")
        with served_from(tmp_path, None, Clock(lambda: time.time() + step), constraints=COOLDOWN) as served:
            (up,) = served.application.sessions._of("s")
            assert await names(served, "s") == ["hold"]
            (decision,) = served.decisions()

        assert up.history.known
        assert all(abs(at - time.time() - step) < 10 for at in (up.history.since, *up.history.used.values()))
        assert abs(decision.at - time.time() - step) < 10

    @pytest.mark.parametrize("step", [3600.0, 60.0, -3600.0])
    async def test_f99_after_another_boot_nothing_is_longer_ago_than_it_is(self, tmp_path: Path, step: float) -> None:
        """The machine's clock is set while a process serves and has said its last, and then the machine goes down."""
        with serving(tmp_path, constraints=COOLDOWN) as served:
            async with served.application.alive():
                await names(served, "s", previous=None)
            (log,) = segments(served.application.journal.folder)
        utime(log, (time.time() + step,) * 2)
        with serving(tmp_path, boot="another", behind=-step, constraints=COOLDOWN) as served:
            assert await names(served, "s") == ["hold"]
            why = served.application.resumed.why

        assert ("behind the machine's" if step > 0 else "of a time to come") in why

    async def test_all_that_constraints_keep_is_of_the_new_clock(self, tmp_path: Path) -> None:
        """Times move by what the clock was set, amounts do not; a baseline's memory begins anew."""
        told: dict[str, Any] = {"constraints": STATEFUL, "explore": {"kind": "epsilon_greedy", "epsilon": 0.9}}
        with serving(tmp_path, behind=3600.0, **told) as served:
            served.permit()
            for i in range(6):
                await served.act("s", **({} if i else {"previous": None}))
            before = served.application.sessions._of("s")[-1].history
        with serving(tmp_path, **told) as served:
            after = served.application.sessions._of("s")[-1].history

        moved = {name: np.subtract(after.kept[name], kept) for name, kept in before.kept.items()}
        assert {name: sorted(Counter(np.round(by).tolist())) for name, by in moved.items()} == {
            name: [0.0, 3600.0] if name == "spent" else [3600.0] for name in before.kept
        }
        assert (after.step, after.action) == (before.step, before.action)

    async def test_the_caller_s_clock_is_not_ours(self, tmp_path: Path) -> None:
        """Times that the caller told are gone on from as they are."""
        told: dict[str, Any] = {"constraints": COOLDOWN, "guard_clock": "observed_at"}
        with serving(tmp_path, behind=3600.0, **told) as served:
            await names(served, "s", previous=None, observed_at=100.0)
        with serving(tmp_path, **told) as served:
            assert await names(served, "s", observed_at=159.0) == ["hold"]
            assert await names(served, "s", observed_at=161.0) == ["scale_down"]
