"""Whatever a policy says, whatever the constraints and the past: no unsafe action leaves, and nothing is raised.

What is unsafe is said by a judge who shares no code with the guards and knows all that happened (``tests.judge``).
"""

import math
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from export.spec import Factor, MultiDiscrete
from guards.abstention import AnyConstraint
from guards.baselines import AnyBaseline, Constant, Rules
from guards.baselines.lookup import When
from guards.constraints import Bounds, Budget, Cooldown, MaxSwitches, RateLimit, Rule
from guards.errors import DeadlineExceeded, InferenceFailed, PolicyUnavailable
from guards.records import Action, History, Row, Schema
from service.decision.batch import Behaviour, Request
from service.decision.explore.explorers import AnyExplorer, EpsilonGreedy, Greedy, Softmax
from service.decision.sessions import SessionState
from service.log.records import Decision, Refused
from tests.fakes import NOW, asked, batch_of, behaviour_of, recorded, schema_of
from tests.judge import Event, Judge, Session

FIELDS, FACTS = ("f0", "f1", "f2"), ("budget",)
ROWS, PASTS = 250, 24
# What stands in a head: numbers of all sizes, and what is no number.
EXTREMES = (math.nan, math.inf, -math.inf, 1e38, -1e38, 3.4e38, 1e-45, -1e-45, 5e-324, 0.0, 1.0)


class Case:
    """A random service, some random pasts of sessions, and the judge of both."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)  # noqa: S311 - a test that repeats itself
        self.schema = self.pinned(seed)
        self.names = list(self.schema.choices)
        self.constraints = [self.constraint(f"c{i}") for i in range(random.randrange(1, 7))]
        self.judge = Judge(self.constraints, self.schema)
        behaviour = behaviour_of(
            self.constraints, schema=self.schema, explorer=self.explorer(), baseline=self.baseline()
        )
        self.behaviour: Behaviour = replace(behaviour, mask_required=random.random() < 0.2)
        self.pasts = [self.past() for _ in range(PASTS)]

    def pinned(self, seed: int) -> Schema:
        plain = schema_of(FIELDS, [f"a{i}" for i in range(self.random.randrange(1, 12))], FACTS)
        if seed % 2:
            return plain
        factors = [
            Factor(name=f"k{i}", names=tuple(f"x{j}" for j in range(self.random.randrange(1, 5))))
            for i in range(self.random.randrange(1, 4))
        ]
        return Schema(plain.observation, MultiDiscrete(factors=tuple(factors)), FACTS)

    def action(self) -> Action:
        space = self.schema.action
        if isinstance(space, MultiDiscrete):
            return tuple(self.random.randrange(size) for size in space.sizes)
        return self.random.randrange(len(self.names))

    def written(self) -> Any:
        action = self.action()
        return action if isinstance(action, tuple) else self.schema.actions[action]

    def about(self) -> str:
        """A condition about the action asked about."""
        random, space = self.random, self.schema.action
        if isinstance(space, MultiDiscrete):
            one, other = random.choice(space.factors), random.choice(space.factors)
            return random.choice(
                (
                    f"{one.name} == {random.choice(one.names)!r}",
                    f"{one.name} in {(*random.choices(one.names, k=2),)!r}",
                    f"{one.name} + {other.name} > {random.randrange(4)}",
                    f"({one.name} == {random.choice(one.names)!r} and {other.name} != {random.choice(other.names)!r})",
                )
            )
        names = (*random.choices(self.schema.actions, k=random.randrange(2, 5)),)
        return random.choice((f"action in {names!r}", f"action not in {names!r}", f"action == {names[0]!r}"))

    def condition(self) -> str:
        random, about, limit = self.random, self.about(), self.random.choice((-1, 0, 0.5, 2))
        before = [] if isinstance(self.schema.action, MultiDiscrete) else ["action == previous_action and f0 > 0"]
        return random.choice(
            (
                f"{about} and f0 > {limit}",
                f"{about} and budget < {limit}",
                f"budget < f0 and {about}",
                f"f0 / f1 > {limit} and {about}",
                f"{about} and step % 3 == 0",
                f"{about} and seconds_since_change < 20",
                f"not ({about}) if f2 > {limit} else {about}",
                *before,
            )
        )

    def constraint(self, name: str) -> AnyConstraint:
        random, mode = self.random, self.random.choice((*["deny"] * 5, "warn", "audit"))
        some = {random.choice(self.names): random.choice((-2.0, -1.0, 1.0, 2.5)) for _ in range(3)}
        told: dict[str, Any] = {"name": name, "mode": mode, "seconds": random.choice((2.0, 20.0, 60.0))}
        plain: dict[str, Any] = {"name": name, "mode": mode}
        rate = random.choice((0.05, 0.3, 2.0))
        if random.random() < 0.5:
            rate_limit = RateLimit(**plain, per_second=rate, effect=some)
        else:
            rate_limit = RateLimit(**plain, per_second=rate, levels={n: float(random.randrange(4)) for n in self.names})
        return random.choice(
            (
                Rule(**plain, forbid=self.condition(), on_error=random.choice(("deny", "deny", "allow"))),
                Cooldown(**told, actions=tuple(some)),
                Bounds(**plain, of=random.choice(("f0 * 3", "f0 / f1")), effect=some, low=-2.0, high=2.0),
                Budget(**told, cost=random.choice((f"2 if {self.about()} else 0.5", "f0", "budget")), at_most=4),
                MaxSwitches(**told, at_most=random.randrange(1, 4)),
                rate_limit,
            )
        )

    def explorer(self) -> AnyExplorer:
        return self.random.choice((Greedy(), EpsilonGreedy(epsilon=0.5), Softmax(temperature=0.3)))

    def baseline(self) -> AnyBaseline:
        last = self.random.choice((None, None, self.written()))
        rules = (When(when="f0 > 1 / budget", action=self.written()),)
        return self.random.choice(
            (
                Constant(action=self.written(), last_resort=last),
                Rules(rules=rules, otherwise=self.written(), last_resort=last),
            )
        )

    def seen(self) -> tuple[list[float], dict[str, float] | None]:
        """An observation and facts, with whole numbers and zeros often."""
        random = self.random
        observation = [random.choice((0.0, 1.0, -1.0, random.gauss(0, 2))) for _ in FIELDS]
        return observation, {"budget": random.choice((0.0, 1.0, random.gauss(0, 2)))} if random.random() < 0.8 else None

    def past(self) -> tuple[Session, History, float]:
        """What happened in a session, what is remembered of it here, and when it is now."""
        random, shield = self.random, self.behaviour.shield
        steps = random.choice((0, 1, 2, 5, 12))
        times = sorted(NOW + random.choice((random.random() * 60, random.randrange(60) / 1)) for _ in range(steps))
        elsewhere = random.randrange(steps + 1) if random.random() < 0.4 else 0
        session = Session()
        since = times[elsewhere] - random.random() * 3 if 0 < elsewhere < steps else times[-1] if elsewhere else NOW
        history = History(known=not elsewhere, since=since)
        for i, at in enumerate(times):
            observation, facts = self.seen()
            named, action = dict(zip(FIELDS, observation, strict=True)) | (facts or {}), self.action()
            session.since = since if elsewhere and i >= elsewhere else None
            if i < elsewhere:
                self.judge.did(session, min(at, since), named, action)
                continue
            row = Row(observation, [(facts or {}).get("budget", np.nan)], None, at, history)
            weights = shield.weights(row, action) if shield.weighs else None
            history = shield.advanced(history, action, at, weights)
            self.judge.did(session, at, named, action)
        session.since = since if elsewhere else None
        last = max([since if elsewhere else NOW, *times])
        return session, history, last + random.choice((0.0, 1.0, random.random() * 90))

    def request(self, past: tuple[Session, History, float]) -> Request:
        random, (_, history, now) = self.random, past
        observation, facts = self.seen()
        mask = [random.random() < 0.7 for _ in self.names] if random.random() < 0.3 else None
        return asked(
            observation=observation,
            facts=facts,
            mask=mask,
            explore=random.random() < 0.8,
            at=now,
            now=now,
            entry=SessionState("before", "episode", history),
        )

    def head(self) -> np.ndarray | PolicyUnavailable:
        """Anything that a network may answer, of any length."""
        random = self.random
        if random.random() < 0.05:
            return random.choice((DeadlineExceeded(), InferenceFailed()))
        rng = np.random.default_rng(random.randrange(2**32))
        width = len(self.names) + random.choice((0,) * 18 + (1, -1))
        head = rng.normal(size=(ROWS, width)) * 10.0 ** rng.integers(-3, 4, size=(ROWS, 1))
        head = np.where(rng.random((ROWS, 1)) < 0.1, np.round(head), head)
        head[rng.random(head.shape) < 0.02] = rng.choice(EXTREMES)
        head[rng.random(ROWS) < 0.05] = rng.choice(EXTREMES)
        with np.errstate(over="ignore"):
            return head.astype(random.choice((np.float32, np.float64)))

    def outcome(self) -> Counter[str]:
        """Decide a batch, and hold every answer against the judge."""
        pasts = [self.random.choice(self.pasts) for _ in range(ROWS)]
        requests = [self.request(past) for past in pasts]
        records = recorded(self.behaviour, batch_of(requests, seq=1 + self.random.randrange(2**40)), self.head())
        found: Counter[str] = Counter()
        for record, request, (session, _, now) in zip(records, requests, pasts, strict=True):
            if isinstance(record, Refused):
                found["refused"] += 1
                continue
            broken = self.broken(record, request, session, now)
            executed = {one.constraint for one in record.violations if one.verdict == "executed"}
            assert not broken or (record.source == "last_resort" and set(broken) <= executed), (broken, record)
            assert 0 < record.propensity <= 1
            assert record.source != "policy" or request.mask is not None or not self.behaviour.mask_required
            found[record.source] += 1
            found["unknown"] += not record.state.known
            found["masked"] += record.proposed != record.action
        return found

    def broken(self, record: Decision, request: Request, session: Session, now: float) -> list[str]:
        """What an executed action breaks: the space, the mask, a constraint."""
        parts = self.judge.parts(record.action)
        allowed = {name for name, yes in zip(self.names, request.mask or [True] * len(self.names), strict=True) if yes}
        named = dict(zip(FIELDS, request.observation, strict=True)) | (request.facts or {})
        return [*(["allowed"] if not parts <= allowed else []), *self.judge.unsafe(session, now, named, record.action)]


def run(seeds: range, batches: int) -> Counter[str]:
    """Decide so many batches of each random service."""
    found: Counter[str] = Counter()
    for seed in seeds:
        case = Case(seed)
        for _ in range(batches):
            found += case.outcome()
    return found


def test_no_unsafe_action_leaves() -> None:
    """100,000 decisions on every path: actions of a list and of several factors, all kinds of constraints."""
    found = run(range(100), 4)

    assert sum(found[path] for path in ("policy", "baseline", "last_resort", "refused")) == 100 * 4 * ROWS
    assert min(found[what] for what in ("policy", "baseline", "last_resort", "refused", "unknown", "masked")) > 1000


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(10))
def test_no_unsafe_action_leaves_in_millions(part: int) -> None:
    """Five million more, of services of their own."""
    run(range(1000 + part * 200, 1200 + part * 200), 10)


def test_the_judge_finds_what_is_unsafe() -> None:
    """Or it would say nothing: each kind is broken by something."""
    schema = schema_of(FIELDS, ["hold", "up"], FACTS)
    constraints: list[AnyConstraint] = [
        Rule(name="rule", forbid="action == 'up' and budget > f0"),
        Cooldown(name="cooldown", actions=("up",), seconds=5),
        Bounds(name="bounds", of="f1", effect={"up": 1}, high=3),
        Budget(name="budget", cost="2 if action == 'up' else 0", at_most=3, seconds=5),
        MaxSwitches(name="switches", at_most=1, seconds=5),
        RateLimit(name="rate", per_second=0.1, effect={"up": 1}),
    ]
    judge, named = Judge(constraints, schema), {"f0": 0.0, "f1": 3.0, "f2": 0.0, "budget": 1.0}
    events = [Event(NOW - 3 + i, action, named, {"budget": 2.0 * action}) for i, action in enumerate((0, 1, 0))]

    assert judge.unsafe(Session(events), NOW, named, 1) == [one.name for one in constraints]
    assert judge.unsafe(Session(), NOW, named | {"f1": 0.0, "budget": -1.0}, 1) == []
