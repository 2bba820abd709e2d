"""A policy that says what it chose and no more: what is forbidden has no second best, and nobody makes one up."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.spec import Discrete, Factor, MultiDiscrete
from guards.abstention import Confidence, Doubts, Fresh, Quorum
from guards.baselines import Constant
from guards.batched import Context, Domain
from guards.constraints import Rule
from guards.errors import GuardMisconfigured, InvalidOutput
from guards.records import Action, Schema
from guards.shield import Violation
from service.config import Config, ConfigInvalid
from service.decision.batch import Batch, Behaviour
from service.decision.decide import context_of, row_of
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Normal, Softmax
from service.log.ids import Key, make_keyring
from service.log.records import Decision, Refused
from service.startup import bound
from tests import acting
from tests.acting import BOUNDED, OBSERVATION, SWITCHES
from tests.artefacts import ACTIONS
from tests.fakes import SCHEMA, asked, batch_of, behaviour_of, manifest_of, recorded
from tests.in_process import Serving, serving
from tests.service.decision.explore.test_factors import space_of

EXPLORERS: dict[str, Explorer] = {
    "greedy": Greedy(),
    "sometimes": EpsilonGreedy(epsilon=0.4),
    "always": EpsilonGreedy(epsilon=1.0),
}
SWITCHED = Schema(OBSERVATION, SWITCHES)
LARGE = Schema(
    OBSERVATION,
    MultiDiscrete(factors=(*SWITCHES.factors, *(Factor(name=f"x{i}", names=("off", "on")) for i in range(10)))),
)
WHOLE = list(itertools.product(*(range(size) for size in SWITCHES.sizes)))
# The policy chose `jump`, or pump on, valve open and fan fast; `hold` stands first, and so does everything off.
JUMP, FAST = 3, (1, 2, 2)
NO_JUMP = Rule(name="no jump", forbid="action == 'jump'")
NOT_FAST = Rule(name="not fast", forbid="fan == 'fast'")
NOT_BOTH = Rule(name="not both", forbid="pump == 'on' and fan == 'fast'")
N = 4000


def ones(space: Discrete | MultiDiscrete, action: Action) -> np.ndarray:
    """The head that says an action."""
    sizes = (space.n,) if isinstance(space, Discrete) else space.sizes
    choices = action if isinstance(action, tuple) else (action,)
    return np.concatenate([np.eye(size)[int(one)] for size, one in zip(sizes, choices, strict=True)])


def behaviour_over(schema: Schema, *constraints: Rule, explorer: Explorer | None = None, **told: Any) -> Behaviour:
    """A plane whose policy has no scores, and whose baseline rests where nothing else is said."""
    rest = Constant(action="rest" if schema is SCHEMA else (0, 1, 1, *[0] * (len(schema.choices) - 9 >> 1)))
    plain: dict[str, Any] = {"baseline": rest, "key": Key(1, b"overruled" * 4)}
    return behaviour_of(constraints, schema=schema, explorer=explorer, scores=False, **(plain | told))


def decided(behaviour: Behaviour, action: Action, count: int = N, **changes: Any) -> list[Decision]:
    """Decide so many rows in which the policy chose an action."""
    space = behaviour.schema.action
    assert isinstance(space, Discrete | MultiDiscrete)
    head = np.tile(ones(space, action), (count, 1))
    records = recorded(behaviour, batch_of([asked(**changes) for _ in range(count)]), head)
    assert all(isinstance(record, Decision) for record in records)
    return [record for record in records if isinstance(record, Decision)]


def one_row(behaviour: Behaviour, mask: list[bool] | None = None) -> Batch:
    """A batch of one row, as the guards see it."""
    batch = batch_of([asked(mask=mask)])
    batch.rows = [row_of(behaviour, batch.requests[0], batch.observation[0].tolist())]
    return batch


def context_for(behaviour: Behaviour, mask: list[bool] | None = None) -> Context:
    """What the guards see of one row."""
    return context_of(one_row(behaviour, mask), 0)


def mask_without(schema: Schema, *forbidden: int) -> list[bool]:
    """A request's mask that forbids some choices."""
    return [i not in forbidden for i in range(len(schema.choices))]


FORBIDDEN: dict[str, tuple[Schema, tuple[Rule, ...], list[bool] | None, str]] = {
    "discrete, by a rule": (SCHEMA, (NO_JUMP,), None, "no jump"),
    "discrete, by the request": (SCHEMA, (), mask_without(SCHEMA, JUMP), "allowed"),
    "factors, by a rule": (SWITCHED, (NOT_FAST,), None, "not fast"),
    "factors, by the request": (SWITCHED, (), mask_without(SWITCHED, 7), "allowed"),
    "joined, by a rule": (SWITCHED, (NOT_BOTH,), None, "not both"),
    "joined, by the request": (SWITCHED, (NOT_BOTH,), mask_without(SWITCHED, 4), "allowed"),
    "too many to list, by a rule": (LARGE, (NOT_BOTH,), None, "not both"),
    "too many to list, by the request": (LARGE, (NOT_BOTH,), mask_without(LARGE, 7), "allowed"),
}


def chosen_in(schema: Schema) -> Action:
    """What the policy chose."""
    return JUMP if schema is SCHEMA else FAST if schema is SWITCHED else (*FAST, *[1] * 10)


class TestForbidden:
    """Rows whose one chosen action may not be done."""

    @pytest.mark.parametrize("kind", EXPLORERS)
    @pytest.mark.parametrize("case", FORBIDDEN)
    def test_the_baseline_decides_and_that_is_certain(self, kind: str, case: str) -> None:
        """Whatever explores: never the first of what is left, and no coin is tossed that a propensity has to know."""
        schema, rules, mask, name = FORBIDDEN[case]
        behaviour = behaviour_over(schema, *rules, explorer=EXPLORERS[kind])

        for record in decided(behaviour, chosen_in(schema), 200, mask=mask):
            assert (record.source, record.reason) == ("baseline", "NoSafeAction")
            assert record.action == Domain(schema.action).told(behaviour.baseline(context_for(behaviour)))[0]
            assert (record.propensity, record.measure, record.explored) == (1.0, "mass", False)
            assert (record.propensity_ok, record.why_not_ok) == (True, None)
            assert Violation(name, "prevented", "deny") in record.violations

    @pytest.mark.parametrize("kind", EXPLORERS)
    def test_where_the_baseline_may_not_either_the_last_resort_leaves_or_nothing(self, kind: str) -> None:
        """As for any other reason: the ladder goes on, and the first index is not on it."""
        rules = (NO_JUMP, Rule(name="no rest", forbid="action == 'rest'"))
        resort = behaviour_over(
            SCHEMA, *rules, explorer=EXPLORERS[kind], baseline=Constant(action="rest", last_resort="down")
        )
        none = behaviour_over(SCHEMA, *rules, explorer=EXPLORERS[kind])

        records = decided(resort, JUMP, 50)
        refused = recorded(none, batch_of([asked()]), ones(SCHEMA.action, JUMP)[None])  # type: ignore[arg-type]

        assert {(record.action, record.source, record.propensity) for record in records} == {(2, "last_resort", 1.0)}
        assert isinstance(refused[0], Refused)
        assert refused[0].reason == "NoSafeAction"

    def test_what_only_warns_forbids_nothing(self) -> None:
        """The chosen action is done, and told of."""
        (record,) = decided(behaviour_over(SCHEMA, NO_JUMP.model_copy(update={"mode": "warn"})), JUMP, 1)

        assert (record.action, record.source) == (JUMP, "policy")
        assert [one.verdict for one in record.violations] == ["reported"]

    def test_rows_of_a_batch_are_overruled_one_by_one(self) -> None:
        """The others are decided as if they were alone, each with its own draw."""
        behaviour = behaviour_over(SCHEMA, NO_JUMP, explorer=EXPLORERS["sometimes"])
        chosen = [JUMP, 1, JUMP, 2, 5, JUMP]
        head = np.array([ones(SCHEMA.action, one) for one in chosen])  # type: ignore[arg-type]

        together = recorded(behaviour, batch_of([asked() for _ in chosen]), head)
        alone = [recorded(behaviour, batch_of([asked()], seq=1 + i), head[i : i + 1])[0] for i in range(len(chosen))]

        assert [record.reason for record in together] == ["NoSafeAction" if one == JUMP else None for one in chosen]
        for one, other in zip(together, alone, strict=True):
            assert isinstance(one, Decision)
            assert isinstance(other, Decision)
            assert (one.id, one.action, one.propensity) == (other.id, other.action, other.propensity)

    def test_a_policy_with_scores_has_a_second_best(self) -> None:
        """What is new is for those without: the same head, said to be scores, is drawn from as before."""
        behaviour = behaviour_of((NO_JUMP,), schema=SCHEMA)

        (record,) = decided(behaviour, JUMP, 1)

        assert (record.source, record.action) == ("policy", 0)


class TestAllowed:
    """Rows whose chosen action may be done, and what exploring does around it."""

    @pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize(
        ("schema", "rules", "mask"),
        [
            (SCHEMA, (Rule(name="r", forbid="action in ('hold', 'up')"),), None),
            (SCHEMA, (), mask_without(SCHEMA, 0, 1, 5)),
            (SWITCHED, (Rule(name="r", forbid="valve == 'closed'"),), mask_without(SWITCHED, 5)),
            (SWITCHED, (Rule(name="r", forbid="pump == 'off' and fan == 'still'"),), None),
        ],
        ids=["rule", "request", "factors", "joined"],
    )
    def test_propensities_are_frequencies(
        self, schema: Schema, rules: tuple[Rule, ...], mask: list[bool] | None, epsilon: float
    ) -> None:
        """Of the policy's choice 1 - epsilon and its share of epsilon, of every other allowed action that share."""
        behaviour, chosen = behaviour_over(schema, *rules, explorer=EpsilonGreedy(epsilon=epsilon)), chosen_in(schema)
        left = behaviour.judge(one_row(behaviour, mask).rows[0])
        actions: list[Action] = list(range(6)) if schema is SCHEMA else [*WHOLE]
        allowed = [a for a in actions if behaviour.acting.placed(a, left) is not None]
        expected = {a: epsilon / len(allowed) + (1 - epsilon) * (a == chosen) for a in allowed}

        records = decided(behaviour, chosen, mask=mask)

        counts = Counter(record.action for record in records)
        assert 1 < len(allowed) < len(actions)
        for record in records:
            assert (record.source, record.reason, record.propensity_ok) == ("policy", None, True)
            assert record.propensity == pytest.approx(expected[record.action], abs=1e-12)
            assert record.explored == (record.action != chosen)
        for action, chance in expected.items():
            assert abs(counts[action] - N * chance) <= 5 * np.sqrt(N * chance * (1 - chance)) + 1e-9

    def test_greedily_it_is_the_chosen_action(self) -> None:
        """In every space, and for every action that there is."""
        for schema, actions in ((SCHEMA, range(6)), (SWITCHED, WHOLE)):
            for action in actions:
                (record,) = decided(behaviour_over(schema, explorer=EXPLORERS["always"]), action, 1, explore=False)
                assert (record.action, record.propensity, record.explorer) == (action, 1.0, "greedy")


class TestSound:
    """Heads that say no action."""

    @pytest.mark.parametrize(
        "row",
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 0, 1, 0, 0],
            [0, 0.9, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, -1],
            [0, 1, 0, 0, 0, np.nan],
            [np.nan] * 6,
            [0, np.inf, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],
        ],
        ids=str,
    )
    def test_what_is_no_choice_is_no_action(self, row: list[float]) -> None:
        """The first of zeros is nobody's choice, nor is the first of two ones: the baseline decides."""
        behaviour = behaviour_over(SCHEMA, explorer=EXPLORERS["sometimes"])

        (record,) = recorded(behaviour, batch_of([asked()]), np.array([row], dtype=np.float32))

        assert isinstance(record, Decision)
        assert (record.reason, record.source, record.action) == ("InvalidOutput", "baseline", 4)

    def test_each_factor_has_a_choice(self) -> None:
        """One that lacks it, or has two, spoils the row."""
        factor_acting = acting_of(Greedy(), space_of((2, 3)), "none", scores=False)
        heads = np.array([[1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 1]], dtype=np.float32)

        assert factor_acting.read(heads[0]) == [[1, 0], [0, 1, 0]]
        for head in heads[1:]:
            with pytest.raises(InvalidOutput):
                factor_acting.read(head)


class TestStart:
    """What goes by scores does not start beside a policy that has none."""

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            (
                {"explore": {"kind": "softmax", "temperature": 0.5}},
                "explore.kind: was 'softmax', expected 'greedy' or 'epsilon_greedy': the policy has no scores",
            ),
            (
                {"constraints": [{"kind": "confidence", "name": "sure", "at_least": 0.1}]},
                "constraints.0, 'sure': compares scores, and the artefact has none, expected more than a chosen action",
            ),
            (
                {"constraints": [{"kind": "confidence", "name": "sure", "at_least": 0.1, "mode": "audit"}]},
                "constraints.0, 'sure': compares scores",
            ),
            (
                {"constraints": [{"kind": "quorum", "name": "agreed", "at_most": 0.1}]},
                "constraints.0, 'agreed': the artefact has no spread, expected one of an ensemble",
            ),
        ],
        ids=["softmax", "confidence", "confidence that only counts", "quorum"],
    )
    @pytest.mark.parametrize("space", [None, SWITCHES], ids=["discrete", "factors"])
    def test_it_is_refused_with_its_place(
        self, tmp_path: Path, space: MultiDiscrete | None, settings: dict[str, Any], problem: str
    ) -> None:
        """Before anything is served, with what it was and what was expected."""
        baseline = {"kind": "constant", "action": "hold" if space is None else [0, 0, 0]}

        with (
            pytest.raises(ConfigInvalid) as error,
            serving(tmp_path, acting.chosen(space), baseline=baseline, **settings),
        ):
            raise AssertionError

        assert str(error.value).startswith(problem)

    def test_what_needs_no_scores_starts(self, tmp_path: Path) -> None:
        """Greed, a coin, and doubts about observations and their age; of a Box, noise around the action."""
        told = {"name": "demo", "policy": "demo.onnx", "baseline": {"kind": "constant", "action": "hold"}}
        keyring = make_keyring(tmp_path / "keyring.json")
        manifest = manifest_of(head="logits", scores=False)
        for explore in ({"kind": "greedy"}, {"kind": "epsilon_greedy", "epsilon": 0.1}):
            behaviour = bound(Config.model_validate({**told, "explore": explore}), SCHEMA, manifest, keyring)
            assert not behaviour.acting.ranks
        assert Doubts.of([Fresh(name="fresh", max_age_seconds=1)], SCHEMA, manifest).bound
        assert acting_of(Normal(noise=0.1), BOUNDED, "none", scores=False).ranks
        assert acting_of(Softmax(), SCHEMA.action, "none").ranks

    @pytest.mark.parametrize("doubt", [Confidence(name="d", at_least=0.1), Quorum(name="d", at_most=0.1)])
    def test_doubts_say_it_themselves(self, doubt: Confidence | Quorum) -> None:
        """Whoever binds them."""
        with pytest.raises(GuardMisconfigured):
            doubt.about(SCHEMA, manifest_of(head="logits", scores=False))


LOW = [0.0, 0.0, 3.0]
MASKED: dict[str, list[Any]] = {
    "truths": [False, True, True],
    "names": ["hold", "scale_up"],
}


@pytest.fixture
def explorers() -> list[dict[str, Any] | None]:
    """How a service may explore beside such a policy."""
    return [None, {"kind": "epsilon_greedy", "epsilon": 0.5}, {"kind": "epsilon_greedy", "epsilon": 1.0}]


def settings_of(explore: dict[str, Any] | None, **told: Any) -> dict[str, Any]:
    """Settings with a deadline that nothing here misses."""
    return {"limits": {"deadline_ms": 20_000}, **({} if explore is None else {"explore": explore}), **told}


async def twenty(served: Serving, observation: object, **told: object) -> list[dict[str, Any]]:
    """Ask twenty times, each time for another session, as one that may explore."""
    served.permit()
    return [(await served.act(f"s{i}", observation, **told)).json() for i in range(20)]


class TestServed:
    """From the artefact to the journal, in a whole data plane."""

    @pytest.mark.parametrize("how", MASKED)
    async def test_a_request_that_forbids_the_chosen_action_gets_the_baseline(
        self, tmp_path: Path, explorers: list[dict[str, Any] | None], how: str
    ) -> None:
        """With cpu at 0 it chose ``scale_down``, which is the first too: what is forbidden is not done, nor a guess."""
        for at, explore in enumerate(explorers):
            told = settings_of(explore, baseline={"kind": "constant", "action": "scale_up"})
            with serving(tmp_path / str(at), acting.chosen(), **told) as served:
                replies = await twenty(served, LOW, allowed=MASKED[how])
                records = served.decisions()

            assert {(r["action_name"], r["source"], r["reason"]) for r in replies} == {
                ("scale_up", "baseline", "NoSafeAction")
            }
            assert {(r.propensity, r.propensity_ok, r.explored) for r in records} == {(1.0, True, False)}
            assert all(Violation("allowed", "prevented", "deny") in r.violations for r in records)

    async def test_a_constraint_that_forbids_it_too(
        self, tmp_path: Path, explorers: list[dict[str, Any] | None]
    ) -> None:
        """With cpu at 1 it chose ``scale_up``: an arg-max over the zeros that are left would scale down."""
        rule = {"kind": "rule", "name": "enough", "forbid": "action == 'scale_up' and replicas >= 3"}
        for at, explore in enumerate(explorers):
            with serving(tmp_path / str(at), acting.chosen(), **settings_of(explore, constraints=[rule])) as served:
                replies = await twenty(served, [1.0, 0.0, 3.0])
                free = (await served.act("free", [1.0, 0.0, 1.0], explore=False)).json()
                report = (await served.get("/report")).json()

            assert {(r["action_name"], r["reason"], r["propensity"]) for r in replies} == {
                ("hold", "NoSafeAction", 1.0)
            }
            assert {v["constraint"] for r in replies for v in r["violations"]} == {"enough"}
            assert (free["action_name"], free["source"]) == ("scale_up", "policy")
            assert report["fallbacks"]["NoSafeAction"] == 20

    async def test_of_several_choices_none_is_replaced(
        self, tmp_path: Path, explorers: list[dict[str, Any] | None]
    ) -> None:
        """By the request or by a rule about one factor or about two: the whole action is the baseline's."""
        data = acting.chosen(SWITCHES)
        rest = {"kind": "constant", "action": ["off", "half", "slow"]}
        with serving(tmp_path / "free", data, **settings_of(None, baseline=rest)) as served:
            (told,) = [(await served.act(observation=[0.3, 0.2, 3.0])).json()]
        chosen = told["action_names"]
        rules = [f"fan == {chosen[2]!r}", f"fan == {chosen[2]!r} and pump == {chosen[0]!r}"]

        for at, explore in enumerate(explorers):
            plain = settings_of(explore, baseline=rest)
            with serving(tmp_path / f"{at}", data, **plain) as served:
                masked = await twenty(served, [0.3, 0.2, 3.0], **_without_last(chosen))
            ruled = []
            for i, forbid in enumerate(rules):
                rule = {"kind": "rule", "name": "both", "forbid": forbid}
                with serving(tmp_path / f"{at}r{i}", data, **plain, constraints=[rule]) as served:
                    ruled += await twenty(served, [0.3, 0.2, 3.0])

            for replies in (masked, ruled):
                assert {(*r["action_names"], r["reason"], r["propensity"]) for r in replies} == {
                    ("off", "half", "slow", "NoSafeAction", 1.0)
                }

    async def test_what_is_no_choice_is_the_baseline_s(self, tmp_path: Path) -> None:
        """Zeros, ones and NaN at once: the action that stands first is not done."""
        for spoilt in ("zeros", "ones", "nan"):
            with serving(tmp_path / spoilt, acting.chosen(spoilt=spoilt), **settings_of(None)) as served:
                told = (await served.act(observation=[0.0, -1.0, 3.0])).json()

            assert (told["action_name"], told["reason"]) == ("hold", "InvalidOutput")

    async def test_people_are_told(self, tmp_path: Path) -> None:
        """What serves has no scores, or has them."""
        for at, data in enumerate((acting.chosen(), None)):
            with serving(tmp_path / str(at), data) as served:
                assert (await served.get("/policy")).json()["scores"] is bool(at)

    @pytest.mark.parametrize("last_resort", [None, "hold"])
    async def test_as_a_baseline_it_proposes_what_it_chose(self, tmp_path: Path, last_resort: str | None) -> None:
        """What is refused of it is not replaced by the next index, and what is no choice is no proposal."""
        (tmp_path / "older.onnx").write_bytes(acting.chosen(version="0", spoilt="zeros"))
        baseline = {"kind": "policy", "path": str(tmp_path / "older.onnx"), "last_resort": last_resort}
        late = {"deadline_ms": 0.001}
        with serving(tmp_path, **settings_of(None, baseline=baseline)) as served:
            fits = (await served.act("a", [1.0, 0.0, 3.0], **late)).json()
            refused = await served.act("b", [1.0, 0.0, 3.0], allowed=["scale_down", "hold"], **late)
            nothing = await served.act("c", [1.0, -1.0, 3.0], **late)

        assert (fits["action_name"], fits["source"], fits["propensity"]) == ("scale_up", "baseline", 1.0)
        for reply in (refused, nothing):
            if last_resort is None:
                assert (reply.status, reply.error["code"]) == (503, "no_safe_action")
            else:
                assert (reply.json()["action_name"], reply.json()["source"]) == ("hold", "last_resort")

    def test_the_demo_has_an_action_that_stands_first(self) -> None:
        """Or none of these would show that it is not done."""
        assert ACTIONS[0] == "scale_down"


def _without_last(chosen: list[str]) -> dict[str, Any]:
    """A request's mask that forbids the last factor's chosen choice, and nothing else."""
    *others, last = SWITCHES.factors
    return {"allowed": [*(list(one.names) for one in others), [name for name in last.names if name != chosen[2]]]}
