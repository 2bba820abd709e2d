"""Boxes: what constraints leave of a Box as bounds and half-spaces, in plain numbers for one row."""

from export.spec import Box
from export.spec.nearest import DOZEN, one_of
from guards.errors import GuardMisconfigured
from guards.language.terms import Operation, Term, Within, number, operation, opposite, plain
from guards.records import Schema

# A number, or an expression over fields and facts.
Amount = float | str
# A half-space is kept where it is exceeded by no more than this part of its scale: the greater of |most| and the sum of
# |slope| times the number, or times one where that is more.
EXACT = 1e-9


def index_of(name: str | None, schema: Schema) -> int:
    """The index of a named number of a Box; raises GuardMisconfigured that names the known ones."""
    if not isinstance(schema.action, Box):
        msg = f"is for the numbers of a box action, and a {schema.action.kind} action has none"
        raise GuardMisconfigured(msg)
    names = [field.name for field in schema.action.fields]
    if name not in names:
        msg = f"the number {name!r} of the action is not known, expected {one_of(name, names, DOZEN)}"
        raise GuardMisconfigured(msg)
    return names.index(name)


def outside(index: int, low: Term, high: Term) -> Term:
    """Whether a number is not within its limits."""
    sides = ((number(1), high), (number(-1), plain("neg", low)))
    return operation("or", *[opposite(Within((index,), 0.0, parts=side)) for side in sides])


def sides_of(term: Term) -> list[Within]:
    """The half-spaces of which a term forbids what is in none or not in all; nothing where it is no such term."""
    parts = term.parts if isinstance(term, Operation) and term.op == "or" else (term,)
    inner = [part.parts[0] for part in parts if isinstance(part, Operation) and part.op == "not"]
    sides = [part for part in inner if isinstance(part, Within)]
    return sides if len(sides) == len(parts) else []
