"""Rules: expressions that forbid."""

from typing import Literal

from guards.constraints.constraint import Constraint, shown
from guards.errors import EvaluationFailed
from guards.language import syntax
from guards.language.terms import Term, Value, operation, opposite
from guards.language.walk import Scene, value
from guards.records import Schema


class Rule(Constraint):
    """Forbids every action for which an expression is true, or cannot be evaluated.

    With ``on_error = "allow"`` an action for which it cannot be evaluated is let pass, and reported.
    """

    kind: Literal["rule"] = "rule"
    forbid: str
    on_error: Literal["deny", "allow"] = "deny"

    def term(self, schema: Schema) -> Term:
        condition, fails = self.condition(schema), self.excuses(schema)
        return condition if fails is None else operation("and", opposite(fails), condition)

    def excuses(self, schema: Schema) -> Term | None:
        return None if self.on_error == "deny" else operation("fails", self.condition(schema))

    def condition(self, schema: Schema) -> Term:
        return syntax.term_of(self.forbid, schema, "truth")

    def why(self, scene: Scene, schema: Schema) -> str:
        try:
            outcome = "is true" if value(self.condition(schema), scene) else "is false"
        except EvaluationFailed as error:
            outcome = f"cannot be evaluated, because {error}"
        told: dict[str, str] = {}
        for text, part in syntax.shown(self.forbid, schema):
            try:
                told[text] = _named(value(part.term, scene), part)
            except EvaluationFailed:
                continue
        where = ", ".join(f"{text} = {word}" for text, word in told.items())
        return f"{self.forbid!r} {outcome}" + (f" where {where}" if where else "")


def _named(found: Value, part: syntax.Typed) -> str:
    """A value as people read it."""
    if part.kind != "action":
        return shown(float(found)) if isinstance(found, int | float) else repr(found)
    return repr(part.names[found]) if isinstance(found, int) and found >= 0 else "none"
