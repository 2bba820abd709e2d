"""The invariant: a decision can be recomputed from its record, bit for bit from the logged head on.

The records are made in batches and recomputed one by one, from nothing but the line in the journal, the configuration
that it names by digest, the schema and the key.
"""

import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from guards.baselines import AnyBaseline, Constant, Rules, When
from guards.constraints import AnyConstraint, Bounds, Cooldown, Mode, Rule
from guards.errors import DeadlineExceeded, InferenceFailed, KillSwitch, PolicyUnavailable
from guards.records import NO_ACTION, Context, History, Schema
from guards.shield import Ruling, Shield, Violation
from service.config import Config
from service.decide import decide
from service.explore import AnyExplorer, EpsilonGreedy, Greedy, Softmax, uniforms
from service.flight import Plane
from service.ids import Key, Keyring, body_of_token
from service.records import Decision, Refused, decode_record, encode_record, unlisted
from service.requests import Request
from service.sessions import Moment
from tests.fakes import NOW, WRITER, asked, flight_of, schema_of

KEYRING = Keyring({3: Key(3, b"recompute" * 4)})
FACTS = ("budget", "price")
FLIGHTS = 40
# Too many fields and actions for a list, a few, and the least there can be.
SIZES = ((3, 2), (5, 6), (9, 20), (70, 80))


class World:
    """A random service: its configuration, its schema, and flights through it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - a test that repeats itself
        fields, actions = SIZES[seed % len(SIZES)]
        self.schema = schema_of([f"f{i}" for i in range(fields)], [f"a{i}" for i in range(actions)], FACTS)
        self.config = Config(
            name="recompute",
            policy="policy.onnx",
            facts=FACTS,
            explore=self.explorer(),
            constraints=tuple(self.constraint(i) for i in range(self.random.randrange(6))),
            baseline=self.baseline(),
            guard_clock=self.random.choice(("service", "observed_at")),
        )
        self.plane = Plane(
            schema=self.schema,
            shield=Shield(self.config.constraints, self.schema),
            explorer=self.config.explore,
            baseline=self.config.baseline.bind(self.schema),
            last_resort=self.config.baseline.last(self.schema),
            key=KEYRING.current,
            writer=WRITER,
            config=self.config.digest,
            durability="journal",
        )

    def action(self) -> str:
        return self.random.choice(self.schema.actions)

    def explorer(self) -> AnyExplorer:
        temperature, epsilon = self.random.choice((0.05, 0.3, 1.0, 7.3)), self.random.choice((0.0, 0.1, 0.5, 1.0))
        return self.random.choice((Greedy(), EpsilonGreedy(epsilon=epsilon), Softmax(temperature=temperature)))

    def condition(self) -> str:
        one, other = self.random.choices(self.schema.fields, k=2)
        some = ", ".join(repr(self.action()) for _ in range(len(self.schema.actions) // 3 + 2))
        return self.random.choice(
            (
                f"action in ({some}) and {one} > {other}",
                f"action not in ({some}) and {one} / {other} > 1.5",
                f"action == previous_action and budget > {one}",
                f"action in ({some}) and (step % 3 == 0 or price * {one} < 0.2)",
                f"action in ({some}) and seconds_since_change < 30",
            )
        )

    def constraint(self, number: int) -> AnyConstraint:
        mode: Mode = self.random.choice(("deny", "deny", "deny", "warn", "audit"))
        name, some = f"c{number}", tuple({self.action() for _ in range(3)})
        effect = {action: self.random.choice((-1.0, 1.0, 2.5)) for action in some}
        return self.random.choice(
            (
                Rule(name=name, mode=mode, forbid=self.condition()),
                Cooldown(name=name, mode=mode, actions=some, seconds=self.random.choice((5.0, 60.0))),
                Bounds(name=name, mode=mode, of=f"{self.schema.fields[0]} * 3", effect=effect, low=-2.0, high=2.0),
            )
        )

    def baseline(self) -> AnyBaseline:
        last = self.random.choice((None, self.action(), self.action()))
        rules = (When(when=f"{self.schema.fields[0]} > 1 / budget", action=self.action()),)
        return self.random.choice(
            (
                Constant(action=self.action(), last_resort=last),
                Rules(rules=rules, otherwise=self.action(), last_resort=last),
            )
        )

    def request(self) -> Request:
        random, actions = self.random, len(self.schema.actions)
        at = NOW + random.random() * 100
        seen = at - random.random()
        observed_at = seen if self.config.guard_clock == "observed_at" or random.random() < 0.5 else None
        step = random.randrange(5)
        history = History(
            known=random.random() < 0.8,
            since=NOW - random.random() * 50,
            step=step,
            action=random.randrange(actions) if step else NO_ACTION,
            changed_at=NOW - random.random() * 50 if step > 1 else None,
            used={random.randrange(actions): NOW - random.random() * 50 for _ in range(step)},
        )
        mask = [random.random() < 0.8 for _ in range(actions)]
        return asked(
            observation=[random.gauss(0, 1) for _ in self.schema.fields],
            facts={name: random.gauss(0, 1) for name in FACTS if random.random() < 0.8} or None,
            mask=mask if any(mask) and random.random() < 0.5 else None,
            explore=random.random() < 0.9,
            at=at,
            now=observed_at if self.config.guard_clock == "observed_at" else at,
            observed_at=observed_at,
            entry=Moment(random.choice((None, "before")), random.choice((None, "episode")), history),
        )

    def head(self, n: int) -> np.ndarray | PolicyUnavailable:
        """A head[N, A] with ties, and now and then a row that is not finite, or none at all."""
        if self.random.random() < 0.1:
            return self.random.choice((DeadlineExceeded(), InferenceFailed(), KillSwitch()))
        rng = np.random.default_rng(self.random.randrange(2**32))
        head = rng.normal(size=(n, len(self.schema.actions))).astype(self.random.choice((np.float32, np.float64)))
        head = np.where(rng.random((n, 1)) < 0.3, head.round(), head)
        head[rng.random(n) < 0.1, 0] = self.random.choice((np.nan, np.inf, -np.inf))
        return head

    def flights(self) -> list[bytes]:
        """The journal's lines of some flights of one to fifty rows."""
        lines, seq = [], 1
        for _ in range(FLIGHTS):
            rows = [self.request() for _ in range(self.random.choice((1, 2, 5, 50)))]
            flight = flight_of(rows, seq=seq, may_explore=self.random.random() < 0.9, track="canary")
            lines += [encode_record(record) for record in decide(self.plane, flight, self.head(len(rows)))]
            seq += len(rows)
        return lines


class Replay:
    """What can be said of a decision with the configuration's text, the schema and the keyring alone."""

    def __init__(self, config: str, schema: Schema) -> None:
        self.config = Config.model_validate({**json.loads(config), "policy": "any.onnx"})
        self.schema = schema
        self.shield = Shield(self.config.constraints, schema)
        self.baseline = self.config.baseline.bind(schema)
        self.last_resort = self.config.baseline.last(schema)

    def context(self, decision: Decision) -> Context:
        """What the guards saw, from what was logged."""
        now = decision.observed_at if self.config.guard_clock == "observed_at" else decision.at
        facts = decision.facts or {}
        return Context(
            observation=unlisted(decision.observation, "float64")[None, :],
            facts=np.array([[facts.get(name, np.nan) for name in self.schema.facts]], dtype=np.float64),
            mask=None if decision.mask is None else unlisted(decision.mask, "bool")[None, :],
            now=np.array([now], dtype=np.float64),
            histories=[decision.state],
        )

    def drawn(self, decision: Decision, ruling: Ruling) -> tuple[int, int, float, bool]:
        """What the policy's draw gives: proposed, action, propensity, explored."""
        assert decision.head is not None
        key = KEYRING.keys[decision.key]
        uniform = uniforms(key.draw(body_of_token(decision.id)))
        explorer = self.config.explore if decision.explorer == self.config.explore.kind else Greedy()
        draw = explorer.draw(decision.head.array().astype(np.float64)[None, :], ruling.allowed, uniform)
        return draw.proposed[0].item(), draw.action[0].item(), draw.propensity[0].item(), draw.explored[0].item()

    def fallen_back(self, context: Context, ruling: Ruling) -> tuple[int, int, float, bool, str]:
        """What the baseline, or the last resort behind it, gives."""
        (proposed,) = self.baseline(context).tolist()
        if proposed != NO_ACTION and ruling.allowed[0, proposed]:
            return proposed, proposed, 1.0, False, "baseline"
        assert self.last_resort is not None
        return proposed, self.last_resort, 1.0, False, "last_resort"

    def reason(self, decision: Decision, ruling: Ruling) -> str | None:
        """Why the policy did not decide, as far as the record alone tells."""
        if decision.head is None:
            return decision.reason
        if not np.isfinite(decision.head.array()).all():
            return "InvalidOutput"
        return None if ruling.allowed.any() else "NoSafeAction"

    def violations(self, ruling: Ruling, proposed: int, action: int) -> list[Violation]:
        """What the constraints had to say."""
        row, said = np.array([0]), []
        if proposed not in (NO_ACTION, action):
            against = ruling.forbidding(row, np.array([proposed]))
            said = [Violation(name, "prevented", mode) for name, mode, hit in against if hit[0] and mode == "deny"]
        for name, mode, hit in ruling.forbidding(row, np.array([action])):
            if hit[0]:
                said.append(Violation(name, "executed" if mode == "deny" else "reported", mode))
        return said

    def holds(self, decision: Decision) -> None:
        """Recompute a decision and compare everything that was chosen."""
        context = self.context(decision)
        ruling = self.shield.judge(context)
        reason = self.reason(decision, ruling)
        if reason is None:
            *chosen, source = (*self.drawn(decision, ruling), "policy")
        else:
            *chosen, source = self.fallen_back(context, ruling)
        proposed, action = int(chosen[0]), int(chosen[1])

        assert unlisted(decision.allowed, "bool").tolist() == ruling.allowed[0].tolist()
        logged = NO_ACTION if decision.proposed is None else decision.proposed
        assert [logged, decision.action, decision.propensity, decision.explored] == chosen
        assert (decision.source, decision.reason) == (source, reason)
        assert decision.violations == self.violations(ruling, proposed, action)


@pytest.mark.parametrize("seed", range(16))
def test_decisions_are_recomputed_bit_for_bit(seed: int) -> None:
    """Mask, draw, propensity, proposal, action, source and violations, over random services and all paths."""
    world = World(seed)
    replay = Replay(world.config.text(), world.schema)

    records = [decode_record(line) for line in world.flights()]

    assert replay.config.digest == world.config.digest
    for record in records:
        assert isinstance(record, Decision | Refused)
        if isinstance(record, Decision):
            assert record.config == replay.config.digest
            assert KEYRING.place(record.id) is not None
            replay.holds(record)


def test_a_record_survives_the_journal_unchanged() -> None:
    """What is decoded is what was encoded, to the last bit of every number."""
    world = World(1)
    rows = [world.request() for _ in range(50)]
    records = decide(world.plane, flight_of(rows), np.random.default_rng(0).normal(size=(50, 6)))

    assert [decode_record(encode_record(record)) for record in records] == records
    assert encode_record(records[0]) == encode_record(decode_record(encode_record(records[0])))


def test_the_random_services_take_every_path() -> None:
    """Or the comparison above would say nothing of it."""
    found: Counter[str] = Counter()
    for seed in range(12):
        records = [decode_record(line) for line in World(seed).flights()]
        found.update(r.source if isinstance(r, Decision) else type(r).__name__ for r in records)

    assert set(found) == {"policy", "baseline", "last_resort", "Refused"}
    assert min(found.values()) > 50
