"""A new kind of constraint: its own file is all that judge, check, proof, explanation and history need of it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from guards.constraints import Constraint, OverActions, Rule
from guards.constraints.constraint import Keeper
from guards.errors import GuardMisconfigured
from guards.language.syntax import amount_of
from guards.language.terms import Recall, Term, compare, just_now, number, operation
from guards.language.walk import Scene, value
from guards.proof.prove import prove
from guards.proof.scenario import Before, Scenario
from guards.proof.verdict import explain
from guards.records import NEVER, Action, History, Row, Schema
from guards.shield import Shield
from tests.fakes import NOW, SCHEMA
from tests.guards.constraints.docs_rows import PAGE, lacking
from tests.guards.language.test_judge import FACTORED


class Quiet(Constraint):
    """Forbids every action for some seconds after one that was executed under a ``load`` beyond a limit."""

    kind: Literal["quiet"] = "quiet"
    load: str
    beyond: float
    seconds: Annotated[float, Field(gt=0)]

    def term(self, schema: Schema) -> Term:
        now = compare(amount_of("load", self.load, schema), ">", number(self.beyond))
        ago = Recall((self.name, "ago"), self._ago, just_now(NEVER))
        return operation("and", now, compare(ago, "<", number(self.seconds)))

    def keeper(self, schema: Schema) -> Keeper:
        weigh = compare(amount_of("load", self.load, schema), ">", number(self.beyond))
        return Keeper(self._after, (0.0,), weigh, heaviest=1.0)

    def _ago(self, history: History, now: float) -> float:
        last = max(history.kept.get(self.name, (-NEVER,)))
        return now - (last if history.known else max(last, history.since))

    def _after(self, history: History, _: Action, at: float, heavy: float) -> tuple[float, ...]:
        return (at,) if heavy else history.kept.get(self.name, ())


QUIET = Quiet(name="quiet", load="load", beyond=0.5, seconds=10)
FRESH = History(known=True, since=NOW)
Kinds = TypeAdapter[Any](Annotated[OverActions | Quiet, Field(discriminator="kind")])


def row(load: float, history: History = FRESH, at: float = 0.0) -> Row:
    """A decision under a load."""
    return Row((load, 0.0, 3.0), (0.0, 0.0), None, NOW + at, history)


def test_it_is_read_by_the_union() -> None:
    """As it stands in a file; a mistake in it is refused, and one that only a schema shows is named."""
    told = {"kind": "quiet", "name": "quiet", "load": "load", "beyond": 0.5, "seconds": 10}

    assert Kinds.validate_python(told) == QUIET
    with pytest.raises(ValidationError, match="greater than 0"):
        Kinds.validate_python(told | {"seconds": 0})
    with pytest.raises(GuardMisconfigured, match=r"^0, 'quiet': load: expression 'lode', column 1: the name 'lode'"):
        Shield([QUIET.model_copy(update={"load": "lode"})], SCHEMA)


@pytest.mark.parametrize("schema", [SCHEMA, FACTORED], ids=["list", "factors"])
def test_it_is_judged_and_checked(schema: Schema) -> None:
    """As its term means, over any space, with what it keeps of the history."""
    shield, action = Shield([QUIET], schema), 1 if schema is SCHEMA else (1, 1, 1)
    loud, calm = row(0.9), row(0.1)

    after = [shield.advanced(FRESH, action, NOW, shield.weights(one, action)) for one in (loud, calm)]

    assert [history.kept for history in after] == [{"quiet": (NOW,)}, {}]
    for history, load, at, forbidden in (
        (FRESH, 0.9, 0.0, False),
        (after[0], 0.9, 9.0, True),
        (after[0], 0.1, 9.0, False),
        (after[0], 0.9, 10.0, False),
        (after[1], 0.9, 1.0, False),
        (History(known=False, since=NOW), 0.9, 1.0, True),
    ):
        here = row(load, history, at)
        assert value(QUIET.term(schema), Scene(here, action)) is forbidden
        assert shield.check(here, action) is not forbidden
        assert shield.forbidding(here, action) == ([("quiet", "deny")] if forbidden else [])
        assert bool(shield.judge(here)) is forbidden


def test_what_it_keeps_goes_by_another_clock() -> None:
    """Like what every constraint keeps."""
    shield = Shield([QUIET], SCHEMA)
    history = shield.advanced(FRESH, 1, NOW, [1.0])

    assert shield.shifted(history, 5.0).kept == {"quiet": (NOW + 5,)}


@pytest.mark.parametrize(
    ("beside", "outcome"),
    [((), "counterexample"), ([Rule(name="r", forbid="step > 0 and load > 0.6")], "counterexample")],
)
def test_it_is_proved(beside: Sequence[Constraint], outcome: str) -> None:
    """At its worst it forbids everything under a load; without one nothing."""
    assert prove(SCHEMA, [QUIET, *beside], None).outcome == outcome
    assert prove(SCHEMA, [QUIET.model_copy(update={"beyond": 2.0, "load": "min(load, 1)"})], None).outcome == "proved"


def test_its_row_in_the_docs_is_asked_for() -> None:
    """With its settings, and what its class says of itself."""
    row = (
        "| `quiet` | `load`, `beyond`, `seconds` |"
        " Forbids every action for some seconds after one that was executed under a `load` beyond a limit |"
    )
    page = PAGE.read_text("utf-8")

    assert lacking(Quiet, page) == row
    assert lacking(Quiet, f"{page}\n{row}\n") is None
    assert (
        lacking(Quiet, f"{page}\n{row.replace('beyond', 'above', 1)}\n")
        == f"{row.replace('beyond', 'above', 1)} lacks ['beyond']"
    )


def test_it_is_explained() -> None:
    """What it forbids is the shield's to say; words are its own, if it has any."""
    past = Before(step=1, previous="up", kept={"quiet": (-3.0,)})

    said = [
        one.said[0] for one in explain(SCHEMA, [QUIET], Scenario({"load": 1, "lag": 0, "pods": 0}, {}, past)).actions
    ]

    assert {(one.kind, one.forbids, one.why) for one in said} == {("quiet", True, "there are no words for this kind")}
