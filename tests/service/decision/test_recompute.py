"""The invariant: a decision can be recomputed from its record, bit for bit from the logged head on.

The records are made in batches and recomputed one by one, from nothing but the line in the journal, the configuration
that it names by digest, the schema and the key.
"""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from export.spec import Box, Discrete, Field, Manifest, MultiDiscrete, Recorded, Squash
from export.spec.statistics import statistics
from guards.abstention import AnyConstraint, Confidence, Doubt, Doubts, Fresh, Novelty, PolicyAnswer, Quorum
from guards.baselines import KEPT, AnyBaseline, Constant, Policy, Rules
from guards.baselines.lookup import When
from guards.constraints import Bounds, Budget, Cooldown, Linear, MaxSwitches, Mode, RateLimit, Rule
from guards.errors import DeadlineExceeded, InferenceFailed, KillSwitch, PolicyUnavailable
from guards.records import NO_ACTION, Action, Floats, History, Row, Schema
from guards.shield import Shield as RowShield
from guards.shield import Violation
from service.config import Config
from service.decision.batch import Behaviour, Request
from service.decision.explore.acting import acting_of
from service.decision.explore.explorers import AnyExplorer, EpsilonGreedy, Greedy, Normal, Softmax
from service.decision.sessions import SessionState
from service.log.ids import Key, Keyring, body_of_token
from service.log.records import Decision, Refused, Writer, decode_record, encode_record, unlisted
from service.startup import advising
from service.versions.engine import Engine, load_version
from service.versions.router import Assignment
from tests import artefacts, ports
from tests.acting import ARM, GRID, SWITCHES, factors, gaussian
from tests.fakes import NOW, WRITER, asked, batch_of, manifest_of, recorded, schema_of
from tests.guards.batched import AnyRuling, BoxRuling, Context, Shield
from tests.in_process import asking, serving
from tests.service.decision.explore.drawing import bits_of

LATE_OR_FAILED = ("DeadlineExceeded", "CheckFailed", "InferenceFailed")
KEYRING = Keyring({3: Key(3, b"recompute" * 4)})
FACTS = ("budget", "price")
BATCHES = 40
# Too many fields and actions for a list, a few, and the least there can be.
SIZES = ((3, 2), (5, 6), (9, 20), (70, 80))
LINE = Box(fields=tuple(Field(name=f"n{i}", low=-1 - i, high=i) for i in range(5)))
# Other ways to act than by one of a list of actions.
OTHERS: dict[str, tuple[MultiDiscrete | Box, Squash]] = {
    "switches": (SWITCHES, "none"),
    "arm": (ARM, "none"),
    "line": (LINE, "none"),
    "grid": (GRID, "tanh"),
}
Chosen = tuple[Action | None, Action | None, float, bool, str]


class World:
    """A random service: its configuration, its schema, and batches through it."""

    squash: Squash = "none"

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - a test that repeats itself
        self.schema = self.pinned(seed)
        self.manifest = self.described(seed)
        self.config = Config(
            name="recompute",
            policy="policy.onnx",
            facts=FACTS,
            explore=self.explorer(),
            constraints=(*self.constraints(), *self.doubts()),
            baseline=self.baseline(),
            guard_clock=self.random.choice(("service", "observed_at")),
            mask="optional" if isinstance(self.schema.action, Box) else self.random.choice(("optional", "required")),
        )
        shield = RowShield(self.config.constraints, self.schema)
        self.behaviour = Behaviour(
            schema=self.schema,
            shield=shield,
            acting=acting_of(
                self.config.explore,
                self.schema.action,
                self.squash,
                joint=shield.joins,
                scores=self.manifest.scores,
            ),
            baseline=self.config.baseline.bind(self.schema),
            last_resort=self.config.baseline.last(self.schema),
            key=KEYRING.current,
            writer=WRITER,
            config=self.config.digest,
            durability="journal",
            mask_required=self.config.mask == "required",
            doubts=Doubts.of(self.config.constraints, self.schema, self.manifest),
        )

    def described(self, seed: int) -> Manifest:
        """What the artefact says of itself: the observations are like those of its training."""
        space, seen = self.schema.action, np.random.default_rng(seed).normal(size=(500, len(self.schema.fields)))
        head = "q_values" if isinstance(space, Discrete) and seed % 2 else "logits"
        return manifest_of(
            observation=self.schema.observation,
            action=space,
            head="gaussian" if isinstance(space, Box) else head,
            spread=True,
            scale=1.5,
            statistics=statistics(Recorded(inputs={"obs": seen}), self.schema.observation),
        )

    def doubts(self) -> tuple[AnyConstraint, ...]:
        """Some doubts of answers."""
        modes: tuple[Mode, ...] = ("deny", "deny", "warn", "audit")
        mode = self.random.choice
        some: list[AnyConstraint] = [
            Quorum(name="quorum", mode=mode(modes), at_most=self.random.choice((0.1, 0.4))),
            Novelty(name="novelty", mode=mode(modes), false_alarms=self.random.choice((0.01, 0.1))),
            Fresh(name="fresh", mode=mode(modes), max_age_seconds=0.9, missing=self.random.choice(("allow", "deny"))),
        ]
        if not isinstance(self.schema.action, Box):
            some.append(Confidence(name="confidence", mode=mode(modes), at_least=self.random.choice((0.01, 0.1))))
        return tuple(self.random.sample(some, self.random.randrange(3)))

    def pinned(self, seed: int) -> Schema:
        fields, actions = SIZES[seed % len(SIZES)]
        return schema_of([f"f{i}" for i in range(fields)], [f"a{i}" for i in range(actions)], FACTS)

    def constraints(self) -> tuple[AnyConstraint, ...]:
        return tuple(self.constraint(i) for i in range(self.random.randrange(6)))

    def action(self) -> Any:
        return self.random.choice(self.schema.actions)

    def done(self) -> Action:
        """An action that was executed before."""
        return self.random.randrange(len(self.schema.actions))

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

    def about(self) -> str:
        """A condition about the action asked about."""
        return f"action == {self.action()!r}"

    def constraint(self, number: int) -> AnyConstraint:
        mode: Mode = self.random.choice(("deny", "deny", "deny", "warn", "audit"))
        name, some = f"c{number}", tuple({self.random.choice(self.schema.choices) for _ in range(3)})
        effect = {action: self.random.choice((-1.0, 1.0, 2.5)) for action in some}
        levels = {action: float(self.random.randrange(5)) for action in self.schema.choices}
        seconds, field = self.random.choice((5.0, 60.0)), self.schema.fields[-1]
        return self.random.choice(
            (
                RateLimit(name=name, mode=mode, per_second=0.1, effect=effect),
                RateLimit(name=name, mode=mode, per_second=0.1, levels=levels),
                Budget(name=name, mode=mode, cost=f"1.1 if {self.about()} else {field}", at_most=7.3, seconds=seconds),
                MaxSwitches(name=name, mode=mode, at_most=self.random.randrange(1, 4), seconds=seconds),
                Rule(name=name, mode=mode, forbid=self.condition(), on_error=self.random.choice(("deny", "allow"))),
                Cooldown(name=name, mode=mode, actions=some, seconds=seconds),
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
        random, width = self.random, len(self.schema.choices)
        at = NOW + random.random() * 100
        seen = at - random.random()
        observed_at = seen if self.config.guard_clock == "observed_at" or random.random() < 0.5 else None
        step = random.randrange(5)
        history = History(
            known=random.random() < 0.8,
            since=NOW - random.random() * 50,
            step=step,
            action=self.done() if step else NO_ACTION,
            changed_at=NOW - random.random() * 50 if step > 1 else None,
            used={random.randrange(max(1, len(self.schema.choices))): NOW - random.random() * 50 for _ in range(step)},
            kept={f"c{i}": self.kept() for i in range(6) if step and random.random() < 0.7},
        )
        mask = [random.random() < 0.8 for _ in range(width)]
        return asked(
            observation=[random.gauss(0, 1) for _ in self.schema.fields],
            facts={name: random.gauss(0, 1) for name in FACTS if random.random() < 0.8} or None,
            mask=mask if any(mask) and random.random() < 0.5 else None,
            explore=random.random() < 0.9,
            at=at,
            now=observed_at if self.config.guard_clock == "observed_at" else at,
            observed_at=observed_at,
            entry=SessionState(random.choice((None, "before")), random.choice((None, "episode")), history),
        )

    def kept(self) -> tuple[float, ...]:
        """Numbers that a constraint kept: times in order, each with an amount."""
        times = sorted(NOW - self.random.random() * 50 for _ in range(self.random.randrange(1, 4)))
        return tuple(number for time in times for number in (time, self.random.random() * 3))

    def head(self, n: int) -> np.ndarray | PolicyUnavailable:
        """A head[N, A] with ties, and now and then a row that is not finite, or none at all."""
        if self.random.random() < 0.1:
            return self.random.choice((DeadlineExceeded(), InferenceFailed(), KillSwitch()))
        rng = np.random.default_rng(self.random.randrange(2**32))
        head = self.scores(rng, n).astype(self.random.choice((np.float32, np.float64)))
        head[rng.random(n) < 0.1, 0] = self.random.choice((np.nan, np.inf, -np.inf))
        return head

    def scores(self, rng: np.random.Generator, n: int) -> np.ndarray:
        scores = rng.normal(size=(n, len(self.schema.choices)))
        return np.where(rng.random((n, 1)) < 0.3, scores.round(), scores)

    def batches(self) -> list[bytes]:
        """The journal's lines of some batches of one to fifty rows."""
        lines, seq = [], 1
        for _ in range(BATCHES):
            rows = [self.request() for _ in range(self.random.choice((1, 2, 5, 50)))]
            head, may_explore = self.head(len(rows)), self.random.random() < 0.9
            spread = [self.random.choice((None, 0.5, self.random.random() / 4, 0.05)) for _ in rows]
            told = {} if isinstance(head, PolicyUnavailable) else {"spread": spread}
            canary = Assignment(track="canary", probability=1.0, version="fake-1")
            batch = batch_of(rows, seq=seq, may_explore=may_explore, assignment=canary, **told)
            lines += [encode_record(record) for record in recorded(self.behaviour, batch, head)]
            seq += len(rows)
        return lines


class OtherWorld(World):
    """A random service that acts by several choices at once, or by numbers."""

    def __init__(self, seed: int, space: MultiDiscrete | Box, squash: Squash) -> None:
        self.space, self.squash = space, squash
        super().__init__(seed)

    def pinned(self, seed: int) -> Schema:  # noqa: ARG002 - the space was said
        return Schema(schema_of(["f0", "f1"], ["none"]).observation, self.space, FACTS)

    def constraints(self) -> tuple[AnyConstraint, ...]:
        if isinstance(self.space, MultiDiscrete):
            return super().constraints()
        return tuple(self.confinement(f"c{i}", self.space) for i in range(self.random.randrange(5)))

    def confinement(self, name: str, space: Box) -> AnyConstraint:
        mode: Mode = self.random.choice(("deny", "deny", "deny", "warn", "audit"))
        of, other = (field.name for field in self.random.choices(space.fields, k=2))
        about: dict[str, float | str] = {of: "1 + abs(f0)", other: self.random.choice((-1.0, "f1"))}
        return self.random.choice(
            (
                Bounds(name=name, mode=mode, of=of, low="f0 - 1", high="1 / budget"),
                Bounds(name=name, mode=mode, of=of, high=0.5),
                Linear(name=name, mode=mode, coefficients=about, at_most="budget"),
                RateLimit(name=name, mode=mode, of=of, per_second=0.1, assume=self.random.choice((None, (-0.5, 0.5)))),
                Rule(name=name, mode=mode, forbid=f"{of} * f0 > {other} + 1"),
            )
        )

    def about(self) -> str:
        return "pump == 'on' and valve > fan"

    def condition(self) -> str:
        return self.random.choice(("f0 > f1 and pump == 'off'", "budget > fan", "f0 / f1 > valve", "step % 3 == fan"))

    def action(self) -> Any:
        return self.done()

    def done(self) -> Action:
        if isinstance(self.space, MultiDiscrete):
            return tuple(self.random.randrange(size) for size in self.space.sizes)
        return tuple(self.random.uniform(max(low, -9), min(high, 9)) for low, high in zip(*self.bounds(), strict=True))

    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        assert isinstance(self.space, Box)
        return self.space.low, self.space.high

    def explorer(self) -> AnyExplorer:
        if isinstance(self.space, MultiDiscrete):
            return super().explorer()
        noise = self.random.choice((0.0, 0.1)) if self.space is LINE else 0.0
        return self.random.choice((Greedy(), Normal(), Normal(scale=0.3, noise=noise)))

    def scores(self, rng: np.random.Generator, n: int) -> np.ndarray:
        if isinstance(self.space, MultiDiscrete):
            return super().scores(rng, n)
        spread = np.abs(rng.normal(size=(n, self.space.width)))
        spread[rng.random(spread.shape) < 0.2] = 0
        return np.concatenate([rng.normal(size=spread.shape) * 2, spread], axis=1)


class Unscored:
    """What is other in a service whose policy says what it chose, and no more: mixed into those above."""

    random: Random
    schema: Schema

    def described(self, seed: int) -> Manifest:
        """It has no scores, and no members that could disagree."""
        seen = np.random.default_rng(seed).normal(size=(500, len(self.schema.fields)))
        return manifest_of(
            observation=self.schema.observation,
            action=self.schema.action,
            head="logits",
            scores=False,
            statistics=statistics(Recorded(inputs={"obs": seen}), self.schema.observation),
        )

    def doubts(self) -> tuple[AnyConstraint, ...]:
        """Those that are not about scores."""
        mode: Mode = self.random.choice(("deny", "warn"))
        return tuple(
            self.random.sample([Novelty(name="novelty", mode=mode, false_alarms=0.1)], self.random.randrange(2))
        )

    def explorer(self) -> AnyExplorer:
        some = [EpsilonGreedy(epsilon=epsilon) for epsilon in (0.0, 0.3, 1.0)]
        return self.random.choice((Greedy(), self.random.choice(some)))

    def scores(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """A one for each factor, and now and then one too many or too few."""
        space = self.schema.action
        assert not isinstance(space, Box)
        sizes = (space.n,) if isinstance(space, Discrete) else space.sizes
        ones = np.concatenate([np.eye(size)[rng.integers(0, size, n)] for size in sizes], axis=1)
        spoilt = rng.random(n) < 0.1
        ones[spoilt, rng.integers(0, ones.shape[1], int(spoilt.sum()))] = rng.choice((0.0, 1.0, 0.5), int(spoilt.sum()))
        return ones


class UnscoredWorld(Unscored, World):
    """A random service over a list of actions whose policy has no scores."""


class OtherUnscoredWorld(Unscored, OtherWorld):
    """A random service over several choices at once whose policy has no scores."""


class Replay:
    """What can be said of a decision with the configuration's text, the schema, the artefact's manifest and the keyring
    alone."""

    def __init__(
        self,
        config: str,
        schema: Schema,
        manifest: Manifest,
        keyring: Keyring = KEYRING,
        advise: Callable[[Row], Floats] | None = None,
    ) -> None:
        """``advise`` gives the numbers of the trusted policy that is the baseline, where one is."""
        self.keyring = keyring
        told = {**json.loads(config), "policy": "any.onnx"}
        if advise is not None:
            told["baseline"]["path"] = "other.onnx"
        self.config = Config.model_validate(told)
        self.schema = schema
        self.shield = Shield(self.config.constraints, schema)
        self.scores = manifest.scores
        self.doubts = Doubts.of(self.config.constraints, schema, manifest)
        baseline = self.config.baseline
        self.baseline = baseline.bind(schema, advise) if isinstance(baseline, Policy) else baseline.bind(schema)
        self.last_resort = self.config.baseline.last(schema)
        self.remember = self.config.baseline.remembers(schema)

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

    def drawn(self, decision: Decision, ruling: AnyRuling) -> Chosen:
        """What the policy's draw gives: proposed, action, propensity, explored, measure."""
        assert decision.head is not None
        key = self.keyring.keys[decision.key]
        explorer = self.config.explore if decision.explorer == self.config.explore.kind else Greedy()
        space, joins = self.schema.action, self.shield.joins
        acting = acting_of(explorer, space, decision.squash, joint=joins, scores=self.scores)
        left: Any = ruling.regions[0] if isinstance(ruling, BoxRuling) else bits_of(ruling.allowed[0])
        digest = key.draw(body_of_token(decision.id), acting.blocks)
        choice = acting.choose(acting.read(decision.head.array()), left, digest, explores=True)
        return choice.proposed, choice.action, choice.propensity, choice.explored, choice.measure

    def fallen_back(self, context: Context, ruling: AnyRuling) -> tuple[Chosen, str]:
        """What the baseline, or the last resort behind it, gives."""
        domain, proposed = self.shield.domain, self.baseline(context.each[0])
        if proposed is not None:
            moved = ruling.nearest(np.array([proposed]), np.array([proposed]))
            (action,) = domain.told(moved)
            permitted = action is not None and ruling.permits(np.array([0]), domain.columns(moved))[0]
            if permitted and self.passes(context, action):
                return (proposed, action, 1.0, False, "mass"), "baseline"
        assert self.last_resort is not None
        return (proposed, self.last_resort, 1.0, False, "mass"), "last_resort"

    def passes(self, context: Context, action: Action | None) -> bool:
        """Whether an action in a Box passes the check, which asks more than its ruling can move it to."""
        return not isinstance(action, tuple) or bool(self.shield.check(context, np.array([action]))[0])

    def reason(self, decision: Decision, ruling: AnyRuling) -> str | None:
        """Why the policy did not decide, as far as the record alone tells."""
        if decision.head is None:
            return decision.reason
        if self.config.mask == "required" and decision.mask is None:
            return "MaskMissing"
        if not np.isfinite(decision.head.array()).all() or self.chosen(decision) == []:
            return "InvalidOutput"
        left = self.shield.domain.choosable(ruling.leaves).all() and not self.overruling(decision, ruling)
        return None if left else "NoSafeAction"

    def chosen(self, decision: Decision) -> list[int] | None:
        """Which choices a policy without scores says that it made; none where it says no such thing."""
        if self.scores:
            return None
        assert decision.head is not None
        numbers, space = decision.head.array().tolist(), self.schema.action
        parts, at = [], 0
        for size in (
            (space.n,) if isinstance(space, Discrete) else space.sizes if isinstance(space, MultiDiscrete) else ()
        ):
            part, at = numbers[at : at + size], at + size
            if sorted(part) != [0.0] * (size - 1) + [1.0]:
                return []
            parts.append(part.index(1.0))
        return parts

    def overruling(self, decision: Decision, ruling: AnyRuling) -> list[Violation]:
        """What forbids the one action that a policy without scores chose."""
        chosen = self.chosen(decision)
        # Where nothing at all is left, it is not asked what was chosen.
        if not chosen or not self.shield.domain.choosable(ruling.leaves).all():
            return []
        action = np.array(chosen if isinstance(self.schema.action, Discrete) else [chosen])
        hits = ruling.forbidding(np.array([0]), self.shield.domain.columns(action))
        return [Violation(name, "prevented", mode) for name, mode, hit in hits if mode == "deny" and hit.any()]

    def doubted(self, decision: Decision) -> list[Doubt]:
        """Who doubts the policy's answer."""
        assert decision.head is not None
        age, took = np.nan, decision.durations
        if decision.observed_at is not None:
            age = decision.at - decision.observed_at + (took["wait_us"] + took["infer_us"]) / 1e6
        (row,) = self.context(decision).each
        return self.doubts.about(PolicyAnswer(row, decision.head.array().astype(np.float64), decision.spread, age))

    def violations(self, ruling: AnyRuling, proposed: Action | None, action: Action | None) -> list[Violation]:
        """What the constraints had to say."""
        row, said = np.array([0]), []
        if proposed is not None and proposed != action:
            against = ruling.forbidding(row, self.shield.domain.columns(np.array([proposed])))
            said = [Violation(name, "prevented", mode) for name, mode, hit in against if hit[0] and mode == "deny"]
        for name, mode, hit in ruling.forbidding(row, self.shield.domain.columns(np.array([action]))):
            if hit[0]:
                said.append(Violation(name, "executed" if mode == "deny" else "reported", mode))
        return said

    def after(self, decision: Decision) -> History:
        """The history that its session's next decision has."""
        weights = (
            self.shield.weights(self.context(decision), np.array([decision.action])) if self.shield.weighs else [[]]
        )
        at = decision.observed_at if self.config.guard_clock == "observed_at" else decision.at
        assert at is not None
        history = self.shield.advanced(decision.state, decision.action, at, weights[0])
        if self.remember is None:
            return history
        kept = self.remember(self.context(decision).each[0], decision.action, decision.source == "baseline")
        return structs.replace(history, kept={**history.kept, KEPT: kept} if kept else history.kept)

    def holds(self, decision: Decision) -> None:
        """Recompute a decision and compare everything that was chosen."""
        context = self.context(decision)
        ruling = self.shield.judge(context)
        reason = self.reason(decision, ruling)
        doubted = self.doubted(decision) if reason is None else []
        for doubt in doubted:
            if reason is None and doubt.mode == "deny":
                reason = doubt.reason.__name__
        drawn = self.drawn(decision, ruling) if reason is None else None
        refusing: list[Violation] = []
        if drawn is not None and drawn[1] is None:
            reason = "NoSafeAction"
        elif drawn is not None and not self.passes(context, drawn[1]):
            refusing = self.refusing(ruling, drawn[1])
            reason = "NoSafeAction" if refusing else "CheckFailed"
        fallen = None if reason is None else self.fallen_back(context, ruling)
        chosen, source = fallen or (drawn, "policy")
        assert chosen is not None

        assert unlisted(decision.allowed, "bool").ravel().tolist() == ruling.allowed[0].tolist()
        logged = (decision.proposed, decision.action, decision.propensity, decision.explored, decision.measure)
        assert logged == chosen
        assert (decision.source, decision.reason) == (source, reason)
        said = [Violation(one.name, "prevented" if one.mode == "deny" else "reported", one.mode) for one in doubted]
        said += refusing
        if decision.head is not None and decision.reason == "NoSafeAction" and not refusing:
            said += self.overruling(decision, ruling)
        spoken = self.violations(ruling, chosen[0], chosen[1])
        assert decision.violations == said + [one for one in spoken if one not in said]

    def refusing(self, ruling: AnyRuling, action: Action | None) -> list[Violation]:
        """What the constraints say of a draw that can only be asked about."""
        if ruling.unlisted is None or action is None:
            return []
        hits = ruling.unlisted.forbidding(np.array([0]), self.shield.domain.columns(np.array([action])))
        return [Violation(name, "prevented", mode) for name, mode, hit in hits if mode == "deny" and hit.any()]


@pytest.mark.parametrize("seed", range(16))
def test_decisions_are_recomputed_bit_for_bit(seed: int) -> None:
    """Mask, draw, propensity, proposal, action, source and violations, over random services and all paths."""
    world = World(seed)
    replay = Replay(world.config.text(), world.schema, world.manifest)

    records = [decode_record(line) for line in world.batches()]

    assert replay.config.digest == world.config.digest
    for record in records:
        assert isinstance(record, Decision | Refused)
        if isinstance(record, Decision):
            assert record.config == replay.config.digest
            assert KEYRING.place(record.id) is not None
            replay.holds(record)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", OTHERS)
def test_decisions_of_other_spaces_are_recomputed_bit_for_bit(kind: str, seed: int) -> None:
    """Several choices at once and numbers too, with their measure, on all paths that they can take."""
    world = OtherWorld(seed, *OTHERS[kind])
    replay = Replay(world.config.text(), world.schema, world.manifest)

    lines = world.batches()

    assert len(lines) > BATCHES
    for line in lines:
        record = decode_record(line)
        assert isinstance(record, Decision | Refused)
        assert encode_record(record) == line
        if isinstance(record, Decision):
            assert record.squash == world.squash
            replay.holds(record)


@pytest.mark.parametrize("seed", range(8))
def test_decisions_without_scores_are_recomputed_bit_for_bit(seed: int) -> None:
    """That the one chosen action is forbidden, and by what, can be told from the logged head and the artefact."""
    found: Counter[str | None] = Counter()
    for world in (UnscoredWorld(seed), OtherUnscoredWorld(seed, SWITCHES, "none")):
        replay = Replay(world.config.text(), world.schema, world.manifest)
        for record in map(decode_record, world.batches()):
            assert isinstance(record, Decision | Refused)
            found[record.reason] += 1
            if isinstance(record, Decision):
                replay.holds(record)

    assert min(found["NoSafeAction"], found["InvalidOutput"], found[None]) > 5


def test_a_record_survives_the_journal_unchanged() -> None:
    """What is decoded is what was encoded, to the last bit of every number."""
    world = World(1)
    rows = [world.request() for _ in range(50)]
    records = recorded(world.behaviour, batch_of(rows), np.random.default_rng(0).normal(size=(50, 6)))

    assert [decode_record(encode_record(record)) for record in records] == records
    assert encode_record(records[0]) == encode_record(decode_record(encode_record(records[0])))


def test_the_random_services_take_every_path() -> None:
    """Or the comparison above would say nothing of it."""
    found: Counter[str] = Counter()
    for seed in range(12):
        records = [decode_record(line) for line in World(seed).batches()]
        found.update(r.source if isinstance(r, Decision) else type(r).__name__ for r in records)

    assert set(found) == {"policy", "baseline", "last_resort", "Refused"}
    assert min(found.values()) > 50


# What is asked of an artefact with more than plain fields: an observation, and more beside it.
ASKED: dict[str, tuple[bytes, Callable[[Random], dict[str, Any]]]] = {
    "recurrent": (ports.recurrent(), lambda random: {"observation": [random.random() for _ in range(3)]}),
    "masked": (
        ports.masked(),
        lambda random: {
            "observation": [random.random() for _ in range(3)],
            "allowed": random.choice((None, [True, True, False], ["hold"], ["scale_up", "scale_down"])),
        },
    ),
    "parts": (
        ports.parts(),
        lambda random: {
            "observation": {
                "image": [[random.randrange(256) for _ in range(3)] for _ in range(2)],
                "state": {"cpu": random.random(), "replicas": random.randrange(1, 5)},
                "lidar/front": [random.gauss(0, 9), 0.1],
                "zone": [random.randrange(5)],
            }
        },
    ),
}


@pytest.mark.parametrize("kind", ASKED)
async def test_the_head_is_recomputed_from_the_record_too(tmp_path: Path, kind: str) -> None:
    """Observation, mask and memory as they were logged give the head within the artefact's tolerance, the logged head
    the rest bit for bit; three sessions in one batch, some of whose episodes end, one of which is not known here."""
    artefact, ask = ASKED[kind]
    random = Random(7)  # noqa: S311 - a test that repeats itself
    told: dict[str, Any] = {
        "explore": {"kind": "softmax", "temperature": 0.5},
        "constraints": [{"kind": "rule", "name": "few", "forbid": "action == 'scale_down' and replicas < 0.5"}],
        "baseline": {"kind": "constant", "action": "hold", "last_resort": "hold"},
        "limits": {"deadline_ms": 20_000},
    }
    with serving(tmp_path, artefact, **told) as served:
        served.permit()
        for i in range(12):
            ends = i % 5 == 4
            begins: dict[str, Any] = {"previous": None}
            ended: dict[str, Any] = {"feedback": {"terminated": True}} if ends else {}
            more = {"a": begins if ends or not i else {}, "b": ended if i else begins, "c": {}}
            rows = [asking(name, **ask(random), **one) for name, one in more.items()]
            await served.post("/act/batch", {"requests": rows})
        application, decisions = served.application, served.decisions()
        replay = Replay(application.config.text(), application.schema, application.engine.manifest, application.keyring)
        engine = load_version(artefact, application.schema, application.engine.pool)

        assert len(decisions) == 36
        for decision in decisions:
            replay.holds(decision)
            if decision.head is not None:
                inferred(decision, engine)
        reasons = Counter(decision.reason for decision in decisions)
        assert reasons["HistoryUnknown"] == (12 if kind == "recurrent" else 0)


def inferred(decision: Decision, engine: Engine) -> None:
    """Recompute the head of a decision from what went into the network."""
    assert decision.head is not None
    memory = [(decision.memory or {})[one.name].array()[None] for one in engine.manifest.memory]
    mask = None
    if engine.masked:
        everything = [True] * engine.manifest.action.width
        mask = np.array([everything if decision.mask is None else unlisted(decision.mask, "bool")])
    observation = unlisted(decision.observation, "float64")[None]
    head = engine.run(engine.inputs(observation, mask, memory), None).head

    assert engine.manifest.parity.close(decision.head.array()[None], head).all()


STATEFUL: list[dict[str, Any]] = [
    {"kind": "budget", "name": "spent", "cost": "cpu if action == 'scale_up' else 0.1", "at_most": 2, "seconds": 9},
    {"kind": "max_switches", "name": "switched", "at_most": 2, "seconds": 4},
    {"kind": "rate_limit", "name": "moved", "per_second": 1.2, "effect": {"scale_up": 1.0, "scale_down": -1.0}},
    {"kind": "cooldown", "name": "rests", "actions": ["scale_down"], "seconds": 7},
]


async def test_the_history_is_recomputed_from_record_to_record(tmp_path: Path) -> None:
    """What constraints keep goes on from a decision to the next, bit for bit, and each is decided by it again."""
    random = Random(11)  # noqa: S311 - a test that repeats itself
    told: dict[str, Any] = {
        "explore": {"kind": "epsilon_greedy", "epsilon": 0.7},
        "constraints": STATEFUL,
        "baseline": {"kind": "constant", "action": "hold", "last_resort": "hold"},
        "guard_clock": "observed_at",
        "limits": {"deadline_ms": 20_000},
    }
    with serving(tmp_path, **told) as served:
        served.permit()
        for i in range(200):
            seen = {"cpu": random.random(), "queue": random.random(), "replicas": 3.0}
            begins: dict[str, Any] = {} if i else {"previous": None}
            reply = await served.act(observation=seen, observed_at=NOW + i * 0.7, **begins)
            assert reply.status == 200
        decisions = served.decisions()
        replay = Replay(
            served.application.config.text(),
            served.application.schema,
            served.application.engine.manifest,
            served.application.keyring,
        )

    for decision, following in pairwise(decisions):
        replay.holds(decision)
        assert replay.after(decision) == following.state
    assert {name for decision in decisions for name in decision.state.kept} == {"spent", "switched", "moved"}
    assert {one.constraint for decision in decisions for one in decision.violations} == {c["name"] for c in STATEFUL}


VALVE = Box(fields=(Field(name="valve", low=-2, high=2),))
LIMITS: list[dict[str, Any]] = [
    {"kind": "rate_limit", "name": "moved", "of": "valve", "per_second": 0.4},
    {"kind": "bounds", "name": "never far", "of": "valve", "low": "cpu - 1.5", "high": 1.4},
    {"kind": "rule", "name": "kept", "forbid": "valve > 0.2 and queue > 0.4 or queue > 0.9"},
]


@pytest.mark.parametrize("constraints", [[], LIMITS[:1], LIMITS[1:], LIMITS])
async def test_what_a_controller_remembers_is_recomputed_from_record_to_record(
    tmp_path: Path, constraints: list[dict[str, Any]]
) -> None:
    """Its memory goes on with every decision, whoever made it, three sessions in a batch, bit for bit; an episode
    begins it anew, and a session that is not known here begins without one."""
    random = Random(13)  # noqa: S311 - a test that repeats itself
    told: dict[str, Any] = {
        "explore": {"kind": "gaussian"},
        "constraints": constraints,
        "baseline": {"kind": "pid", "of": "cpu / fade", "target": 0.4, "kp": 0.9, "ki": 0.3, "kd": 0.1},
        "facts": ["fade"],
        "guard_clock": "observed_at",
        "limits": {"deadline_ms": 20_000},
        "breaker": {"consecutive": 10_000, "minimum": 10_000},
    }
    told["baseline"] |= {"last_resort": [0.0], "forget_seconds": 2.0}
    with serving(tmp_path, gaussian(VALVE), **told) as served:
        served.permit()
        for i in range(120):
            rows = []
            for name in "abc":
                begins: dict[str, Any] = {"previous": None} if i % 50 == 0 and name != "c" else {}
                seen = [random.random(), random.random(), 3.0]
                facts = {"facts": {"fade": 0.5}} if random.random() < 0.9 else {}
                at = NOW + i * 0.7 + (9 if i > 60 else 0)
                rows.append(
                    asking(name, seen, observed_at=at, deadline_ms=random.choice((1e-6, 20_000)), **facts, **begins)
                )
            whole = await served.post("/act/batch", {"requests": rows})
            assert whole.status == 200
        application, decisions = served.application, served.decisions()
        replay = Replay(application.config.text(), application.schema, application.engine.manifest, application.keyring)

    assert len(decisions) == 360
    for name in "abc":
        mine = [decision for decision in decisions if decision.session == name]
        for decision, following in pairwise(mine):
            replay.holds(decision)
            assert following.state.step == 0 or replay.after(decision) == following.state
        assert [KEPT in decision.state.kept for decision in mine].count(True) > 100
    assert {decision.source for decision in decisions} == {"policy", "baseline", "last_resort"}
    # What the controller does is known from the record; whether an answer was late or failed a check is not.
    # Nor is how often a draw is refused by what it can only be asked about.
    why = {(decision.reason, decision.why_not_ok) for decision in decisions if not decision.propensity_ok}
    assert why <= {(None, "NotListed"), ("NoSafeAction", "NotListed"), *((one, one) for one in LATE_OR_FAILED)}
    assert any(decision.propensity_ok for decision in decisions)


async def test_a_controller_takes_over_without_a_jump(tmp_path: Path) -> None:
    """What the policy did is where it goes on from; without the memory it would begin at its proportion."""
    told: dict[str, Any] = {
        "baseline": {"kind": "pid", "of": "queue", "target": 0.5, "kp": 0.1, "ki": 0.01},
        "guard_clock": "observed_at",
    }
    told["breaker"] = {"consecutive": 10_000, "minimum": 10_000}
    with serving(tmp_path, gaussian(VALVE), limits={"deadline_ms": 20_000}, **told) as served:
        for i in range(20):
            late: dict[str, Any] = {"deadline_ms": 1e-6} if i >= 10 else {}
            begins: dict[str, Any] = {} if i else {"previous": None}
            await served.act(observation=[1.7, 0.2, 3.0], observed_at=NOW + i, **late, **begins)
        decisions = served.decisions()

    assert [decision.source for decision in decisions] == ["policy"] * 10 + ["baseline"] * 10
    expected = [[1.5 + 0.01 * 0.3 * max(0, i - 9)] for i in range(20)]
    assert np.allclose([decision.action for decision in decisions], expected, rtol=0, atol=1e-6)


TRUSTED: dict[str, tuple[bytes, bytes, list[dict[str, Any]]]] = {
    "of a list": (
        artefacts.demo(),
        ports.failing(version="0"),
        [{"kind": "rule", "name": "few", "forbid": "action == 'scale_up' and replicas < 0.5"}],
    ),
    "masked": (ports.masked(), ports.masked(version="0"), []),
    "factors": (factors(), factors(seed=4, version="0"), []),
    "numbers": (gaussian(VALVE), gaussian(VALVE, squash="tanh", version="0"), LIMITS[1:]),
}


@pytest.mark.parametrize("kind", TRUSTED)
async def test_what_a_trusted_policy_proposed_is_recomputed_from_its_file(tmp_path: Path, kind: str) -> None:
    """The artefact that the writer's first record names gives the same proposal for the record's observation alone,
    bit for bit, whatever else was in the batch."""
    policy, older, constraints = TRUSTED[kind]
    random = Random(17)  # noqa: S311 - a test that repeats itself
    (tmp_path / "older.onnx").write_bytes(older)
    told: dict[str, Any] = {"baseline": {"kind": "policy", "path": str(tmp_path / "older.onnx")}}
    told |= {"constraints": constraints, "limits": {"deadline_ms": 20_000}, "guard_clock": "observed_at"}
    told["breaker"] = {"consecutive": 10_000, "minimum": 10_000}
    with serving(tmp_path, policy, **told) as served:
        for i in range(30):
            rows = []
            for name in range(random.randrange(1, 9)):
                seen = [random.random(), random.gauss(0.3, 0.5) ** 2, random.random()]
                more: dict[str, Any] = {"allowed": [True, random.random() < 0.5, True]} if kind == "masked" else {}
                late = {"deadline_ms": random.choice((1e-6, 1e-6, 20_000))}
                rows.append(asking(f"s{name}", seen, observed_at=NOW + i, **late, **more))
            await served.post("/act/batch", {"requests": rows})
        application, decisions, writer = served.application, served.decisions(), served.records()[0]
        named = load_version(older, application.schema, application.engine.pool)
        config = application.config.text()
        replay = Replay(config, application.schema, application.engine.manifest, application.keyring, advising(named))

        assert isinstance(writer, Writer)
        assert named.digest in writer.versions.values()
        for decision in decisions:
            replay.holds(decision)
        assert [decision.source for decision in decisions].count("baseline") > 20
