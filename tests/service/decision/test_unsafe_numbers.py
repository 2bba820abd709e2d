"""Whatever a policy says of a Box, whatever the constraints and the past: nothing unsafe leaves, nothing is raised.

What is unsafe is said by ``Judge``: every constraint once more, number by number, in plain Python's doubles.
"""

import math
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from export.spec import Box, Field, Squash
from guards.abstention import AnyConstraint
from guards.baselines import Constant
from guards.baselines.lookup import Hold
from guards.constraints import Bounds, Linear, Mode, RateLimit, Rule
from guards.errors import DeadlineExceeded
from guards.records import History, Schema
from service.decision.batch import Request
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import Greedy, Normal
from service.decision.sessions import SessionState
from service.log.records import Decision, Refused, encode_record
from tests.acting import OBSERVATION, acting_behaviour
from tests.fakes import NOW, asked, batch_of, recorded

ROWS = 500
EXACT = 1e-9
EXTREMES = (math.nan, math.inf, -math.inf, 1e38, -1e38, 3.4e38, 1e-45, -1e-45, 5e-324, 0.0, -0.0, 1.0, 1e300)
# How an amount is written, and what it is: load and lag are the observation's, price is a fact that may be missing.
AMOUNTS: tuple[tuple[Any, Any], ...] = (
    ("load", lambda seen: seen["load"]),
    ("1 + abs(lag)", lambda seen: 1 + abs(seen["lag"])),
    ("price - 1", lambda seen: seen["price"] - 1),
    ("1 / load", lambda seen: 1 / seen["load"]),
    ("-2 if lag > 0 else 2", lambda seen: -2.0 if seen["lag"] > 0 else 2.0),
)


class Judge:
    """One constraint as its documentation reads, for one action after one past."""

    def __init__(self, random: Random, name: str, space: Box) -> None:
        self.random, self.width = random, space.width
        self.names = [field.name for field in space.fields]
        mode: Mode = random.choice(("deny", "deny", "deny", "warn", "audit"))
        self.kind = random.choice(("bounds", "bounds", "linear", "linear", "rate_limit", "rule"))
        self.number = random.randrange(self.width)
        of = self.names[self.number]
        self.constraint: AnyConstraint
        if self.kind == "bounds":
            nothing: tuple[Any, Any] = (None, None)
            low, high = random.choice((nothing, self.amount(-3, 0))), random.choice((nothing, self.amount(0, 3)))
            self.low, self.high = low[1], high[1]
            self.constraint = Bounds(name=name, mode=mode, of=of, low=low[0], high=high[0])
        elif self.kind == "linear":
            some = random.sample(range(self.width), random.randint(1, self.width))
            told = {i: self.amount(-2, 2) for i in some}
            self.coefficients = {i: value for i, (_, value) in told.items()}
            most, self.most = self.amount(-1, 4)
            self.constraint = Linear(
                name=name, mode=mode, coefficients={self.names[i]: w for i, (w, _) in told.items()}, at_most=most
            )
        elif self.kind == "rate_limit":
            self.rate = random.choice((0.1, 1.0, 1e300))
            self.assume = random.choice((None, (-1.0, 1.0), (0.0, 0.0)))
            self.constraint = RateLimit(name=name, mode=mode, of=of, per_second=self.rate, assume=self.assume)
        else:
            other = random.choice(self.names)
            self.other = self.names.index(other)
            self.constraint = Rule(name=name, mode=mode, forbid=f"{of} > {other} + load and {of} * price > 1")

    def amount(self, low: float, high: float) -> tuple[Any, Any]:
        """How something is written, and what it is for an observation."""
        number = self.random.uniform(low, high)
        return self.random.choice((*AMOUNTS, *[(number, lambda _: number)] * 3))

    def safe(self, action: tuple[Any, ...], row: Request, history: History) -> bool:
        """Whether the constraint lets the action pass, within a billionth of its own scale."""
        seen = dict(zip(("load", "lag", "pods"), row.observation, strict=True))
        seen["price"] = (row.facts or {}).get("price", math.nan)
        try:
            return bool(getattr(self, self.kind)(action, seen, history, row.now))
        except ZeroDivisionError:
            return False

    def bounds(self, action: tuple[float, ...], seen: dict[str, float], *_: Any) -> bool:
        low = -math.inf if self.low is None else self.low(seen)
        high = math.inf if self.high is None else self.high(seen)
        slack = EXACT * max(1.0, abs(action[self.number]))
        return bool(low <= high and low - slack <= action[self.number] <= high + slack)

    def linear(self, action: tuple[float, ...], seen: dict[str, float], *_: Any) -> bool:
        parts = [value(seen) for value in self.coefficients.values()]
        at = [action[i] for i in self.coefficients]
        most = self.most(seen)
        size = max(abs(most), sum(abs(c) * max(1.0, abs(x)) for c, x in zip(parts, at, strict=True)))
        over = sum(c * x for c, x in zip(parts, at, strict=True)) - most
        return bool(over <= EXACT * size * (1 + 1e-6) or (size == 0 and over <= 0))

    def rate_limit(self, action: tuple[float, ...], _: Any, history: History, now: float) -> bool:
        if history.known and history.step == 0:
            return True
        name = self.constraint.name
        if isinstance(history.action, tuple) and name in history.kept:
            values, since = history.action[self.number :][:1], max(history.kept[name])
        elif self.assume is None:
            return False
        else:
            values, since = self.assume, history.since
        most = self.rate * max(0.0, now - since)
        slack = EXACT * max(1.0, abs(action[self.number]))
        return all(abs(action[self.number] - value) <= most + slack for value in values)

    def rule(self, action: tuple[float, ...], seen: dict[str, float], *_: Any) -> bool:
        of, other, price = action[self.number], action[self.other], seen["price"]
        if not math.isfinite(other + seen["load"]):
            return False
        if not of > other + seen["load"]:
            return True
        return bool(math.isfinite(of * price) and not of * price > 1)


class Case:
    """A random service over a Box, its judges, and batches of whatever a policy may say."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)  # noqa: S311 - a test that repeats itself
        self.rng = np.random.default_rng(seed)
        self.squash: Squash = random.choice(("none", "none", "tanh"))
        self.space = Box(fields=tuple(self.field(f"n{i}") for i in range(random.randint(1, 5))))
        self.judges = [Judge(random, f"c{i}", self.space) for i in range(random.randint(0, 5))]
        explorer: Explorer = random.choice((Greedy(), Normal(), Normal(scale=random.choice((0.0, 3.0, 1e6)))))
        inside = tuple(self.inside(field) for field in self.space.fields)
        last = random.choice((None, inside))
        baseline = random.choice((Constant(action=inside, last_resort=last), Hold(first=inside, last_resort=last)))
        constraints = [judge.constraint for judge in self.judges]
        self.behaviour = acting_behaviour(
            self.space, explorer, baseline, constraints=constraints, facts=("price",), squash=self.squash
        )

    def field(self, name: str) -> Field:
        low = self.random.choice((-2.0, -1.0, 0.0, -1e6, -1e-3)) if self.squash == "tanh" else None
        bounds = {} if low is None else {"low": low, "high": low + self.random.choice((1.0, 4.0, 2e6))}
        if self.squash == "none":
            both = {"low": self.random.choice((-2.0, -5.0)), "high": self.random.choice((0.5, 5.0))}
            bounds = self.random.choice((both, both, {"low": -1.0}, {"high": 2.0}, {}, {"low": 1.0, "high": 1.0}))
        return Field(name=name, **bounds)

    def inside(self, field: Field) -> float:
        low = -3.0 if field.low is None else field.low
        high = max(low, 3.0) if field.high is None else field.high
        return self.random.uniform(min(low, high), high)

    def history(self) -> History:
        """Nothing, something, or something elsewhere, as the commit writes it."""
        random, shield = self.random, self.behaviour.shield
        ago = random.uniform(0, 9)
        history = History(known=random.random() < 0.7, since=NOW - ago)
        for _ in range(random.randrange(3)):
            action = tuple(self.inside(field) for field in self.space.fields)
            ago = random.uniform(-0.5, ago)
            history = shield.advanced(history, action, NOW - ago)
        return history

    def batch(self, rows: int) -> tuple[list[Request], np.ndarray]:
        random = self.random
        pasts = [SessionState(None, None, self.history()) for _ in range(16)]
        numbers = (-2.0, -0.5, 0.0, 0.5, 1.0, 7.0)
        requests = [
            asked(
                observation=tuple(random.choices(numbers, k=3)),
                facts=random.choice((None, {"price": random.uniform(-1, 4)})),
                explore=random.random() < 0.9,
                entry=random.choice(pasts),
            )
            for _ in range(rows)
        ]
        width = self.space.width
        wrong = random.choice((0,) * 20 + (1, -1))
        heads = self.rng.normal(size=(rows, 2 * width + wrong)) * random.choice((0.1, 2.0, 50.0))
        heads[:, width:] = np.abs(heads[:, width:])
        wild = self.rng.random((rows, 1)) < 0.3
        strange = self.rng.choice(EXTREMES, size=heads.shape)
        heads = np.where(wild & (self.rng.random(heads.shape) < 0.3), strange, heads)
        with np.errstate(over="ignore"):
            return requests, heads.astype(np.float32) if random.random() < 0.5 else heads


def played(case: Case, rows: int) -> Counter[str]:
    """Decide a batch and judge what left; which paths were taken."""
    requests, heads = case.batch(rows)
    late = case.random.random() < 0.05
    records = recorded(case.behaviour, batch_of(requests), DeadlineExceeded() if late else heads)
    paths = Counter[str]()
    for request, record in zip(requests, records, strict=True):
        encode_record(record)
        if isinstance(record, Refused):
            paths["refused"] += 1
            continue
        assert isinstance(record.action, tuple)
        assert all(math.isfinite(x) for x in record.action)
        for x, field in zip(record.action, case.space.fields, strict=True):
            assert field.low is None or x >= field.low
            assert field.high is None or x <= field.high
        assert request.entry is not None
        safe = {j.constraint.name: j.safe(record.action, request, request.entry.history) for j in case.judges}
        denied = {j.constraint.name for j in case.judges if j.constraint.mode == "deny" and not safe[j.constraint.name]}
        if record.source == "last_resort":
            assert denied <= {v.constraint for v in record.violations if v.verdict == "executed"}
        else:
            assert not denied, (record, denied)
        assert record.propensity > 0
        assert math.isfinite(record.propensity)
        paths[record.source] += 1
        paths["moved"] += record.moved is not None
        paths["projected"] += record.why_not_ok == "Projected"
        if record.source == "policy":
            assert (record.moved is None) == (record.proposed == record.action)
            prevented = {v.constraint for v in record.violations if v.verdict == "prevented"}
            assert bool(prevented) == (record.moved is not None)
    return paths


@pytest.mark.parametrize(
    "cases", [100_000, pytest.param(5_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
def test_nothing_unsafe_leaves_and_nothing_is_raised(cases: int) -> None:
    """Over random spaces, constraints, pasts and heads; on every path there is."""
    paths = Counter[str]()
    for seed in range(cases // ROWS):
        paths += played(Case(seed), ROWS)

    decided = paths["policy"] + paths["baseline"] + paths["last_resort"] + paths["refused"]
    assert decided == cases
    assert all(paths[path] > cases / 100 for path in ("policy", "baseline", "last_resort", "refused", "moved"))
    assert paths["projected"] > cases / 200


def test_the_judge_would_see_it() -> None:
    """Half of what random policies want is unsafe: the judge says so of proposals."""
    seen = Counter[bool]()
    for seed in range(40):
        case = Case(seed)
        requests, heads = case.batch(50)
        for request, record in zip(requests, recorded(case.behaviour, batch_of(requests), heads), strict=True):
            if isinstance(record, Decision) and isinstance(record.proposed, tuple) and request.entry is not None:
                for judge in case.judges:
                    seen[judge.safe(record.proposed, request, request.entry.history)] += 1

    assert seen[False] > seen.total() / 10
    assert Schema(observation=OBSERVATION, action=case.space).actions == ()
