"""Replicas whose clocks differ, and clocks that are set: waits end when they are over, and transitions go on."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from service.agent.joining import Joining
from service.agent.pace import APART_MS, STEADY_S
from service.agent.stores import START, Entry, Position
from service.agent.stores.sqlite import SqliteStore
from service.config import Rewards
from service.log.records import Decision, Transition, encode_record
from tests.service.agent.consumers import transitions
from tests.service.agent.pens import KEYRING, Pen

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
BEGAN_MS = 1_700_000_000_000
REWARDS = Rewards(wait_seconds=10.0, default=-7.0)
# After the wait: for writers that are not in the store yet, and two seconds of this test's steps.
SOON_S = 5
# Until it is known by which clock a writer goes, and then the wait.
KNOWN_S = int(2 * STEADY_S)


class Host:
    """A writer and its clock, which is ``ahead_ms`` of the true time; it beats each second while it is ``alive``.

    Its agent ships at once what it wrote, while it has ``reached`` the store.
    """

    def __init__(self, name: int, ahead_ms: int = 0) -> None:
        self.pen = Pen(name)
        self.ahead_ms = ahead_ms
        self.alive = True
        self.reached = True
        self.shipped = 0


class World:
    """Hosts, their store and one joiner, over which true time passes second by second."""

    def __init__(self, store: SqliteStore, *hosts: Host) -> None:
        self.store = store
        self.hosts = list(hosts)
        self.now = 0
        self.anew()

    def anew(self) -> None:
        """Another agent's joiner takes over, which has seen nothing."""
        # Since another moment: nobody's monotonic clock begins when another's does.
        began = Random(len(self.hosts) + self.now).uniform(0, 1e6)  # noqa: S311 - any
        self.join = Joining(
            self.store,
            rewards=REWARDS,
            place=KEYRING.place,
            monotonic=lambda: began + self.now,
            random=Random(1),  # noqa: S311 - jitter
        )

    def ms(self, host: Host) -> int:
        """What a host's clock says."""
        return BEGAN_MS + self.now * 1000 + host.ahead_ms

    def decide(self, host: Host, session: str, **told: Any) -> Decision:
        """A decision at a host."""
        return host.pen.decision(self.ms(host), session=session, **told)

    def tell(self, host: Host, decision: Decision, reward: float, **told: Any) -> None:
        """What came of a decision, told to a host, which says by its clock whether that is late."""
        place = KEYRING.place(decision.id)
        assert place is not None
        told.setdefault("late", place.ms + REWARDS.wait_seconds * 1000 < self.ms(host))
        host.pen.feedback(self.ms(host), decision, reward, **told)

    async def run(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds):
            self.now += 1
            for host in self.hosts:
                if host.alive:
                    host.pen.beat(self.ms(host))
                if host.reached:
                    await self.ship(host)
            while await self.join.step():
                pass

    async def ship(self, host: Host) -> None:
        """Ship what a host has written; where it lives no more, that too."""
        pen, first = host.pen, host.shipped
        await self.store.register(pen.name)
        entries = [Entry(record.ms, record.seq, encode_record(record)) for record in pen.records[first:]]
        if entries:
            after = Position(pen.records[first - 1].ms, first) if first else START
            await self.store.append(pen.name, after, entries)
            host.shipped = len(pen.records)
        if not host.alive:
            await self.store.close_writer(pen.name)

    async def transition(self, decision: Decision) -> Transition | None:
        """What a decision became; None while it waits."""
        made = [msgspec.json.decode(text, type=Transition) for text in await transitions(self.store)]
        return next((one for one in made if one.decision_id == decision.id), None)

    async def closed(self, decision: Decision) -> tuple[float, bool, str] | None:
        """The same in short: reward, whether it is sure, how it closed."""
        one = await self.transition(decision)
        return None if one is None else (one.reward, one.reward_ok, one.closed_by)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An embedded store."""
    one = SqliteStore(tmp_path / "store.sqlite")
    yield one
    await one.close()


SKEWS = pytest.mark.parametrize(
    "skew",
    [HOUR_MS, -HOUR_MS, YEAR_MS, -2 * APART_MS],
    ids=["an hour ahead", "an hour behind", "a year ahead", "two minutes behind"],
)


@SKEWS
async def test_f99_transitions_of_replicas_with_other_clocks_go_on(store: SqliteStore, skew: int) -> None:
    """Feedback closes decisions of both at once, at its own replica; waits end in time, and nobody claims to know."""
    right, wrong = Host(1), Host(2, skew)
    world = World(store, right, wrong)
    await world.run(KNOWN_S)

    for host in (right, wrong):
        told, silent = world.decide(host, "told"), world.decide(host, "silent")
        await world.run(1)
        world.tell(host, told, 1.5, terminated=True)
        await world.run(2)
        assert await world.closed(told) == (1.5, True, "episode_end")
        await world.run(int(REWARDS.wait_seconds) - 4)
        assert await world.closed(silent) is None
        await world.run(SOON_S)
        assert await world.closed(silent) == (-7.0, False, "timeout")


@SKEWS
async def test_f99_feedback_at_a_replica_with_another_clock_counts_while_the_wait_goes_on(
    store: SqliteStore, skew: int
) -> None:
    """By its clock nobody can say whether it is late; a decision that still waits is not too late for it."""
    right, wrong = Host(1), Host(2, skew)
    world = World(store, right, wrong)
    await world.run(KNOWN_S)

    for here, there in ((right, wrong), (wrong, right)):
        in_time, too_late = world.decide(here, "a"), world.decide(here, "b")
        await world.run(int(REWARDS.wait_seconds) - 3)
        world.tell(there, in_time, 2.5, terminated=True)
        await world.run(2)
        assert await world.closed(in_time) == (2.5, True, "episode_end")
        await world.run(2 + SOON_S)
        world.tell(there, too_late, 2.5, terminated=True)
        await world.run(2)
        assert await world.closed(too_late) == (-7.0, False, "timeout")


@SKEWS
async def test_f99_a_session_that_moves_to_a_replica_with_another_clock_goes_on(store: SqliteStore, skew: int) -> None:
    """Its next decision is the successor of the one before, and what it sees is what was seen next."""
    right, wrong = Host(1), Host(2, skew)
    world = World(store, right, wrong)
    await world.run(KNOWN_S)

    first = world.decide(right, "s")
    await world.run(1)
    world.tell(right, first, 3.0)
    second = world.decide(wrong, "s", previous=first)
    await world.run(2)
    world.tell(wrong, second, 4.0)
    third = world.decide(right, "s", previous=second)
    await world.run(2)

    for decision, reward, successor in ((first, 3.0, second), (second, 4.0, third)):
        made = await world.transition(decision)
        assert made is not None
        assert (made.reward, made.reward_ok, made.next_observation) == (reward, True, successor.observation)
    assert await world.closed(third) is None


@SKEWS
async def test_f99_a_restart_that_takes_the_clock_as_it_is_now_goes_on(store: SqliteStore, skew: int) -> None:
    """What waited when its writer died is told apart from what nobody heard of, and the new one waits for nothing."""
    before, after = Host(1, skew), Host(2)
    world = World(store, before)
    await world.run(KNOWN_S)
    told, silent = world.decide(before, "told"), world.decide(before, "silent")
    await world.run(1)
    before.alive = False
    world.hosts.append(after)
    await world.run(2)
    new = world.decide(after, "new")
    world.tell(after, told, 1.5, terminated=True)
    world.tell(after, new, 2.5, terminated=True)
    await world.run(2)

    assert await world.closed(told) == (1.5, True, "episode_end")
    await world.run(int(REWARDS.wait_seconds) + SOON_S)
    assert await world.closed(silent) == (-7.0, False, "timeout")
    assert await world.closed(new) == (2.5, True, "episode_end")
    later = world.decide(after, "later")
    await world.run(int(REWARDS.wait_seconds) + SOON_S)
    closed = await world.closed(later)
    assert closed == (-7.0, True, "timeout")


@SKEWS
@pytest.mark.parametrize("anew", [False, True], ids=["the joiner goes on", "another joiner begins"])
async def test_f99_a_restart_moments_after_the_start_loses_no_reward(
    store: SqliteStore, skew: int, *, anew: bool
) -> None:
    """Too soon to see which time they tell; but who comes after on one machine knows, and says so: all is as if nobody
    had set the clock."""
    before, after = Host(1), Host(2, skew)
    world = World(store, before)
    before.pen.introduce(world.ms(before))
    told, silent, late, skipped, left = (world.decide(before, one) for one in ("told", "silent", "late", "s", "s"))
    await world.run(2)
    before.alive = False
    world.hosts.append(after)
    after.pen.introduce(world.ms(after), ahead_ms={before.pen.name: skew})
    if anew:
        await world.ship(before)
        await world.ship(after)
        world.anew()
    world.tell(after, told, 1.5, terminated=True, late=False)
    second = world.decide(after, "s", previous=skipped)
    await world.run(2)

    assert await world.closed(told) == (1.5, True, "episode_end")
    world.tell(after, skipped, 2.5, late=False)
    await world.run(int(REWARDS.wait_seconds) - 5)
    assert await world.closed(silent) is None
    await world.run(SOON_S)
    world.tell(after, late, 1.5, terminated=True, late=True)
    await world.run(int(REWARDS.wait_seconds) + SOON_S)
    made = await world.transition(skipped)
    assert made is not None
    assert (made.reward, made.reward_ok, made.next_observation) == (2.5, True, second.observation)
    assert await world.closed(silent) == (-7.0, True, "timeout")
    assert await world.closed(late) == (-7.0, True, "timeout")
    assert await world.closed(left) is None
    assert world.join.ledger().feedback == {"joined": 2, "late": 1}


@SKEWS
async def test_f99_a_joiner_that_begins_anew_says_no_more_than_it_knows(store: SqliteStore, skew: int) -> None:
    """Until it has seen by which clocks they go it claims no default for a fact, and soon transitions go on."""
    right, wrong = Host(1), Host(2, skew)
    world = World(store, right, wrong)
    await world.run(5)
    waiting = [world.decide(host, f"{host.pen.name}") for host in (right, wrong)]
    world.anew()
    await world.run(KNOWN_S + int(REWARDS.wait_seconds) + SOON_S)

    assert [await world.closed(one) for one in waiting] == [(-7.0, False, "timeout")] * 2


async def test_replicas_whose_clocks_differ_by_little_are_sure(store: SqliteStore) -> None:
    """As hosts' clocks do: by seconds. What ran out of time at one is a fact once all have passed it."""
    one, other = Host(1), Host(2, 3_000)
    world = World(store, one, other)
    await world.run(3)
    decisions = [world.decide(one, "a"), world.decide(other, "b")]
    await world.run(int(REWARDS.wait_seconds) + SOON_S + 3)

    assert [await world.closed(decision) for decision in decisions] == [(-7.0, True, "timeout")] * 2


async def test_a_replica_that_comes_late_is_waited_for_and_no_other_clock(store: SqliteStore) -> None:
    """Its records of ten minutes come at once, after its store was away: feedback among them is as it was told."""
    one, late = Host(1), Host(2)
    world = World(store, one, late)
    await world.run(3)
    decision = world.decide(late, "told")
    late.reached = False
    await world.run(600)
    world.tell(late, decision, 1.5, terminated=True)
    late.reached = True
    await world.run(SOON_S)
    assert await world.closed(decision) == (-7.0, True, "timeout")
    young = world.decide(late, "young")
    await world.run(int(REWARDS.wait_seconds) + SOON_S)

    assert await world.closed(young) == (-7.0, True, "timeout")


async def test_the_dead_of_yesterday_are_sure(store: SqliteStore) -> None:
    """Their time is in their log and in nobody's clock: what their joiner finds later is what it would have found."""
    dead, alive = Host(1), Host(2)
    world = World(store, dead)
    told, silent = world.decide(dead, "told"), world.decide(dead, "silent")
    world.now += 2
    world.tell(dead, told, 1.5, terminated=True)
    dead.pen.beat(world.ms(dead))
    dead.alive = False
    world.now += 86_400
    world.hosts.append(alive)
    world.anew()
    await world.run(SOON_S)

    assert await world.closed(told) == (1.5, True, "episode_end")
    assert await world.closed(silent) == (-7.0, True, "timeout")
