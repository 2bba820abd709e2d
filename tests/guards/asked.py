"""Asked: expressions and constraints as functions of a batch, whose every cell is held to the walk over their terms."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.spec import Box
from guards.actions import whole_actions
from guards.constraints import Constraint
from guards.errors import EvaluationFailed
from guards.language import syntax
from guards.language.judge import Listing, split
from guards.language.python import Source
from guards.language.terms import Term, about_action
from guards.language.walk import Scene, value
from guards.projection import Region
from guards.records import Action, Booleans, Row, Schema
from guards.shield import Shield
from tests.guards.batched import Context, Integers

Values = NDArray[Any]
# A value and, where evaluating it failed in some cells, which those are.
Result = tuple[Values, Booleans | None]
FAILED = "failed"


def walked(term: Term, row: Row, action: Action) -> object:
    """What a term means, FAILED where it has no value."""
    try:
        return value(term, Scene(row, action))
    except EvaluationFailed:
        return FAILED


def asking(term: Term, schema: Schema) -> Callable[[Row, Action], object]:
    """A term as Python, FAILED where it has no value; what it says is what the walk says."""
    source = Source(schema.action)
    text = f"    return {source.text(term)}"
    made = source.function("asked", "row, a", ["try:", text, "except ArithmeticError:", "    return None"])

    def asked(row: Row, action: Action) -> object:
        found = made(row, action)
        told = FAILED if found is None else found
        assert told == walked(term, row, action)
        return told

    return asked


def specialised(term: Term, schema: Schema) -> Callable[[Row, Action], object]:
    """A term evaluated over the actions first, then asked of the row."""
    actions = whole_actions(schema.action)
    bits = [1 << i for i in range(len(actions))]
    left = [
        (asking(one, schema), bits)
        for one, bits in split(term, Listing(schema.action, actions, bits, sum(bits))).items()
    ]
    return lambda row, action: next(ask for ask, bits in left if bits >> actions.index(action) & 1)(row, action)


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression under a schema."""

    source: str
    schema: Schema
    term: Term

    def evaluate(self, context: Context, choice: Integers | None) -> Result:
        """Values and failed cells: [N, A] for all actions (``choice`` None), [N] for one a row."""
        space = self.schema.action
        if choice is None and not isinstance(space, Box):
            asked, actions = specialised(self.term, self.schema), whole_actions(space)
            actions = actions if about_action(self.term) else actions[:1]
            told: list[Any] = [[asked(row, action) for action in actions] for row in context.each]
        else:
            one = asking(self.term, self.schema)
            each = [tuple(a) if isinstance(a, list) else a for a in np.asarray(choice).tolist()]
            told = [one(row, action) for row, action in zip(context.each, each, strict=True)]
        cells = np.array(told, dtype=object)
        failed = np.array(cells == FAILED, dtype=np.bool_)
        values = np.where(failed, 0, cells).astype(np.float64)
        return (values != 0 if _true(cells[~failed]) else values), failed if failed.any() else None


def _true(cells: Values) -> bool:
    return all(isinstance(one, bool) for one in cells.ravel().tolist())


def compile_expression(
    source: str, schema: Schema, wanted: Literal["truth", "number"], *, about_action: bool = True
) -> Compiled:
    """An expression; raises ExpressionInvalid."""
    return Compiled(source, schema, syntax.term_of(source, schema, wanted, about_action=about_action))


def binding(constraint: Constraint, schema: Schema) -> Callable[[Context, Integers | None], Booleans]:
    """What a constraint forbids, whatever its mode: [N, A] for all actions, by the judge, or [N], by the check."""
    shield = Shield([constraint.model_copy(update={"mode": "deny"})], schema)
    term, count = constraint.term(schema), len(whole_actions(schema.action))

    def asked(row: Row, action: Action) -> bool:
        # What is excused stands behind it, and a doubt forbids nothing.
        found = 0 in shield.against(row, action)
        assert found is bool(walked(term, row, action))
        return found

    def forbidden(context: Context, choice: Integers | None) -> Booleans:
        if choice is None:
            rows = [Row(row.observation, row.facts, None, row.now, row.history) for row in context.each]
            return np.array([[bool(shield.judge(row) >> i & 1) for i in range(count)] for row in rows])
        return np.array([asked(row, action) for row, action in zip(context.each, choice.tolist(), strict=True)])

    return forbidden


def confined(constraint: Constraint, schema: Schema) -> Callable[[Context], Region]:
    """What a constraint leaves a row of a Box, with no regard to the Box's own bounds."""
    assert isinstance(schema.action, Box)
    fields = tuple(field.model_copy(update={"low": None, "high": None}) for field in schema.action.fields)
    shield = Shield([constraint], replace(schema, action=Box(fields=fields)))
    return lambda context: shield.confines(context.each[0])


def spread(shield: Shield, masks: Booleans) -> Booleans:
    """Masks[N, W] of the factors' choices as [N, J] of whole actions."""
    count = len(whole_actions(shield.schema.action))
    packed = [sum(1 << i for i, leaves in enumerate(mask) if leaves) for mask in masks.tolist()]
    return np.array([[not shield.masked(one) >> i & 1 for i in range(count)] for one in packed])
