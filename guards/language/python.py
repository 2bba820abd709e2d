"""Terms as Python: each is an expression over the locals of a function that is made once, at start, and asked per row.

A failure is an ArithmeticError, raised where Python's own order of evaluation meets it.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from export.spec import ActionSpace, Discrete, MultiDiscrete
from guards.errors import EvaluationFailed
from guards.language import terms
from guards.language.walk import within
from guards.records import Action, Row, Schema

_PAST = {
    "step": "(float(h.step) if h.known else fail())",
    "previous_action": "(h.action if h.known or h.step else fail())",
    "seconds_since_change": "(v if (v := h.since_change(t)) - v == 0.0 else fail())",
    "unknown": "(not (h.known or h.step))",
    "begins": "(h.action == -1)",
    "happened": "(not h.known or h.step > 0)",
}
_WRITTEN = {"not": "(not {0})", "if": "({1} if {0} else {2})", "fails": "fails(lambda: {0})", "neg": "(-{0})"}
# What every function knows of a row.
_ROW = ("o = row.observation", "k = row.facts", "h = row.history", "t = row.now")


def fail() -> float:
    """Raises what a term without a value raises."""
    raise EvaluationFailed("a term has no value here")


def fails(evaluate: Callable[[], object]) -> bool:
    """Whether evaluating something fails."""
    try:
        evaluate()
    except ArithmeticError:
        return True
    return False


class Source:
    """Functions of a row that are made of terms, and the constants that they name.

    With ``recalls_ahead`` what is read out of a history is read once, before all else, and not where it is met.
    """

    def __init__(self, space: ActionSpace, *, recalls_ahead: bool = False) -> None:
        self.space = space
        self._recalls_ahead = recalls_ahead
        self._names: dict[object, str] = {}
        self._known: dict[str, Any] = {"fail": fail, "fails": fails, "within": within, "inf": math.inf, "nan": math.nan}
        self._known |= {"left": bisect_left, "right": bisect_right}
        self._hoisted: dict[str, str] = {}

    def name(self, constant: object, key: object = None) -> str:
        """The name of a constant; the same for the same ``key``, or the same constant."""
        key = (type(constant), constant) if key is None else key
        if key not in self._names:
            self._names[key] = f"c{len(self._names)}"
            self._known[self._names[key]] = constant
        return self._names[key]

    def function(self, name: str, arguments: str, body: Iterable[str]) -> Callable[..., Any]:
        """A function of a row; ``body`` is made of terms' texts, whose common parts are worked out before it."""
        lines = list(body)
        lines = [*_ROW, *(f"{local} = {text}" for text, local in self._hoisted.items()), *lines]
        self._hoisted = {}
        text = "\n    ".join([f"def {name}({arguments}):", *lines])
        exec(compile(text, "<constraints>", "exec"), self._known)  # noqa: S102 - it is our own text
        made: Callable[..., Any] = self._known.pop(name)
        return made

    def value(self, *some: terms.Term, arguments: str = "row, a") -> Callable[..., Any]:
        """The value of a term, or those of several; raises ArithmeticError where one fails."""
        return self.function("value", arguments, [f"return {', '.join(map(self.text, some))}"])

    def against(self, some: Sequence[terms.Term]) -> Callable[[Row, Action], list[int]]:
        """Which conditions on a row and an action are true, or fail, by their places."""
        body = ["found = []"]
        for i, term in enumerate(some):
            add = f"found.append({i})"
            body += ["try:", f"    if {self.text(term)}: {add}", "except ArithmeticError:", f"    {add}"]
        return self.function("against", "row, a", [*body, "return found"])

    def weights(self, some: Sequence[tuple[terms.Term, float]]) -> Callable[[Row, Action], list[float]]:
        """The values of terms, from none to the limit of each, which is also the value of what fails."""
        body = [f"found = [{', '.join(repr(most) for _, most in some)}]"]
        for i, (term, most) in enumerate(some):
            value = f"0.0 if (y := {self.text(term)}) <= 0.0 else y if y < {most!r} else {most!r}"
            body += ["try:", f"    found[{i}] = {value}", "except ArithmeticError: pass"] if most else []
        return self.function("weights", "row, a", [*body, "return found"])

    def text(self, term: terms.Term, previous: str = "h.action") -> str:
        """A term as an expression; ``previous`` names the action that is taken to have been executed last."""
        match term:
            case terms.Fixed():
                return repr(term.value)
            case terms.Observed():
                return self._hoist(f"o[{term.index}]")
            case terms.Fact():
                return f"(v if (v := k[{term.index}]) - v == 0.0 else fail())"
            case terms.Past():
                return _PAST[term.what]
            case terms.Recall():
                text = f"{self.name(term.read, term)}(h, t)"
                return self._hoist(text) if self._recalls_ahead else text
            case terms.Part():
                return self._part(term.index, term.of, previous)
            case terms.Whole():
                return _acted(term.of, previous)
            case terms.Among():
                return f"({self._at(term.index, 'a')} in {self.name(term.choices)})"
            case terms.Table():
                at = _acted(term.of, previous)
                return f"({' + '.join(f'{self.name(column)}[{self._at(i, at)}]' for i, column in term.columns)})"
            case terms.Within():
                *slopes, most = (self.text(part, previous) for part in term.parts)
                point = [self._part(i, "action", previous) for i in term.numbers]
                return f"within(({', '.join(slopes)},), ({', '.join(point)},), {most}, {term.tolerance!r})"
            case terms.Compare():
                first, *rest = (self.text(part, previous) for part in term.parts)
                return f"({first} {' '.join(f'{op} {side}' for op, side in zip(term.ops, rest, strict=True))})"
        assert isinstance(term, terms.Operation)  # noqa: S101 - there are no others
        return self._operation(term, previous)

    def _operation(self, term: terms.Operation, previous: str) -> str:
        if term.op == "some":
            one, other = (self.text(term.parts[0], action) for action in ("h.action", "h.other"))
            return f"({one} or h.other is not None and {other})"
        parts = [self.text(part, previous) for part in term.parts]
        match term.op:
            case "and" | "or":
                return f"({f' {term.op} '.join(parts)})"
            case "not" | "if" | "fails" | "neg":
                return _WRITTEN[term.op].format(*parts)
            case "abs" | "min" | "max":
                return f"{term.op}({', '.join(parts)})"
        plain = f"{parts[0]} {term.op} {parts[1]}"
        return f"(v if (v := {plain}) - v == 0.0 else fail())" if term.checked else f"({plain})"

    def _hoist(self, text: str) -> str:
        """The local of a text that cannot fail and is the same everywhere in a function."""
        return self._hoisted.setdefault(text, f"x{len(self._hoisted)}")

    def _at(self, index: int, action: str) -> str:
        """A part of an action as an index."""
        return action if isinstance(self.space, Discrete) else f"{action}[{index}]"

    def _part(self, index: int, of: terms.Of, previous: str) -> str:
        """A part of an action as a number."""
        part = self._at(index, _acted(of, previous))
        return f"float({part})" if isinstance(self.space, MultiDiscrete) else part


def evaluated(term: terms.Term, schema: Schema) -> Callable[[Row], float]:
    """A term that is about no action as a number of a row, 0 or 1 of a condition; NaN where it has no value."""
    source = Source(schema.action)
    text = f"    return float({source.text(term)})"
    return source.function("evaluated", "row", ["try:", text, "except ArithmeticError:", "    return nan"])


def _acted(of: terms.Of, previous: str) -> str:
    return "a" if of == "action" else previous
