"""Half-spaces: sums over the numbers of a Box that have a limit."""

from typing import Annotated, Literal

from pydantic import Field

from guards.boxes import EXACT, Amount, index_of
from guards.constraints.constraint import Constraint
from guards.language.syntax import amount_of
from guards.language.terms import Term, Within, opposite
from guards.records import Schema


class Linear(Constraint):
    """Forbids what is beyond a half-space: the sum of each coefficient times its number is to be ``at_most``.

    What cannot be evaluated leaves nothing.
    """

    kind: Literal["linear"] = "linear"
    coefficients: Annotated[dict[str, Amount], Field(min_length=1)]
    at_most: Amount

    def term(self, schema: Schema) -> Term:
        named = sorted((index_of(name, schema), name) for name in self.coefficients)
        parts = [amount_of(f"coefficients.{name}", self.coefficients[name], schema) for _, name in named]
        parts.append(amount_of("at_most", self.at_most, schema))
        return opposite(Within(tuple(index for index, _ in named), EXACT, parts=tuple(parts)))
