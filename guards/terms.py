"""Terms: the vectorised pieces that a rule expression is compiled into.

A term is evaluated over a batch at once, either for all actions ([N, A]) or for one action a row ([N]). Evaluation can
fail cell by cell (a division by zero, a fact that was not given, a history that is not here); a failure counts only
where Python's own evaluation order would have met it, so ``y != 0 and x / y > 3`` does not fail at ``y == 0``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from guards.records import UNKNOWN_ACTION, Booleans, Context, Integers

Kind = Literal["number", "truth", "action", "choice", "text"]
# Numbers, truths or action indices; what an array holds is said by its term's kind.
Values = NDArray[Any]
# A value and, where evaluating it failed in some cells, which those are.
Result = tuple[Values, Booleans | None]
# What is known of each action before any request: listed, or worked out of the choices[..., K] that it is made of.
Table = Values | Callable[[Integers], Values]


def looked_up(table: Table, at: Any) -> Values:
    """What a table has where some actions stand; of all of them where ``at`` is None."""
    return np.asarray(table[at]) if isinstance(table, np.ndarray) else table(np.asarray(at))


class Scene:
    """A context and the actions asked about: all of them as columns (``choice`` None), or one a row."""

    __slots__ = ("choice", "context", "seen")

    def __init__(self, context: Context, choice: Integers | None) -> None:
        self.context = context
        self.choice = choice
        self.seen: dict[Evaluate, Result] = {}

    def per_row(self, values: Values) -> Values:
        """Shape values[N] to stand beside the actions: [N, 1] against [1, A], or [N] against [N]."""
        return values[:, None] if self.choice is None else values

    def per_action(self, table: Table) -> Values:
        """Pick from a table[A]: as [1, A] for all actions, else one entry a row."""
        return looked_up(table, self.choice)


Evaluate = Callable[[Scene], Result]
Operator = Callable[[Values, Values], Values]


@dataclass(frozen=True, slots=True)
class Term:
    """A compiled part of an expression: its kind, how to evaluate it, and its text if it is a string.

    An action or a choice has the names that it can have; ``table[A]`` is which one each action is, where that is known
    before any request. A number has the ``unit`` that is declared for it, if one is.
    """

    kind: Kind
    evaluate: Evaluate
    text: str = ""
    names: tuple[str, ...] = ()
    table: Values | None = None
    unit: str = ""


def constant(value: float | bool) -> Evaluate:
    """The same value in every cell."""
    values = np.array([value])
    return lambda _: (values, None)


def observed(index: int) -> Evaluate:
    """A field of the observation; the edge has already refused what is not finite."""
    return lambda scene: (scene.per_row(scene.context.observation[:, index]), None)


def fallible(values: Callable[[Context], Values]) -> Evaluate:
    """Numbers a row that fail where they are not finite."""

    def evaluate(scene: Scene) -> Result:
        column = scene.per_row(values(scene.context))
        return column, _where_not_finite(column)

    return evaluate


def acted(index: int) -> Evaluate:
    """A number of a Box, whose action is always asked about one a row."""
    return lambda scene: (np.asarray(scene.choice)[:, index], None)


def per_action(table: Table) -> Evaluate:
    """A table[A] looked up at the action asked about."""
    return lambda scene: (scene.per_action(table), None)


def tabled(table: Table, kind: Kind, names: tuple[str, ...]) -> Term:
    """What is known of each action asked about."""
    return Term(kind, per_action(table), names=names, table=table if isinstance(table, np.ndarray) else None)


def previous_action(scene: Scene) -> Result:
    """The last executed action, failing where the history is not here."""
    column = scene.per_row(scene.context.previous_action())
    unknown = column == UNKNOWN_ACTION
    return column, unknown if unknown.any() else None


def mapped(function: Callable[[Values], Values], inner: Evaluate) -> Evaluate:
    """A function of one value; negation and absolute value cannot fail."""

    def evaluate(scene: Scene) -> Result:
        value, failed = inner(scene)
        return function(value), failed

    return evaluate


def once(inner: Evaluate) -> Evaluate:
    """What several parts of an expression ask for, evaluated for the first of them."""

    def evaluate(scene: Scene) -> Result:
        if inner not in scene.seen:
            scene.seen[inner] = inner(scene)
        return scene.seen[inner]

    return evaluate


def combined(operator: Operator, left: Evaluate, right: Evaluate) -> Evaluate:
    """A function of two values that cannot fail by itself: a comparison, a minimum."""

    def evaluate(scene: Scene) -> Result:
        a, a_failed = left(scene)
        b, b_failed = right(scene)
        return operator(a, b), _either(a_failed, b_failed)

    return evaluate


def computed(operator: Operator, left: Evaluate, right: Evaluate) -> Evaluate:
    """Arithmetic: fails where its result is not finite."""
    plain = combined(operator, left, right)

    def evaluate(scene: Scene) -> Result:
        with np.errstate(all="ignore"):  # what failed is returned, cell by cell
            value, failed = plain(scene)
        return value, _either(failed, _where_not_finite(value))

    return evaluate


def joined(parts: Sequence[Evaluate], *, stop: bool) -> Evaluate:
    """``and`` (stop at the first false) or ``or`` (stop at the first true), left to right."""
    join = np.logical_or if stop else np.logical_and

    def evaluate(scene: Scene) -> Result:
        value, failed = parts[0](scene)
        for part in parts[1:]:
            more, more_failed = part(scene)
            if more_failed is not None:
                failed = _either(failed, more_failed & (value != stop))
            value = join(value, more)
        return value, failed

    return evaluate


def chosen(condition: Evaluate, body: Evaluate, otherwise: Evaluate) -> Evaluate:
    """``body if condition else otherwise``: only the branch taken can fail."""

    def evaluate(scene: Scene) -> Result:
        test, test_failed = condition(scene)
        a, a_failed = body(scene)
        b, b_failed = otherwise(scene)
        failed = _either(
            test_failed,
            _either(
                None if a_failed is None else a_failed & test,
                None if b_failed is None else b_failed & ~test,
            ),
        )
        return np.where(test, a, b), failed

    return evaluate


def _either(a: Booleans | None, b: Booleans | None) -> Booleans | None:
    if a is None:
        return b
    return a if b is None else a | b


def _where_not_finite(values: Values) -> Booleans | None:
    finite = np.isfinite(values)
    return None if np.count_nonzero(finite) == finite.size else ~finite
