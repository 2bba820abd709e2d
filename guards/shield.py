"""The shield: what all constraints together leave of what may be chosen, beside the check of what was."""

from collections.abc import Callable, Sequence
from typing import Any

from export.spec import Box, Discrete
from guards.actions import Choices, sizes_of, whole_actions
from guards.boxes import sides_of
from guards.check import MASK as MASK
from guards.check import Check
from guards.check import Verdict as Verdict
from guards.check import Violation as Violation
from guards.check import violation as violation
from guards.language.judge import Block, Listing
from guards.language.python import Source
from guards.projection import Region, confined
from guards.records import Action, Row


class Shield(Check):
    """Constraints that say what they leave: see ``guards.check.Check``, which does not rely on it."""

    def _write(self, source: Source) -> None:
        super()._write(source)
        if not isinstance(self.schema.action, Box):
            self._write_judge(source)
        for i, one in enumerate(self.masking):
            for j, side in enumerate(sides_of(one.term)):
                source.function(f"side{i}_{j}", "row", [f"return {', '.join(map(source.text, side.parts))}"])

    def _read(self, made: dict[str, Callable[..., Any]]) -> None:
        super()._read(made)
        sides = [list(enumerate(sides_of(one.term))) for one in self.masking]
        self._confines = [[(side, made[f"side{i}_{j}"]) for j, side in many] for i, many in enumerate(sides)]
        # The bits of the choices that are forbidden, by all constraints and the request's mask together: actions of a
        # list, whole ones where constraints join factors, or else the choices of all factors. Not of a Box.
        self.judge: Callable[[Row], int] = made.get("judge", self._unlisted)
        self._mask = self._widened(list(range(sum(sizes_of(self.schema.action)))))

    def _write_judge(self, source: Source) -> None:
        space, block = self.schema.action, Block()
        sizes = sizes_of(space)
        whole = self._listing(None) if self.joins or isinstance(space, Discrete) else None
        factors = [self._listing(i) for i in range(len(sizes))] if whole is None else []
        for one in self.masking:
            if one.mode == "deny":
                listing = whole or factors[one.factor or 0]
                block.add(one.term, listing, listing.every)
        masked = source.name(self.masked, "masked")
        source.function(
            "judge",
            "row",
            ["deny = 0", *block.lines(source), f"return deny if row.mask is None else deny | {masked}(row.mask)"],
        )

    def _listing(self, factor: int | None) -> Listing:
        """All actions; or the choices of a factor, each with its bit among all choices."""
        space, start = self.schema.action, 0
        actions: Sequence[Action] = whole_actions(space) if factor is None else ()
        if factor is not None:
            sizes = sizes_of(space)
            start, zeros = sum(sizes[:factor]), (0,) * len(sizes)
            actions = [(*zeros[:factor], choice, *zeros[factor + 1 :]) for choice in range(sizes[factor])]
        bits = [1 << (start + i) for i in range(len(actions))]
        return Listing(space, actions, bits, ((1 << len(actions)) - 1) << start)

    def _widened(self, choices: Sequence[int]) -> list[int]:
        """The bits of what a request forbids by each choice: its own, or of all whole actions with it."""
        if not self.joins:
            return [1 << choice for choice in choices]
        starts = Choices(self.schema).starts
        found = [0] * len(choices)
        for i, action in enumerate(whole_actions(self.schema.action)):
            assert isinstance(action, tuple)  # noqa: S101 - it joins factors
            for part, start in zip(action, starts, strict=True):
                found[start + int(part)] |= 1 << i
        return found

    def _unlisted(self, row: Row) -> int:
        """Over a Box there is nothing to list."""
        raise AssertionError(row)

    def masked(self, mask: int) -> int:
        """The bits that a request's own mask forbids."""
        forbidden, bits = ~mask & ((1 << len(self._mask)) - 1), 0
        if not self.joins:
            return forbidden
        for choice, own in enumerate(self._mask):
            if forbidden >> choice & 1:
                bits |= own
        return bits

    def confines(self, row: Row) -> Region:
        """What constraints leave of a Box."""
        assert isinstance(self.schema.action, Box)  # noqa: S101 - only a Box has regions
        return confined(self.schema.action, self._confines, row)
