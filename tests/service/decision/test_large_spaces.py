"""Factors whose choices are masked one by one, and spaces with more whole actions than are listed."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.spec import Factor, MultiDiscrete
from guards.abstention import AnyConstraint
from guards.actions import JOINT_LIMIT
from guards.baselines import Constant
from guards.batched import Shield
from guards.constraints import Bounds, Budget, Cooldown, MaxSwitches, Mode, RateLimit, Rule
from guards.errors import GuardMisconfigured
from guards.records import Action, History, Schema
from guards.shield import Violation
from service.config import Config
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Softmax
from service.decision.sessions import SessionState
from service.log.ids import Key, Keyring
from service.log.records import Decision, Refused, decode_record, encode_record, unlisted
from tests.acting import OBSERVATION, SWITCHES, factors
from tests.fakes import KEY, NOW, asked, batch_of, behaviour_of, context_of, manifest_of, recorded
from tests.guards.asked import spread
from tests.in_process import serving
from tests.judge import Judge, Session
from tests.service.decision.test_recompute import Replay
from tests.service.decision.test_unsafe import FACTS, ROWS, Case

EXPLORERS: dict[str, Explorer] = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(epsilon=0.3),
    "softmax": Softmax(temperature=0.7),
}
LEVELS = {f"fan={name}": float(i) for i, name in enumerate(SWITCHES.factors[2].names)}
# Each is about the choices of one factor; the last is about none.
APART: list[AnyConstraint] = [
    Rule(name="rule", forbid="fan == 'storm' and load > 0"),
    Cooldown(name="cooldown", actions=("valve=open",), seconds=9),
    Bounds(name="bounds", of="pods + fan", effect={"fan=slow": 1.0}, high=4.0),
    Budget(name="budget", cost="valve * load", at_most=9.0, seconds=60),
    RateLimit(name="levels", per_second=0.6, levels=LEVELS),
    RateLimit(name="effect", per_second=0.1, effect={"pump=on": 1.0}),
    Rule(name="all", forbid="load > 8"),
]
NEVER = Rule(name="never", forbid="pump == 'on' and fan == 'slow' and load > 1e9")
JOIN = Rule(name="join", forbid="pump == 'on' and fan == 'fast' or valve > fan and pump == 'off'")
SMALL = Schema(OBSERVATION, SWITCHES)
# The same factors among so many others that there is no list of whole actions.
MORE = tuple(Factor(name=f"x{i}", names=("off", "on")) for i in range(10))
LARGE = Schema(OBSERVATION, MultiDiscrete(factors=(*SWITCHES.factors, *MORE)))
WHOLE = list(itertools.product(*(range(size) for size in SWITCHES.sizes)))
HEAD = [0.1, 1.0, 0.9, 0.8, 0.1, 0.3, -1.0, 1.4, 0.9]
# A million whole actions.
TWENTY = MultiDiscrete(factors=tuple(Factor(name=f"s{i}", names=("off", "on")) for i in range(20)))
BATCH = 2000


def pasts() -> list[History]:
    """Sessions that begin, that acted, and whose history is not here."""
    after: dict[str, Any] = {"step": 2, "action": (1, 1, 2), "changed_at": NOW - 3, "used": {1: NOW - 3, 4: NOW - 5}}
    kept = {"levels": (NOW - 3,), "effect": (NOW - 2,), "budget": (NOW - 9, 8.0), "join": (NOW - 2,)}
    return [
        History(known=True, since=NOW),
        History(known=True, since=NOW - 20, **after, kept=kept),
        History(known=False, since=NOW - 2),
        History(known=False, since=NOW - 20, **after, kept=kept),
    ]


def widened(history: History) -> History:
    """The same past in the large space, where the other factors stayed off."""
    action = (*history.action, *[0] * len(MORE)) if isinstance(history.action, tuple) else history.action
    return History(history.known, history.since, history.step, action, history.changed_at, history.used, history.kept)


class TestApart:
    """Constraints that are each about one factor: nothing is listed."""

    def test_nothing_is_joined(self) -> None:
        """Whatever the size of the space, and although doubts and requests' masks stand beside them."""
        for schema in (SMALL, LARGE):
            shield = Shield(APART, schema)
            assert (shield.joins, shield.refuses, shield.domain.joined) == (False, False, False)
            assert shield.domain.shape == (schema.action.width,)

    @pytest.mark.parametrize("seed", range(20))
    def test_what_is_allowed_is_what_the_list_of_whole_actions_leaves(self, seed: int) -> None:
        """Choice by choice, in all pasts, of every action, by the mask and by the check."""
        rng = np.random.default_rng(seed)
        histories = pasts() * 5
        observation = np.round(rng.normal(size=(len(histories), 3)) * 4, 1).tolist()
        mask = (rng.random((len(histories), SWITCHES.width)) < 0.8).tolist() if seed % 2 else None
        context = context_of(observation, mask=mask, histories=histories)
        apart, joint = Shield(APART, SMALL), Shield([*APART, NEVER], SMALL)
        assert joint.domain.joined

        left = spread(joint.one, apart.judge(context).allowed)

        listed = joint.judge(context).allowed
        assert np.array_equal(left, listed)
        assert np.array_equal(apart.domain.choosable(apart.judge(context).allowed), joint.domain.choosable(listed))
        for i, action in enumerate(WHOLE):
            actions = np.array([action] * len(histories))
            assert np.array_equal(apart.check(context, actions), listed[:, i])
            assert apart.weights(context, actions) == joint.weights(context, actions)

    def test_the_history_goes_on_as_in_the_list(self) -> None:
        """What each constraint keeps of whole actions is the same."""
        apart, joint = Shield(APART, SMALL), Shield([*APART, NEVER], SMALL)

        for history, action in itertools.product(pasts(), WHOLE):
            weights = [2.5, 0.0, 0.0]
            assert apart.advanced(history, action, NOW, weights) == joint.advanced(history, action, NOW, weights)

    @pytest.mark.parametrize("kind", EXPLORERS)
    def test_the_distribution_is_that_of_the_list(self, kind: str) -> None:
        """Every whole action has the same probability, which is logged with it."""
        said = []
        for constraints in (APART, [*APART, NEVER]):
            behaviour = behaviour_of(
                constraints, schema=SMALL, explorer=EXPLORERS[kind], baseline=Constant(action=(0, 0, 0)), key=KEY
            )
            rows = [asked(entry=SessionState("before", "episode", pasts()[0]))] * BATCH
            records = recorded(behaviour, batch_of(rows), np.tile(np.array(HEAD), (BATCH, 1)))
            decisions = [one for one in records if isinstance(one, Decision)]
            said.append({one.action: one.propensity for one in decisions})
            assert {one.source for one in decisions} == {"policy"}
            assert all(one.propensity_ok for one in decisions)

        assert said[0].keys() == said[1].keys()
        assert len(said[0]) == (1 if kind == "greedy" else 12)
        assert all(said[0][action] == pytest.approx(said[1][action], rel=1e-12) for action in said[0])

    def test_what_is_said_is_said_by_name(self) -> None:
        """Of what was masked, and of what only reports."""
        constraints = [
            Rule(name="masks", forbid="fan == 'fast'"),
            Rule(name="told", forbid="valve == 'closed'", mode="audit"),
            Rule(name="lenient", forbid="fan > 0 and price > 1", on_error="allow"),
        ]
        behaviour = behaviour_of(
            constraints, schema=Schema(OBSERVATION, SWITCHES, ("price",)), baseline=Constant(action=(0,) * 3)
        )

        (record,) = recorded(behaviour, batch_of([asked()]), np.array([HEAD]))

        assert isinstance(record, Decision)
        assert (record.proposed, record.action) == ((1, 0, 2), (1, 0, 3))
        assert record.violations == [
            Violation("masks", "prevented"),
            Violation("told", "reported", "audit"),
            Violation("lenient", "reported", "warn"),
        ]
        assert record.allowed == [True] * 7 + [False, True]

    def test_many_choices_of_one_factor_are_no_whole_actions(self) -> None:
        """Nor do more factors than can be multiplied."""
        space = MultiDiscrete(
            factors=(
                Factor(name="dial", names=tuple(f"d{i}" for i in range(9000))),
                *(Factor(name=f"s{i}", names=("off", "on")) for i in range(100)),
            )
        )
        shield = Shield([Rule(name="r", forbid="dial > 4500")], Schema(OBSERVATION, space))

        allowed = shield.judge(context_of([[0, 0, 0]])).allowed

        assert allowed[0].tolist() == [i <= 4500 or i >= 9000 for i in range(space.width)]

    def test_a_mistake_is_still_one(self) -> None:
        """A name that another factor has is no field, although its rule could be bound without that factor."""
        action = MultiDiscrete(factors=(Factor(name="load", names=("off", "on")), *SWITCHES.factors))

        with pytest.raises(
            GuardMisconfigured, match="0, 'r': expression 'load > 1 and pump > 0', column 1: 'load' is a f"
        ):
            Shield([Rule(name="r", forbid="load > 1 and pump > 0")], Schema(OBSERVATION, action))


class TestJoined:
    """Constraints that join factors of more whole actions than are listed."""

    JOINING: tuple[AnyConstraint, ...] = (
        JOIN,
        Rule(name="sum", forbid="pump + valve + fan > 3 and fan != 'slow'"),
        Rule(name="in", forbid="fan in ('slow', 'storm') and valve not in ('half', 'open') or 'on' == pump"),
        Cooldown(name="join", actions=("pump=on", "fan=fast"), seconds=9),
        Bounds(name="join", of="pods", effect={"pump=on": 1.0, "fan=slow": 1.0, "valve=open": -2.0}, low=2.0, high=4.0),
        Budget(name="budget", cost="fan + (2 if pump == 'on' else 0)", at_most=9.5, seconds=60),
        RateLimit(name="join", per_second=0.6, levels={**LEVELS, "pump=off": 0.5, "pump=on": 3.0}),
        RateLimit(name="join", per_second=0.6, effect={"pump=on": 1.0, "fan=fast": 2.0}),
        MaxSwitches(name="join", at_most=1, seconds=9),
    )

    @pytest.mark.parametrize("constraint", JOINING, ids=lambda one: f"{type(one).__name__}-{one.name}")
    def test_single_actions_are_told_as_by_the_list(self, constraint: AnyConstraint) -> None:
        """Whether they pass, what they count for and what is kept, in all pasts."""
        small, large = Shield([constraint], SMALL), Shield([constraint], LARGE)
        assert (small.joins, small.refuses, large.joins, large.refuses) == (True, False, False, True)
        here, there = (
            context_of([[0.5, 0, 3]] * 4, histories=some) for some in (pasts(), [widened(one) for one in pasts()])
        )
        found = set()
        for action in WHOLE:
            few, many = np.array([action] * 4), np.array([(*action, *[0] * len(MORE))] * 4)
            passes = small.check(here, few).tolist()
            found |= set(passes)
            assert large.check(there, many).tolist() == passes
            ruling, rows = large.judge(there), np.arange(4)
            ((_, _, hits),) = ruling.forbidding(rows, large.domain.columns(many))
            assert np.broadcast_to(hits, 4).tolist() == [not one for one in passes]
            assert large.weights(there, many) == small.weights(here, few) if small.weighs else not large.weighs
            for before in pasts():
                after = small.advanced(before, action, NOW, [1.5])
                assert large.advanced(widened(before), tuple(many[0].tolist()), NOW, [1.5]) == widened(after)

        assert found == {True, False}

    def test_another_factor_is_a_switch(self) -> None:
        """Any change of any factor."""
        shield = Shield([MaxSwitches(name="join", at_most=1, seconds=9)], LARGE)
        context = context_of([[0, 0, 0]], histories=[widened(pasts()[1])])

        same, other = (1, 1, 2, *[0] * 10), (1, 1, 2, *[0] * 9, 1)

        assert [shield.check(context, np.array([one])).item() for one in (same, other)] == [True, False]

    @pytest.mark.parametrize("mode", ["warn", "audit"])
    def test_what_only_reports_refuses_nothing(self, mode: Mode) -> None:
        """It is told of what was executed."""
        told = JOIN.model_copy(update={"mode": mode})
        behaviour = behaviour_of([told], schema=LARGE, baseline=Constant(action=(0,) * 13))
        head = np.array([[*HEAD, *[1.0, 0.0] * 10], [*HEAD[:7], 0.0, 0.9, *[1.0, 0.0] * 10]])

        records = recorded(behaviour, batch_of([asked()] * 2), head)

        assert behaviour.shield.reports
        assert not behaviour.shield.refuses
        assert [(r.source, r.propensity_ok, r.violations) for r in records if isinstance(r, Decision)] == [
            ("policy", True, [Violation("join", "reported", mode)]),
            ("policy", True, []),
        ]

    def test_a_refused_draw_is_the_baselines(self) -> None:
        """The reason is that of nothing left; who refused it is said. A certain draw makes it certain."""
        behaviour = behaviour_of([JOIN], schema=LARGE, baseline=Constant(action=(0,) * 13))

        (record,) = recorded(behaviour, batch_of([asked()]), np.array([[*HEAD, *[1.0, 0.0] * 10]]))

        assert isinstance(record, Decision)
        assert (record.source, record.reason, record.action) == ("baseline", "NoSafeAction", (0,) * 13)
        assert record.violations == [Violation("join", "prevented")]
        assert (record.propensity, record.propensity_ok, record.why_not_ok) == (1.0, True, None)

    @pytest.mark.parametrize("last", [None, (1, 0, 2, *[0] * 10)])
    def test_a_refused_baseline_is_the_last_resort(self, last: Action | None) -> None:
        """Which leaves although it is refused too, and is told; without one nothing leaves."""
        baseline = Constant(action=(0, 2, 0, *[0] * 10), last_resort=last if isinstance(last, tuple) else None)
        behaviour = behaviour_of([JOIN], schema=LARGE, baseline=baseline, explorer=Softmax())
        rows = [asked(explore=explore) for explore in (False, True)]
        mask = [False, True, True, False, False, False, False, True, False, *[True] * 20]
        head = np.array([[*HEAD, *[0.1, 0.0] * 10]] * 2)

        records = recorded(behaviour, batch_of([asked(mask=mask, explore=row.explore) for row in rows]), head)

        prevented = Violation("join", "prevented")
        if last is None:
            masked = Violation("allowed", "prevented")
            assert [(type(r), r.violations) for r in records] == [(Refused, [prevented, masked])] * 2
        executed = Violation("join", "executed")
        assert [(r.source, r.propensity_ok) for r in records if isinstance(r, Decision)] == (
            [] if last is None else [("last_resort", True), ("last_resort", False)]
        )
        assert all(executed in r.violations for r in records if isinstance(r, Decision))

    def test_a_row_that_the_policy_cannot_decide_has_no_draw(self) -> None:
        """Alone and beside others; whose baseline's action is certain."""
        behaviour = behaviour_of([JOIN], schema=LARGE, baseline=Constant(action=(0,) * 13), explorer=Softmax())
        broken, sound = [np.nan] * 29, [0.0, 9.0, 9.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, *[9.0, 0.0] * 10]

        alone = recorded(behaviour, batch_of([asked()]), np.array([broken]))
        beside = recorded(behaviour, batch_of([asked()] * 2), np.array([broken, sound]))

        told = [(r.reason, r.propensity_ok) for r in (*alone, *beside) if isinstance(r, Decision)]
        assert told == [("InvalidOutput", True), ("InvalidOutput", True), (None, True)]

    @pytest.mark.parametrize("kind", EXPLORERS)
    def test_decisions_are_recomputed(self, kind: str) -> None:
        """From the line in the journal, with what is not known of their propensities."""
        config = Config(
            name="large",
            policy="any.onnx",
            explore=EXPLORERS[kind],
            constraints=(*APART, JOIN, JOIN.model_copy(update={"name": "told", "mode": "warn"})),
            baseline=Constant(action=(0, 0, 0, *[0] * 10), last_resort=(0,) * 13),
        )
        keyring = Keyring({3: Key(3, b"large" * 7)})
        behaviour = behaviour_of(
            config.constraints, schema=LARGE, explorer=EXPLORERS[kind], baseline=config.baseline, key=keyring.current
        )
        rng, ways = np.random.default_rng(4), Counter[Any]()
        rows = [asked(entry=SessionState("a", "b", widened(pasts()[i % 4])), explore=i % 5 > 0) for i in range(400)]
        head = np.concatenate([rng.normal(size=(400, 9)), np.tile([3.0, 0.0], (400, 10))], axis=1).astype(np.float32)
        replay = Replay(config.text(), LARGE, manifest_of(action=LARGE.action, head="logits"), keyring)
        for record in recorded(behaviour, batch_of(rows), head):
            decision = decode_record(encode_record(record))
            assert isinstance(decision, Decision)
            context = replay.context(decision)
            ruling = replay.shield.judge(context)
            assert unlisted(decision.allowed, "bool").tolist() == ruling.allowed[0].tolist()
            otherwise, source = replay.fallen_back(context, ruling)
            reason, drawn = replay.reason(decision, ruling), None
            chosen, refused, known = otherwise, [], True
            if reason is None:
                drawn = replay.drawn(decision, ruling)
                columns = replay.shield.domain.columns(np.array([drawn[1]]))
                against = ruling.forbidding(np.array([0]), columns)
                refused = [Violation(name, "prevented") for name, mode, hit in against if mode == "deny" and hit[0]]
                known = drawn[2] == 1 or not (refused or drawn[1] == otherwise[1])
                chosen, source, reason = (otherwise, source, "NoSafeAction") if refused else (drawn, "policy", None)
            logged = (decision.proposed, decision.action, decision.propensity, decision.explored, decision.measure)
            assert (logged, decision.source, decision.reason) == (chosen, source, reason)
            assert decision.why_not_ok == (None if known else "NotListed")
            said = [one for one in replay.violations(ruling, chosen[0], chosen[1]) if one not in refused]
            assert decision.violations == refused + said
            ways[source, reason, known] += 1

        assert len(ways) >= (2 if kind == "greedy" else 4), ways


def chance(explorer: Explorer, scores: Mapping[Any, float], action: Any) -> float:
    """The probability of an action that the masks leave, by the book."""
    if isinstance(explorer, Softmax):
        weights = {a: float(np.exp(score / explorer.temperature)) for a, score in scores.items()}
        return float(weights[action] / sum(weights.values()))
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    return epsilon / len(scores) + (1 - epsilon) * bool(action == max(scores, key=lambda a: scores[a]))


@pytest.mark.parametrize("large", [False, True], ids=["apart", "joined"])
@pytest.mark.parametrize("kind", EXPLORERS)
def test_frequencies_are_propensities(kind: str, large: bool) -> None:
    """In 100,000 decisions; where draws are refused, of all that is not the baseline's. That much is told."""
    explorer, draws = EXPLORERS[kind], 100_000
    schema, constraints = (LARGE, [*APART, JOIN]) if large else (SMALL, APART)
    others = (0,) * len(MORE) if large else ()
    # Of the other factors one choice is left.
    mask = [*[True] * 5, False, *[True] * 3, *([True, False] * len(MORE) if large else [])]
    home = (0, 1, 1, *others)
    behaviour = behaviour_of(
        constraints, schema=schema, explorer=explorer, baseline=Constant(action=home), key=Key(1, b"frequent" * 5)
    )
    judge, named = Judge(constraints, schema), {"load": 0.5, "lag": 0.0, "pods": 2.0}
    masking, session = Judge(APART, schema), Session()
    scores = {
        (*a, *others): HEAD[a[0]] + HEAD[2 + a[1]] + HEAD[5 + a[2]]
        for a in WHOLE
        if a[2] > 0 and not masking.unsafe(session, NOW, named, (*a, *others))
    }
    safe = {a for a in scores if not judge.unsafe(session, NOW, named, a)}
    assert home in safe
    assert (len(safe) < len(scores)) is large
    rows = [asked(observation=tuple(named.values()), mask=mask)] * BATCH
    heads = np.tile(np.array([*HEAD, *[0.3, 0.2] * len(others)]), (BATCH, 1))
    counts: Counter[Any] = Counter()
    for batch in range(draws // BATCH):
        for record in recorded(behaviour, batch_of(rows, seq=1 + batch * BATCH), heads):
            assert isinstance(record, Decision)
            counts[record.action] += 1
            assert (record.source, record.reason) in (("policy", None), ("baseline", "NoSafeAction"))
            assert large or record.source == "policy"
            if kind != "greedy" and large and record.action == home:
                assert (record.propensity_ok, record.why_not_ok) == (False, "NotListed")
            else:
                certain = 1.0 if record.source == "baseline" else chance(explorer, scores, record.action)
                assert record.propensity == pytest.approx(certain, rel=1e-12)
                assert (record.propensity_ok, record.why_not_ok) == (True, None)

    assert set(counts) <= safe
    refused = sum(chance(explorer, scores, a) for a in scores if a not in safe)
    for action in safe:
        expected = min(1.0, chance(explorer, scores, action) + refused * (action == home))
        assert abs(counts[action] - draws * expected) <= 4.5 * np.sqrt(draws * expected * (1 - expected)) + 1e-6


class Apart(Case):
    """A random service whose constraints are each about one factor, or about none."""

    def pinned(self, seed: int) -> Schema:
        return super().pinned(seed * 2)

    def about(self) -> str:
        one = self.random.choice(self.factors)
        return self.random.choice(
            (
                f"{one.name} == {self.random.choice(one.names)!r}",
                f"{one.name} not in {(*self.random.choices(one.names, k=2),)!r}",
                f"{one.name} * 2 > {self.random.randrange(4)}",
                "f0 < 1",
            )
        )

    def constraint(self, name: str) -> AnyConstraint:
        # Each is about a factor of its own choice.
        space = self.schema.action
        assert isinstance(space, MultiDiscrete)
        self.factors, names = [self.random.choice(space.factors)], self.names
        self.names = [f"{one.name}={choice}" for one in self.factors for choice in one.names]
        made = super().constraint(name)
        self.names = names
        return made if not isinstance(made, MaxSwitches) else self.constraint(name)


class Large(Case):
    """A random service over thousands or millions of whole actions, whose constraints join factors or not."""

    def pinned(self, seed: int) -> Schema:
        factors = [Factor(name=f"k{i}", names=tuple(f"x{j}" for j in range(2 + (i + seed) % 3))) for i in range(12)]
        plain = super().pinned(1)
        return Schema(plain.observation, MultiDiscrete(factors=tuple(factors)), FACTS)


def test_no_unsafe_action_leaves() -> None:
    """50,000 decisions of each: on every path, with all kinds of constraints."""
    for world in (Apart, Large):
        found = Counter[str]()
        for seed in range(50):
            case = world(seed)
            assert case.behaviour.shield.joins is False
            found["refuses"] += case.behaviour.shield.refuses
            for _ in range(4):
                found += case.outcome()
        assert sum(found[path] for path in ("policy", "baseline", "last_resort", "refused")) == 50 * 4 * ROWS
        assert (found["refuses"] > 25) is (world is Large)
        assert min(found[what] for what in ("policy", "baseline", "last_resort", "refused", "unknown", "masked")) > 500


RESTS = Cooldown(name="rests", actions=("s0=on",), seconds=60)
APIECE = Rule(name="apiece", forbid="s1 == 'on' and s2 == 'on' or s3 + s4 + s5 + s6 + s7 + s8 + s9 > 5")


def test_a_million_whole_actions_are_decided() -> None:
    """Two sessions' worth of them: what rests is masked, what joins is refused, and both hold."""
    assert np.prod(TWENTY.sizes) > 200 * JOINT_LIMIT
    schema = Schema(OBSERVATION, TWENTY)
    behaviour = behaviour_of([RESTS, APIECE], schema=schema, explorer=Softmax(), baseline=Constant(action=(0,) * 20))
    used = History(known=True, since=NOW - 9, step=1, action=(1, *[0] * 19), used={0: 0.0, 1: NOW - 9})
    rows = [asked(entry=SessionState("a", "b", used if i % 2 else History(known=True, since=NOW))) for i in range(2000)]
    head = np.tile(np.array([0.0, 1.0] * 20), (2000, 1))

    records = recorded(behaviour, batch_of(rows), head)

    paths: Counter[Any] = Counter()
    for i, record in enumerate(records):
        assert isinstance(record, Decision)
        assert isinstance(record.action, tuple)
        assert record.action[1] + record.action[2] < 2
        assert sum(record.action[3:10]) <= 5
        assert record.allowed == [True, i % 2 == 0, *[True] * 38]
        assert record.action[0] == 0 or i % 2 == 0
        paths[record.source, record.propensity_ok, record.why_not_ok] += 1
        if record.source == "policy":
            pick = 1 / (1 + np.exp(-1.0))
            some = record.action[i % 2 :]
            assert record.propensity == pytest.approx(np.prod([pick if one else 1 - pick for one in some]), rel=1e-9)
    assert paths.keys() == {("policy", True, None), ("baseline", False, "NotListed")}
    assert min(paths.values()) > 200


def test_a_million_whole_actions_are_served(tmp_path: Path) -> None:
    """Over HTTP, with what was refused in the report."""
    told = [one.model_dump() for one in (RESTS, APIECE)]

    async def served() -> None:
        baseline = {"kind": "constant", "action": [0] * 20, "last_resort": [0] * 20}
        explore = {"kind": "softmax", "temperature": 1.0}
        with serving(
            tmp_path,
            factors(TWENTY),
            constraints=told,
            baseline=baseline,
            explore=explore,
            limits={"deadline_ms": 20_000},
        ) as server:
            server.permit()
            sources: Counter[str] = Counter()
            on: dict[str, bool] = {}
            for i in range(120):
                session = f"s{i % 3}"
                answer = (await server.act(session, {"cpu": 0.1, "queue": 0.2, "replicas": 0.1})).json()
                action = answer["action"]
                assert action[1] + action[2] < 2
                assert sum(action[3:10]) <= 5
                assert not (on.get(session) and action[0])
                on[session] = on.get(session, False) or bool(action[0])
                sources[answer["source"]] += 1
            report = (await server.get("/report")).json()
            assert sources.keys() == {"policy", "baseline"}
            assert report["fallbacks"] == {"NoSafeAction": sources["baseline"]}
            assert report["propensity_not_ok"]["by_reason"] == {"NotListed": sources["baseline"]}
            assert report["safety_violations"]["prevented"]["by_constraint"]["apiece"] >= sources["baseline"]
            assert report["safety_violations"]["executed"]["total"] == 0

    asyncio.run(served())
