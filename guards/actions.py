"""Actions: what can be chosen, how it is named, and which actions there are to list."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, product
from math import isfinite, prod
from types import UnionType

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete
from export.spec.nearest import DOZEN, one_of
from guards.errors import GuardMisconfigured
from guards.language.terms import Among, Of, Table, Term, number, operation
from guards.language.walk import left_to_right, part_of
from guards.records import Action, Schema

# An action as people write it: its name; a name or an index for each factor; the numbers of a Box.
Written = str | tuple[str | int | float, ...]
JOINT_LIMIT = 4096
# NumPy has no arrays of more axes.
_AXES = 32


class Choices:
    """The choices of a schema, one after another through all factors, as constraints name them: ``up``, ``fan=on``.

    Raises GuardMisconfigured where there are none.
    """

    def __init__(self, schema: Schema) -> None:
        self.names = schema.choices
        if not self.names:
            msg = f"is for actions to choose from, and a {schema.action.kind} action has none"
            raise GuardMisconfigured(msg)
        self.sizes = schema.action.sizes
        self.starts = tuple(accumulate((0, *self.sizes[:-1])))
        self._places = {name: i for i, name in enumerate(self.names)}
        self._factors = tuple(i for i, size in enumerate(self.sizes) for _ in range(size))

    def index(self, name: str) -> int:
        """Where a name stands; raises GuardMisconfigured that names the known ones."""
        if name not in self._places:
            msg = f"the action {name!r} is not known, expected {one_of(name, self.names, DOZEN)}"
            raise GuardMisconfigured(msg)
        return self._places[name]

    def among(self, names: Iterable[str]) -> Term:
        """Whether an action is made of any of some choices."""
        found: dict[int, set[int]] = {}
        for index in sorted(map(self.index, names)):
            factor = self._factors[index]
            found.setdefault(factor, set()).add(index - self.starts[factor])
        return operation("or", *[Among(factor, frozenset(own)) for factor, own in found.items()])

    def columns(self, amounts: Mapping[str, float]) -> dict[int, list[float]]:
        """What the choices of each factor that is named have of some amounts; nothing for what is not named."""
        columns: dict[int, list[float]] = {}
        for name, amount in amounts.items():
            index = self.index(name)
            factor = self._factors[index]
            columns.setdefault(factor, [0.0] * self.sizes[factor])[index - self.starts[factor]] = float(amount)
        return dict(sorted(columns.items()))

    def table(self, amounts: Mapping[str, float], of: Of = "action") -> Term:
        """The sum of what an action's choices have of some amounts."""
        columns = tuple((factor, tuple(column)) for factor, column in self.columns(amounts).items())
        return Table(columns, frozenset(map(self.index, amounts)), of) if columns else number(0)

    def summed(self, amounts: Mapping[str, float]) -> Callable[[Action], float]:
        """The same sum, of one action."""
        columns = self.columns(amounts).items()
        if len(columns) == 1:
            ((factor, own),) = columns
            return lambda action: own[int(part_of(action, factor))]
        return lambda action: left_to_right([column[int(part_of(action, i))] for i, column in columns])

    def missing(self, amounts: Mapping[str, float]) -> list[str]:
        """The choices without an amount of a factor that has others with one."""
        named = set(map(self.index, amounts))
        for start, size in zip(self.starts, self.sizes, strict=True):
            part = set(range(start, start + size))
            if part & named and not part <= named:
                return [self.names[i] for i in sorted(part - named)]
        return []


def listed(space: ActionSpace) -> bool:
    """Whether there are few enough whole actions for a list of all."""
    return isinstance(space, Discrete) or (prod(space.sizes) <= JOINT_LIMIT and 0 < len(space.sizes) <= _AXES)


def whole_actions(space: ActionSpace) -> list[Action]:
    """All actions of a list, or of factors that are listed; the last factor's choice changes fastest."""
    return list(range(space.n)) if isinstance(space, Discrete) else list(product(*map(range, space.sizes)))


def holder_of(space: ActionSpace) -> Callable[[Action], bool]:
    """Tells whether something is an action of a space."""
    if isinstance(space, Discrete):
        return lambda action: isinstance(action, int) and 0 <= action < space.n
    kinds: type | UnionType = int
    limits = [(0.0, size - 1.0) for size in space.sizes]
    if isinstance(space, Box):
        kinds, limits = int | float, list(zip(space.low, space.high, strict=True))

    def holds(action: Action) -> bool:
        if not isinstance(action, tuple) or len(action) != len(limits):
            return False
        told = zip(action, limits, strict=True)
        return all(isinstance(one, kinds) and isfinite(one) and low <= one <= high for one, (low, high) in told)

    return holds


def read(written: Written, space: ActionSpace) -> Action:
    """The one action that somebody wrote; raises GuardMisconfigured."""
    if isinstance(space, Discrete):
        if not isinstance(written, str):
            msg = f"the action {list(written)} is a list, expected {one_of(None, space.names)}"
            raise GuardMisconfigured(msg)
        return _index(written, space.names, "action")
    parts = space.fields if isinstance(space, Box) else space.factors
    names, what = [part.name for part in parts], "number" if isinstance(space, Box) else "choice"
    numbers = isinstance(space, Box) and any(not isinstance(one, int | float) for one in written)
    if isinstance(written, str) or len(written) != len(names) or numbers:
        told = repr(written if isinstance(written, str) else list(written))
        msg = f"the action {told} is not known, expected a list of a {what} for each of {names}"
        raise GuardMisconfigured(msg)
    if isinstance(space, MultiDiscrete):
        chosen = zip(written, space.factors, strict=True)
        return tuple(_index(one, factor.names, f"choice of {factor.name!r}") for one, factor in chosen)
    action = tuple(map(float, written))
    if not holder_of(space)(action):
        bounds = list(zip(space.low, space.high, strict=True))
        msg = f"the action {list(written)} is out of bounds, expected numbers within {bounds}"
        raise GuardMisconfigured(msg)
    return action


def _index(written: str | float, names: Sequence[str], what: str) -> int:
    """The index of a name, or an index that exists."""
    if isinstance(written, str) and written in names:
        return names.index(written)
    if isinstance(written, int) and not isinstance(written, bool) and 0 <= written < len(names):
        return written
    msg = f"the {what} {written!r} is not known, expected {one_of(written, names, DOZEN)}"
    raise GuardMisconfigured(msg)
