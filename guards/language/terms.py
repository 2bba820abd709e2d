"""Terms: what a constraint means, as a small tree over a row and one candidate action.

A term has a value, or it fails: a fact was not given, a history is not here, a number is too large for a double. A
failure counts only where Python's own order of evaluation meets it: ``y != 0 and x / y > 3`` does not fail at 0.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from guards.records import Action, History

# What a part can be about: the action that is asked about, or one that may have been executed last.
Of = Literal["action", "previous"]
Value = float | bool | Action


@dataclass(frozen=True, slots=True)
class Term:
    """What every term has: the terms that it is made of."""

    parts: "tuple[Term, ...]" = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Fixed(Term):
    """The same value always; numbers are doubles."""

    value: Value


@dataclass(frozen=True, slots=True)
class Observed(Term):
    """A number of the observation; the edge has already refused what is not finite."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Fact(Term):
    """A fact, which fails where it was not given."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Past(Term):
    """What the session's history says.

    ``step`` and ``previous_action`` fail where they are not known. Of the truths, ``unknown`` is that it is not known
    what was executed last, ``begins`` that it was nothing, ``happened`` that anything may have been executed at all.
    """

    what: Literal["step", "seconds_since_change", "previous_action", "unknown", "begins", "happened"]


@dataclass(frozen=True, slots=True)
class Recall(Term):
    """A number that a constraint reads out of a history at a time; ``worst`` is what the proof takes it for.

    ``key`` tells it from others.
    """

    key: Hashable
    read: Callable[[History, float], float] = field(compare=False)
    worst: Term = field(compare=False)


@dataclass(frozen=True, slots=True)
class Part(Term):
    """A part of an action: its index, its choice of a factor as an index, or a number of a Box."""

    index: int
    of: Of = "action"


@dataclass(frozen=True, slots=True)
class Whole(Term):
    """The action itself."""

    of: Of = "action"


@dataclass(frozen=True, slots=True)
class Among(Term):
    """Whether a part of the action is one of some choices."""

    index: int
    choices: frozenset[int]


@dataclass(frozen=True, slots=True)
class Table(Term):
    """A number that is known of each action: the sum, left to right, of what its choices of some factors have.

    ``named`` are the choices, counted through all factors, that somebody gave a number.
    """

    columns: tuple[tuple[int, tuple[float, ...]], ...]
    named: frozenset[int] = field(compare=False)
    of: Of = "action"


@dataclass(frozen=True, slots=True)
class Operation(Term):
    """Something done with the parts: an operator of Python, or one of these.

    ``if`` has test, body and otherwise; ``fails`` is whether its part does; ``some`` is whether its part holds for any
    action that may have been executed last. Arithmetic that is ``checked`` fails where its result is not finite;
    ``text`` is how people wrote it.
    """

    op: str
    checked: bool = True
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Compare(Term):
    """A chain of comparisons, whose sides are evaluated once each."""

    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Within(Term):
    """Whether a point of a Box is in a half-space: the sum of a coefficient times each number is at most the last part.

    With a ``tolerance`` it may be more by that share of its scale: the greater of the limit and what is summed up,
    where a number counts as one at least. What is not finite is in none.
    """

    numbers: tuple[int, ...]
    tolerance: float


TRUE, FALSE = Fixed(True), Fixed(False)
HAPPENED, UNKNOWN, BEGINS = Past("happened"), Past("unknown"), Past("begins")


def number(value: float) -> Fixed:
    """A number as a double."""
    return Fixed(float(value))


def compare(left: Term, op: str, right: Term) -> Compare:
    """One comparison."""
    return Compare((op,), parts=(left, right))


def operation(op: str, *parts: Term, checked: bool = True, text: str = "") -> Term:
    """An operation; ``and`` and ``or`` of one part are that part."""
    return parts[0] if op in ("and", "or") and len(parts) == 1 else Operation(op, checked, text, parts=parts)


def plain(op: str, *parts: Term) -> Term:
    """Arithmetic that does not fail."""
    return operation(op, *parts, checked=False)


def opposite(term: Term) -> Term:
    """Whether a condition is false."""
    return operation("not", term)


def just_now(otherwise: float) -> Term:
    """The worst of a number of seconds: none if anything may have been executed."""
    return operation("if", HAPPENED, number(0), number(otherwise))


def every(term: Term) -> Iterator[Term]:
    """A term and all that it is made of."""
    yield term
    for part in term.parts:
        yield from every(part)


def about_action(term: Term) -> bool:
    """Whether a term can differ between actions of one row."""
    own = isinstance(term, Among | Within) or (isinstance(term, Part | Whole | Table) and term.of == "action")
    return own or any(map(about_action, term.parts))


def about_row(term: Term) -> bool:
    """Whether a term can differ between rows."""
    previous = isinstance(term, Part | Whole | Table) and term.of == "previous"
    return previous or isinstance(term, Observed | Fact | Past | Recall) or any(map(about_row, term.parts))


def can_fail(term: Term) -> bool:
    """Whether a term may have no value."""
    if isinstance(term, Operation) and term.op == "fails":
        return False
    if isinstance(term, Past) and term.what in ("step", "seconds_since_change", "previous_action"):
        return True
    arithmetic = isinstance(term, Operation) and term.checked and term.op in ("+", "-", "*", "/", "%")
    return isinstance(term, Fact) or (arithmetic and len(term.parts) > 1) or any(map(can_fail, term.parts))
