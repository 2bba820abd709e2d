"""The proof: planted holes are found, sound configurations are proved, and what is not known is undecided."""

import subprocess
import sys
import time
from random import Random

import pytest

from export.spec import Box, Factor, Field, Fields, MultiDiscrete
from guards.doubts import Fresh
from guards.errors import EvaluationFailed, GuardMisconfigured, ProofUnavailable
from guards.proof.prove import closed_by, prove
from guards.proof.reference import Asked, parsed, value_of
from guards.proof.verdict import Verdict
from guards.records import Schema
from guards.shield import Shield
from tests.fakes import SCHEMA, Fickle
from tests.guards.holes import HOLES, PLANT, SOUND, Case, rules
from tests.guards.pairs import situation


def verdict_of(case: Case) -> Verdict:
    """The verdict, which has to come in time."""
    start = time.monotonic()

    verdict = prove(case.schema, case.constraints, case.last_resort)

    assert time.monotonic() - start < 2
    return verdict


def decided(*forbid: str) -> Verdict:
    """The verdict on some rules over the plant."""
    return prove(PLANT, rules(*forbid), None)


def test_there_are_twenty_of_each() -> None:
    """What the table promises."""
    assert min(len(HOLES), len(SOUND)) >= 20


@pytest.mark.parametrize("name", HOLES)
def test_a_planted_hole_is_found(name: str) -> None:
    """And what is shown lies in the hole that was planted, where the real shield leaves nothing."""
    case = HOLES[name]

    verdict = verdict_of(case)

    assert verdict.outcome == verdict.left.outcome == "counterexample"
    found = verdict.left.counterexample
    assert found is not None
    ruling = Shield(case.constraints, case.schema).judge(found.situation.context(case.schema))
    assert not ruling.allowed.any()
    assert [one.action for one in found.closed] == list(case.schema.actions)
    assert all(one.constraints for one in found.closed)
    try:
        assert value_of(parsed(case.hole), Asked(case.schema, found.situation))
    except EvaluationFailed:
        assert "step" in case.hole or "price" in case.hole


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_configuration_is_proved(name: str) -> None:
    """Something is always left, and the last resort wherever nothing else is."""
    verdict = verdict_of(SOUND[name])

    assert verdict.outcome == verdict.left.outcome == "proved"
    assert verdict.last_resort is not None
    assert verdict.last_resort.outcome == "proved"


@pytest.mark.parametrize("name", SOUND)
def test_what_is_proved_holds_of_random_situations(name: str) -> None:
    """The real shield leaves something wherever one looks: facts given or not, the history here or not."""
    case, random = SOUND[name], Random(7)  # noqa: S311 - a test that repeats itself
    shield = Shield(case.constraints, case.schema)

    for _ in range(50):
        one = situation(random, case.schema)
        assert len(closed_by(shield, case.schema, one).closed) < len(case.schema.actions), one


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
    fickle = Fickle(name="fickle", action=1)

    verdict = prove(SCHEMA, [fickle], None)

    assert verdict.outcome == "undecided"
    assert verdict.left.why == "'fickle': the proof does not know what a Fickle forbids"
    assert prove(SCHEMA, [fickle.model_copy(update={"mode": "warn"})], None).outcome == "proved"


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


@pytest.mark.parametrize(
    "action",
    [
        MultiDiscrete(factors=(Factor(name="fan", names=("off", "on")),)),
        Box(fields=(Field(name="power", low=0, high=1),)),
    ],
)
def test_over_other_actions_there_is_a_proof_only_if_nothing_denies(action: MultiDiscrete | Box) -> None:
    """They are not one of a list."""
    schema = Schema(observation=Fields(fields=(Field(name="cpu"),)), action=action)

    assert prove(schema, (), None).outcome == "proved"
    assert prove(schema, (), "x").last_resort is not None


def test_a_doubt_over_other_actions_closes_nothing() -> None:
    """It is about the policy's answer."""
    schema = Schema(observation=PLANT.observation, action=Box(fields=(Field(name="power", low=0, high=1),)))

    assert prove(schema, [Fresh(name="fresh", max_age_seconds=1)], None).outcome == "proved"


def test_a_constraint_over_other_actions_is_undecided() -> None:
    """The answer names the space."""
    schema = Schema(observation=PLANT.observation, action=Box(fields=(Field(name="power", low=0, high=1),)))

    verdict = prove(schema, rules("cpu > 0.5"), None)

    assert verdict.outcome == "undecided"
    assert verdict.left.why == "the action space is box, expected discrete"


def test_without_z3_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    for name in ("smt", "closing", "solving", "findings"):
        monkeypatch.delitem(sys.modules, f"guards.proof.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "z3", None)

    with pytest.raises(ProofUnavailable, match=r"pip install 'actd\[verify\]'"):
        prove(PLANT, (), None)


def test_a_proof_is_imported_without_z3() -> None:
    """Only proving needs it: a process that explains or serves does not load it."""
    program = "import sys; sys.modules['z3'] = None; import guards.proof.prove, guards.__main__"

    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
