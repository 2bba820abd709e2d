"""The shield: what all constraints together leave of what may be chosen, beside the check of what was."""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_

from export.spec import Box, Discrete
from guards.actions import whole_actions
from guards.boxes import sides_of
from guards.check import MASK as MASK
from guards.check import Check
from guards.check import Verdict as Verdict
from guards.check import Violation as Violation
from guards.check import violation as violation
from guards.constraints.constraint import Constraint
from guards.language.judge import Block, Listing
from guards.language.python import Source
from guards.projection import Region, confined
from guards.records import Row, Schema


class Shield(Check):
    """Constraints that say what they leave: see ``guards.check.Check``, which does not rely on it."""

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        super().__init__(constraints, schema)
        source = Source(schema.action, recalls_ahead=True)
        sides = [sides_of(one.term) for one in self.masking]
        self._confines = [[(side, source.value(*side.parts, arguments="row")) for side in many] for many in sides]
        if not isinstance(schema.action, Box):
            # The bits of the choices that are forbidden, by all constraints and the request's mask together: actions of
            # a list, whole ones where constraints join factors, or else the choices of all factors.
            self.judge: Callable[[Row], int] = self._judge(source)

    def _judge(self, source: Source) -> Callable[[Row], int]:
        space, block = self.schema.action, Block()
        one = self.joins or isinstance(space, Discrete)
        listings = [self._listing(i) for i in ([None] if one else range(len(space.sizes)))]
        for bound in self.masking:
            if bound.mode == "deny":
                listing = listings[0 if one else bound.factor or 0]
                block.add(bound.term, listing, listing.every)
        masked = f"~row.mask & {(1 << sum(space.sizes)) - 1:#x}"
        if self.joins:
            # For each choice the bits of all whole actions that are made of it.
            self._made_of = [0] * sum(space.sizes)
            for action, bit in zip(listings[0].actions, listings[0].bits, strict=True):
                for choice in self.chosen(action):
                    self._made_of[choice] |= bit
            masked = f"{source.name(self.masked, 'masked')}(row.mask)"
        answer = f"return deny if row.mask is None else deny | {masked}"
        return source.function("judge", "row", ["deny = 0", *block.lines(source), answer])

    def _listing(self, factor: int | None) -> Listing:
        """All actions; or the choices of a factor, each with its bit among all choices."""
        space, start = self.schema.action, 0
        if factor is None:
            actions = whole_actions(space)
        else:
            start, zeros = sum(space.sizes[:factor]), (0,) * len(space.sizes)
            actions = [(*zeros[:factor], choice, *zeros[factor + 1 :]) for choice in range(space.sizes[factor])]
        bits = [1 << (start + i) for i in range(len(actions))]
        return Listing(space, actions, bits, sum(bits))

    def masked(self, mask: int) -> int:
        """The bits of the whole actions that a request's own mask forbids."""
        return reduce(or_, (own for choice, own in enumerate(self._made_of) if not mask >> choice & 1), 0)

    def confines(self, row: Row) -> Region:
        """What constraints leave of a Box."""
        assert isinstance(self.schema.action, Box)  # noqa: S101 - only a Box has regions
        return confined(self.schema.action, self._confines, row)
