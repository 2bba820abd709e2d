"""Terms: which may have no value, what they are about, and when two of them are the same."""

import pytest

from guards.language.terms import (
    BEGINS,
    FALSE,
    HAPPENED,
    TRUE,
    UNKNOWN,
    Among,
    Fact,
    Fixed,
    Observed,
    Operation,
    Part,
    Past,
    Recall,
    Table,
    Term,
    Whole,
    about_action,
    about_row,
    can_fail,
    compare,
    number,
    operation,
    plain,
)
from guards.language.walk import Scene, value
from guards.records import NO_ACTION, History, Row
from tests.fakes import NOW

LOAD = Observed(0, "load")
FAILING = operation("/", LOAD, LOAD)


@pytest.mark.parametrize(
    "term",
    [
        Fact(0, "budget"),
        Past("step"),
        Past("seconds_since_change"),
        Past("previous_action"),
        *[operation(op, LOAD, LOAD) for op in "+-*/%"],
        operation("not", compare(FAILING, ">", LOAD)),
        operation("if", TRUE, LOAD, FAILING),
        plain("abs", FAILING),
    ],
)
def test_some_terms_may_have_no_value(term: Term) -> None:
    """What was not given, what the history need not know, arithmetic that is checked, and what is made of those."""
    assert can_fail(term)
    assert not can_fail(operation("fails", term))


@pytest.mark.parametrize(
    "term",
    [
        LOAD,
        number(2),
        Part(0),
        Whole("previous"),
        Among(0, frozenset({1})),
        UNKNOWN,
        BEGINS,
        HAPPENED,
        *[plain(op, LOAD, LOAD) for op in "+-*/"],
        plain("neg", LOAD),
        operation("and", TRUE, FALSE),
        operation("or", TRUE, FALSE),
        operation("if", TRUE, LOAD, LOAD),
        operation("min", LOAD, LOAD, checked=False),
        operation("min", LOAD, LOAD),
        operation("abs", LOAD),
        compare(LOAD, ">", number(2)),
    ],
)
def test_other_terms_always_have_one(term: Term) -> None:
    """So that nothing has to be caught for them."""
    assert not can_fail(term)


def test_an_operation_is_checked_unless_it_is_said_to_be_plain() -> None:
    """And one part alone needs no joining."""
    assert operation("+", LOAD, LOAD) == Operation("+", parts=(LOAD, LOAD))
    assert Operation("+").checked
    assert operation("+", LOAD, LOAD) != plain("+", LOAD, LOAD)
    assert [operation(op, LOAD) for op in ("and", "or")] == [LOAD, LOAD]
    assert operation("abs", LOAD) == Operation("abs", parts=(LOAD,))
    assert operation("+", LOAD, LOAD) == operation("+", LOAD, LOAD, text="load + load")
    assert operation("+", LOAD, LOAD).parts == (LOAD, LOAD)
    assert repr(operation("+", LOAD, LOAD)) == repr(Operation("+", checked=True, text="", parts=(LOAD, LOAD)))


def test_what_is_remembered_is_told_apart_by_its_key() -> None:
    """However it is read, and whatever it is at its worst."""
    some = Recall("a", lambda *_: 1.0, FALSE)

    assert some == Recall("a", lambda *_: 2.0, TRUE)
    assert some != Recall("b", some.read, FALSE)


def test_tables_are_told_apart_by_their_numbers() -> None:
    """Whoever gave them; of the action asked about unless another is meant."""
    columns = ((0, (1.0, 2.0)),)

    assert Table(columns, frozenset({1})) == Table(columns, frozenset())
    assert Table(columns, frozenset()) == Table(columns, frozenset(), "action")
    assert (about_action(Table(columns, frozenset())), about_row(Table(columns, frozenset()))) == (True, False)
    assert (about_action(Table(columns, frozenset(), "previous")), Part(0).of, Whole().of) == (
        False,
        "action",
        "action",
    )


@pytest.mark.parametrize(
    ("history", "unknown", "begins", "happened"),
    [
        (History(known=True, since=NOW), False, True, False),
        (History(known=True, since=NOW, step=1, action=2), False, False, True),
        (History(known=False, since=NOW), True, True, True),
        (History(known=False, since=NOW, step=1, action=2), False, False, True),
    ],
)
def test_a_history_says_whether_anything_may_have_happened(
    history: History, unknown: bool, begins: bool, happened: bool
) -> None:
    """Nothing only where an episode begins here; what was done before is not known until something was done here."""
    scene = Scene(Row((), (), None, NOW, history))

    assert [value(term, scene) for term in (UNKNOWN, BEGINS, HAPPENED)] == [unknown, begins, happened]
    assert (history.action == NO_ACTION) is begins


def test_a_number_is_a_double() -> None:
    """So that arithmetic is that of doubles."""
    assert isinstance(number(2), Fixed)
    assert type(number(2).value) is float
    assert type(value(Part(0), Scene(Row((), (), None, NOW, History(known=True, since=NOW)), (1, 0)))) is float
