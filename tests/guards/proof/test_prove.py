"""The proof: planted holes are found, sound configurations are proved, and what is not known is undecided."""

import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from export.spec import Box, Discrete, Field, Fields, MultiDiscrete
from export.spec.extras import install
from export.spec.spaces import Dtype
from guards.abstention import Fresh
from guards.constraints import Bounds, Linear, Rule
from guards.errors import EvaluationFailed, GuardMisconfigured, ProofUnavailable
from guards.language.syntax import term_of
from guards.language.walk import Scene, value
from guards.proof.prove import prove
from guards.proof.scenario import Scenario
from guards.proof.solving import Solving
from guards.proof.verdict import Verdict
from guards.proof.witness import Witness
from guards.records import Schema
from tests.fakes import SCHEMA
from tests.guards.box_holes import BOX_HOLES, BOX_SOUND, HEATER
from tests.guards.factor_holes import FACTOR_HOLES, FACTOR_SOUND, ROOM, WIDE
from tests.guards.holes import HOLES, PLANT, SOUND, Case, bounds, rules
from tests.guards.pairs import DYADIC, FACTORED, NUMBERED, condition, situation


def together(*tables: dict[str, Case]) -> dict[str, Case]:
    """The configurations of several tables; of each name there may be one over each kind of actions."""
    return {f"{one.schema.action.kind}: {name}": one for table in tables for name, one in table.items()}


HOT = Scenario({"cpu": 0.95, "temp": 60})
ALL_HOLES = together(HOLES, FACTOR_HOLES, BOX_HOLES)
ALL_SOUND = together(SOUND, FACTOR_SOUND, BOX_SOUND)


def verdict_of(case: Case) -> Verdict:
    """The verdict, which has to come in time: this process's own, whatever else the machine does."""
    start = time.process_time()

    verdict = prove(case.schema, case.constraints, case.last_resort)

    assert time.process_time() - start < 2
    return verdict


def decided(*forbid: str) -> Verdict:
    """The verdict on some rules over the plant."""
    return prove(PLANT, rules(*forbid), None)


def test_there_are_enough_of_each() -> None:
    """What the tables promise."""
    assert min(len(HOLES), len(SOUND)) >= 20
    assert min(map(len, (FACTOR_HOLES, FACTOR_SOUND, BOX_HOLES, BOX_SOUND))) >= 10


@pytest.mark.parametrize("case", ALL_HOLES.values(), ids=ALL_HOLES.keys())
def test_a_planted_hole_is_found(case: Case) -> None:
    """And what is shown lies in the hole that was planted, where the real shield leaves nothing."""
    verdict = verdict_of(case)

    assert verdict.outcome == verdict.left.outcome == "counterexample"
    found = verdict.left.counterexample
    assert found is not None
    assert not Witness(case.schema, case.constraints).tried(found.situation).passes.any()
    if isinstance(case.schema.action, Discrete):
        assert [one.action for one in found.closed] == list(case.schema.actions)
    assert all(one.constraints for one in found.closed)
    try:
        assert value(term_of(case.hole, case.schema, "truth"), Scene(found.situation.row(case.schema)))
    except EvaluationFailed:
        assert "step" in case.hole or "price" in case.hole


@pytest.mark.parametrize("case", ALL_SOUND.values(), ids=ALL_SOUND.keys())
def test_a_sound_configuration_is_proved(case: Case) -> None:
    """Something is always left, and the last resort wherever nothing else is."""
    verdict = verdict_of(case)

    assert verdict.outcome == verdict.left.outcome == "proved"
    assert (verdict.last_resort is None) == (case.last_resort is None)
    assert verdict.last_resort is None or verdict.last_resort.outcome == "proved"


@pytest.mark.parametrize("case", ALL_SOUND.values(), ids=ALL_SOUND.keys())
def test_what_is_proved_holds_of_random_situations(case: Case) -> None:
    """The real shield leaves something wherever one looks: facts given or not, the history here or not."""
    random = Random(7)  # noqa: S311 - a test that repeats itself
    witness = Witness(case.schema, case.constraints)
    solving = Solving(case.schema, case.constraints, (), seconds=2.0, clock=time.monotonic)

    for _ in range(50 if isinstance(case.schema.action, Discrete) else 10):
        one = situation(random, case.schema)
        if witness.closing(one) is not None:
            # There may be so few that nobody hits them: then there is one that the solver finds.
            way_out = solving.way_out(one, solving.until())
            assert way_out is not None, one
            assert witness.passes(one, way_out), one


def some(random: Random, schema: Schema) -> str:
    """A condition that holds of some actions."""
    if isinstance(schema.action, Discrete):
        return f"action in {tuple(random.choices(schema.actions, k=2))}"
    if isinstance(schema.action, MultiDiscrete):
        fan, heat = (random.choice(factor.names) for factor in schema.action.factors)
        return random.choice((f"fan == {fan!r}", f"heat == {heat!r}", f"(fan == {fan!r} or heat == {heat!r})"))
    return f"{random.choice(('power', 'tilt'))} {random.choice('<>')} {random.choice((-4, 0.5, 3))}"


def check_at_random(seed: int, schema: Schema, configurations: int) -> Counter[str]:
    """Prove random configurations, and look for what a proof says is not there; gives how often each outcome was."""
    random = Random(seed)  # noqa: S311 - a test that repeats itself
    outcomes: Counter[str] = Counter()
    for _ in range(configurations):
        # Each forbids some actions under some condition.
        forbid = [f"{some(random, schema)} and {condition(random, 1, schema=schema)}" for _ in range(6)]
        told = [one.model_copy(update={"on_error": "allow"}) for one in rules(*forbid)]
        verdict = prove(schema, told, None, seconds=5.0, notes=False)
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "proved":
            witness, solving = Witness(schema, told), Solving(schema, told, (), seconds=2.0, clock=time.monotonic)
            for one in (situation(random, schema) for _ in range(8)):
                assert witness.closing(one) is None or solving.way_out(one, solving.until()) is not None, (told, one)
    return outcomes


@pytest.mark.parametrize("schema", [DYADIC, FACTORED, NUMBERED], ids=["discrete", "factors", "numbers"])
def test_what_is_proved_of_random_configurations_holds(schema: Schema) -> None:
    """And most of them are decided."""
    outcomes = check_at_random(21, schema, 30)

    assert min(outcomes["proved"], outcomes["counterexample"]) > 3, outcomes
    assert outcomes["undecided"] < 5, outcomes


@pytest.mark.soak
@pytest.mark.parametrize("schema", [DYADIC, FACTORED, NUMBERED], ids=["discrete", "factors", "numbers"])
def test_what_is_proved_of_random_configurations_holds_for_long(schema: Schema) -> None:
    """Of more of them."""
    assert check_at_random(22, schema, 500)["proved"] > 100


def test_a_counterexample_is_one_that_people_meet() -> None:
    """Facts are given, the history is known and numbers are round, where the hole allows it."""
    verdict = prove(PLANT, HOLES["a fact for each action"].constraints, "hold")

    assert verdict.left.counterexample is not None
    situation = verdict.left.counterexample.situation
    assert situation.past.known
    assert all(fact is not None and fact.is_integer() for fact in situation.facts.values())


def test_a_hole_of_few_doubles_is_shown_as_it_is() -> None:
    """There is no round number in it."""
    verdict = decided("cpu == 0.3")

    assert verdict.left.counterexample is not None
    assert verdict.left.counterexample.situation.observation == {"cpu": 0.3}


def test_what_is_a_hole_only_among_the_reals_is_undecided() -> None:
    """No double is the root of a half: it is no counterexample, and no proof either."""
    verdict = decided("cpu * cpu == 0.5")

    assert verdict.outcome == "undecided"
    assert verdict.left.why == "what closes every action over exact reals does not in doubles"


def test_a_remainder_of_numbers_that_are_not_whole_is_undecided() -> None:
    """It is named, and so is the last resort's answer."""
    verdict = prove(PLANT, rules("temp % 7 > 6.99", "temp % 7 > 6.99 and cpu > 2"), "hold")

    assert verdict.outcome == "undecided"
    assert verdict.left.why == "temp % 7 is a remainder of numbers that need not be whole"
    assert verdict.last_resort is not None
    assert verdict.last_resort.why == "for the same reason"


def test_a_counterexample_through_a_gap_is_one_if_the_shield_says_so() -> None:
    """The solver guesses at what is not translated; the shield knows."""
    assert decided("temp % 7 >= 0").outcome == "counterexample"


def test_a_kind_that_is_not_known_may_forbid_anything() -> None:
    """So the proof leaves open what it cannot say."""
    never = Rule(name="never", forbid="load % 0.25 >= 0.25")

    verdict = prove(SCHEMA, [never], None)

    assert verdict.outcome == "undecided"
    assert verdict.left.why == "load % 0.25 is a remainder of numbers that need not be whole"
    assert prove(SCHEMA, [never.model_copy(update={"mode": "warn"})], None).outcome == "proved"


def test_a_question_without_time_is_undecided() -> None:
    """It says how long it had."""
    verdict = prove(PLANT, rules("cpu > 0.5"), None, seconds=0)

    assert verdict.left.outcome == "undecided"
    assert verdict.left.why == "no answer within 0 s"


def test_a_last_resort_that_is_forbidden_somewhere_is_pointed_out() -> None:
    """Something else is allowed there, but the baseline may not have found it."""
    verdict = prove(PLANT, rules("action == 'hold' and cpu > 0.9"), "hold")

    assert verdict.outcome == "proved"
    assert [(one.kind, one.constraints) for one in verdict.findings] == [("last_resort", ("rule 0",))]
    assert "observation: cpu = " in verdict.findings[0].text


def test_a_last_resort_that_is_forbidden_only_among_the_reals_is_not() -> None:
    """What the real shield does not confirm is not told."""
    assert prove(PLANT, rules("action == 'hold' and cpu * cpu == 0.5"), "hold").findings == ()


def test_a_last_resort_that_is_no_action_is_refused() -> None:
    """As the service refuses it at start."""
    with pytest.raises(GuardMisconfigured, match="the action 'fly' is not known"):
        prove(PLANT, (), "fly")


def test_constraints_that_do_not_bind_are_refused() -> None:
    """As the shield refuses them."""
    with pytest.raises(GuardMisconfigured, match=r"^0, 'rule 0': expression 'cup > 1', column 1"):
        decided("cup > 1")


def test_a_hole_after_a_restart_alone_is_told_as_one() -> None:
    """The history is known again later, and there the shield is sound: that can be asked for by itself."""
    case = BOX_HOLES["a rate limit after a restart"]

    verdict = prove(case.schema, case.constraints, case.last_resort)
    known = prove(case.schema, case.constraints, case.last_resort, known_history=True, notes=False)

    assert [one.kind for one in verdict.findings] == ["history"]
    assert (known.outcome, known.findings) == ("proved", ())
    assert known.left.claim.endswith("at least one action is allowed wherever the session's history is known")


def test_the_constraints_that_close_a_box_are_those_that_are_needed() -> None:
    """Without any one of them something would be left."""
    verdict = prove(HEATER, rules("fan > 200", "heat > 3", "heat <= 3 and cpu > 0.5"), None)

    assert verdict.left.counterexample is not None
    assert [one.constraints for one in verdict.left.counterexample.closed] == [("rule 1", "rule 2")]


def test_what_the_shield_does_not_confirm_in_a_box_is_undecided() -> None:
    """Among the reals the half-space is exceeded by less than the shield lets pass."""
    verdict = prove(HEATER, [Linear(name="a", coefficients={"heat": -1}, at_most="-10 - 1e-12")], None)

    assert verdict.outcome == "undecided"


def test_what_the_solver_finds_beside_the_points_that_were_tried_counts() -> None:
    """No double is the root of a half, and where it is not, one point of the Box passes."""
    fields = (Field(name="heat", low=0, high=10), Field(name="fan", low=5, high=6))
    schema = replace(HEATER, action=Box(fields=fields))

    assert prove(schema, rules("heat != 4.5 or cpu * cpu == 0.5"), None).outcome == "undecided"


def test_it_is_not_the_restart_alone_where_the_solver_sees_another_hole() -> None:
    """Although the shield does not."""
    verdict = prove(PLANT, rules("step < 0 or cpu * cpu == 0.5"), None)

    assert verdict.left.counterexample is not None
    assert not verdict.left.counterexample.situation.past.known
    assert "history" not in [one.kind for one in verdict.findings]


def test_what_may_be_too_large_for_a_double_is_not_covered() -> None:
    """A proof says so, with the constraints in which it may happen."""
    verdict = prove(PLANT, rules("action == 'up' and rate * 2 > 1", "action == 'up' and cpu * 2 > 1"), None)

    assert [(one.kind, one.constraints) for one in verdict.findings] == [("overflow", ("rule 0",))]


@pytest.mark.parametrize("schema", [ROOM, HEATER], ids=["factors", "numbers"])
def test_a_last_resort_that_is_no_action_of_the_space_is_refused(schema: Schema) -> None:
    """As the service refuses it."""
    with pytest.raises(GuardMisconfigured, match="the action 'hold' is not known, expected a list"):
        prove(schema, (), "hold")


def test_a_doubt_over_other_actions_closes_nothing() -> None:
    """It is about the policy's answer."""
    assert prove(HEATER, [Fresh(name="fresh", max_age_seconds=1)], None).outcome == "proved"


def test_a_limit_that_is_too_large_for_a_double_is_always_exceeded() -> None:
    """It is so in the shield, and no fault of the proof."""
    constraints = [bounds({"up": 1.7e308}, high=-1.7e308), *rules("action != 'up' and cpu > 0.5")]

    assert prove(PLANT, constraints[:1], None, notes=False).outcome == "proved"
    assert prove(PLANT, constraints, None, notes=False).outcome == "counterexample"


def test_sums_that_are_too_large_for_a_double_are_undecided() -> None:
    """Unless the shield leaves nothing."""
    vast = Bounds(name="vast", of="temp", effect={"heat=low": -1.7e308, "fan=low": -1.7e308}, low=0)

    verdict = prove(ROOM, [vast], None)

    assert verdict.outcome == "undecided"
    assert verdict.left.why == "'vast': its effects have sums that may be too large for a double"


def test_the_constraints_that_close_too_many_whole_actions_are_those_that_are_needed() -> None:
    """One whole action of many is left by the first, and closed by the second: both are named, and no other."""
    one = " or ".join(f"k{i} != {i * 7 % 10}" for i in range(12))

    alone = prove(WIDE, rules(one, "cpu > 2"), None, notes=False)
    verdict = prove(WIDE, rules(one, "cpu > 2", "k3 == 1 and cpu > 0.5"), None, notes=False)

    assert alone.outcome == "proved"
    assert verdict.left.counterexample is not None
    assert [(one.action, one.constraints) for one in verdict.left.counterexample.closed] == [
        ("every whole action", ("rule 0", "rule 2"))
    ]


@pytest.mark.parametrize(
    ("field", "dtype", "why"),
    [
        (Field(name="n", low=0.2, high=0.8), "int64", "n is int64, which has no number within its range, 0.2 to 0.8"),
        (Field(name="n", low=256), "uint8", "n is uint8, which has no number within its range, 256 to any"),
        (Field(name="n", high=-0.5), "uint8", "n is uint8, which has no number within its range, any to -0.5"),
        (Field(name="n", low=0.2, high=1), "int64", ""),
        (Field(name="n", low=0.2, high=0.8), "float32", ""),
    ],
)
def test_where_there_is_no_observation_that_is_said(field: Field, dtype: Dtype, why: str) -> None:
    """What is proved then says nothing."""
    schema = replace(SCHEMA, observation=Fields(fields=(field,), dtype=dtype))

    told = prove(schema, rules("n == 7"), None, notes=False).left

    assert (told.outcome, told.why) == ("proved", why and f"but there is none: {why}")


def test_among_doubles_a_proof_over_exact_numbers_may_leave_nothing() -> None:
    """As the documentation says: of a Box the only point that passes may be a root, or what underflows."""
    schema = replace(HEATER, action=Box(fields=(Field(name="heat", low=1, high=2),)))

    constraints = {forbid: rules(forbid) for forbid in ("heat * heat != 2", "heat * 1e-300 * 1e-300 == 0")}

    assert [prove(schema, one, None).outcome for one in constraints.values()] == ["proved", "proved"]
    assert [Witness(schema, one).tried(HOT).passes.any() for one in constraints.values()] == [False, False]


def test_where_z3_is_broken_there_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how."""
    (tmp_path / "z3.py").write_text("raise OSError('libz3.so: cannot open shared object file')", "utf-8")
    for name in [one for one in sys.modules if one == "z3" or one.startswith("z3.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("symbols", "smt", "closing", "solving", "findings"):
        monkeypatch.delitem(sys.modules, f"guards.proof.{name}", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ProofUnavailable, match=r"cannot be loaded \(OSError: libz3.so: cannot open"):
        prove(PLANT, (), None)


def test_without_z3_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    for name in ("symbols", "smt", "closing", "solving", "findings"):
        monkeypatch.delitem(sys.modules, f"guards.proof.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "z3", None)

    with pytest.raises(ProofUnavailable, match=re.escape(install("verify"))):
        prove(PLANT, (), None)


def test_a_proof_is_imported_without_z3() -> None:
    """Only proving needs it: a process that explains or serves does not load it."""
    program = "import sys; sys.modules['z3'] = None; import guards.proof.prove, guards.__main__"

    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
