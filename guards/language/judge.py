"""The judge: of all constraints together a function from a row to the bits of the choices that they forbid.

Terms are evaluated over the actions when it is made, as far as that goes: what is about the action alone becomes bits,
the rest conditions on the row, each with the bits that it forbids. Where constraints come to the same condition they
share it, and conditions that compare one number of the row with many constants become a search in a sorted list.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import accumulate
from operator import or_
from typing import Any, NamedTuple

from export.spec import ActionSpace
from guards.errors import EvaluationFailed
from guards.language import terms
from guards.language.python import Source
from guards.language.walk import Scene, value
from guards.records import Action, History, Row

# Fewer conditions on one number are asked one by one.
_FEW = 4
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
# What an action comes to for which something fails that is about it alone.
FAILS = terms.operation("/", terms.number(1), terms.number(0))
# Constants, each with the bits of the actions that it is the limit, or the level, of.
_Limits = defaultdict[terms.Constant, int]
_NOWHERE = Row((), (), None, 0.0, History(known=True, since=0.0))


class Listing(NamedTuple):
    """The actions that constraints are asked about, and the bit of each in what is forbidden."""

    space: ActionSpace
    actions: Sequence[Action]
    bits: Sequence[int]
    every: int

    def alone(self, term: terms.Term) -> dict[terms.Term, int]:
        """What a term that is about the action alone comes to, each with the bits of those for which it does."""
        known, found = Source(self.space).value(term), defaultdict[Any, int](int)
        for action, bit in zip(self.actions, self.bits, strict=True):
            try:
                found[known(_NOWHERE, action)] |= bit
            except ArithmeticError:
                found[FAILS] |= bit
        return {one if one is FAILS else terms.Constant(one): bits for one, bits in found.items()}


def split(term: terms.Term, listing: Listing) -> dict[terms.Term, int]:
    """What is left of a term for the actions, each with the bits of those for which it is that."""
    if not terms.about_action(term):
        return {term: listing.every}
    if not terms.about_row(term):
        return listing.alone(term)
    found = defaultdict[terms.Term, int](int)
    ways: list[tuple[tuple[terms.Term, ...], int]] = [((), listing.every)]
    for part in term.parts:
        each = split(part, listing).items()
        ways = [((*parts, one), bits & own) for parts, bits in ways for one, own in each if bits & own]
    for parts, bits in ways:
        found[folded(replace(term, parts=parts))] |= bits
    return found


def folded(term: terms.Term) -> terms.Term:
    """A term without what is known before any row; what fails always stays, and fails in its place."""
    if not terms.about_action(term) and not terms.about_row(term) and not isinstance(term, terms.Constant):
        try:
            return terms.Constant(value(term, Scene(_NOWHERE)))
        except EvaluationFailed:
            return term
    if not isinstance(term, terms.Operation):
        return term
    if term.op == "if" and isinstance(term.parts[0], terms.Constant):
        return term.parts[1] if term.parts[0].value else term.parts[2]
    if term.op == "fails" and not terms.can_fail(term.parts[0]):
        return terms.FALSE
    if term.op not in ("and", "or"):
        return term
    neutral, last = (terms.TRUE, terms.FALSE) if term.op == "and" else (terms.FALSE, terms.TRUE)
    parts = [part for part in term.parts if part != neutral]
    if last in parts:
        # What stands after it is never reached; what stands before it may fail.
        parts = parts[: parts.index(last) + 1]
        if not any(map(terms.can_fail, parts)):
            return last
    return terms.operation(term.op, *parts) if parts else neutral


class Block:
    """Conditions, and what each of them forbids where it is true or fails."""

    def __init__(self) -> None:
        self.always = 0
        self.conditions = defaultdict[terms.Term, int](int)
        # Limits on a number of the row, and levels that are moved to from one by no more than another.
        self.compared = defaultdict[tuple[str, terms.Term], _Limits](lambda: defaultdict(int))
        self.moved = defaultdict[tuple[terms.Term, terms.Term], _Limits](lambda: defaultdict(int))
        self.under: dict[terms.Term, tuple[Block, int]] = {}
        self.for_each: Block | None = None

    def deny(self, term: terms.Term, bits: int) -> None:
        """Forbid where a term is true or fails, which is about the row alone."""
        term = folded(term)
        if isinstance(term, terms.Constant):
            self.always |= bits if term.value else 0
        elif isinstance(term, terms.Operation) and term.op == "or":
            # Whichever is true or fails: the second is asked where the first is neither.
            for part in term.parts:
                self.deny(part, bits)
        elif isinstance(term, terms.Compare) and len(term.ops) == 1 and isinstance(term.parts[1], terms.Constant):
            self.compared[term.ops[0], term.parts[0]][term.parts[1]] |= bits
        elif isinstance(term, terms.Compare) and len(term.ops) == 1 and isinstance(term.parts[0], terms.Constant):
            self.deny(terms.Compare((_TURNED[term.ops[0]],), parts=(term.parts[1], term.parts[0])), bits)
        else:
            self.conditions[term] |= bits

    def where(self, test: terms.Term, within: int) -> "Block":
        """The block of what is forbidden where a test is true; where it fails, all within is."""
        block, bits = self.under.get(test, (Block(), 0))
        self.under[test] = block, bits | within
        return block

    def add(self, term: terms.Term, listing: Listing, within: int) -> None:
        """Forbid those of some actions for which a term is true or fails."""
        if not within:
            return
        if not terms.about_action(term):
            self.deny(term, within)
        elif (
            isinstance(term, terms.Operation)
            and term.op in ("or", "and", "if", "some")
            and self._divided(term, listing, within)
        ) or (isinstance(term, terms.Compare) and len(term.ops) == 1 and self._compared(term, listing, within)):
            return
        else:
            for one, bits in split(term, listing).items():
                self.deny(one, bits & within)

    def _divided(self, term: terms.Operation, listing: Listing, within: int) -> bool:
        """Forbid what the parts of a term forbid; false where they cannot be asked one by one."""
        first, *rest = term.parts
        if term.op == "or":
            for part in term.parts:
                self.add(part, listing, within)
            return True
        if term.op == "some":
            self.for_each = self.for_each or Block()
            self.for_each.add(first, listing, within)
            return True
        body, otherwise = (terms.operation("and", *rest), terms.FALSE) if term.op == "and" else rest
        if not terms.about_action(first):
            self._under(first, body, listing, within)
            if otherwise != terms.FALSE:
                self._under(terms.opposite(first), otherwise, listing, within)
            return True
        both = split(first, listing)
        if not both.keys() <= {terms.TRUE, terms.FALSE}:
            return False
        self.add(body, listing, within & both.get(terms.TRUE, 0))
        self.add(otherwise, listing, within & both.get(terms.FALSE, 0))
        return True

    def _under(self, test: terms.Term, term: terms.Term, listing: Listing, within: int) -> None:
        alone = split(term, listing) if not terms.about_row(term) else {}
        bits = within & alone.get(terms.TRUE, 0)
        if alone.keys() <= {terms.TRUE, terms.FALSE} and alone and (bits == within or not terms.can_fail(test)):
            self.deny(test, bits)
        else:
            self.where(test, within).add(term, listing, within)

    def _compared(self, term: terms.Compare, listing: Listing, within: int) -> bool:
        """Forbid by comparing what is known of each action with a number of the row; false where it says something
        else."""
        (op,), (left, right) = term.ops, term.parts
        if not terms.about_action(left):
            left, op, right = right, _TURNED[op], left
        if terms.about_action(right):
            return False
        if terms.about_row(left):
            return op == ">" and not terms.can_fail(term) and self._moves(left, right, listing, within)
        for one, bits in split(left, listing).items():
            if not isinstance(one, terms.Constant):
                self.always |= bits & within
            elif bits & within:
                self.compared[_TURNED[op], right][one] |= bits & within
        return True

    def _moves(self, size: terms.Term, most: terms.Term, listing: Listing, within: int) -> bool:
        """Forbid moves from a number of the row that are too long; false where a term says something else."""
        if not (isinstance(size, terms.Operation) and size.op == "abs" and isinstance(size.parts[0], terms.Operation)):
            return False
        move = size.parts[0]
        if move.op != "-" or move.checked or terms.about_row(move.parts[0]) or terms.about_action(move.parts[1]):
            return False
        for one, bits in split(move.parts[0], listing).items():
            assert isinstance(one, terms.Constant)  # noqa: S101 - it is about the action alone, and does not fail
            self.moved[move.parts[1], most][one] |= bits & within
        return True

    def lines(self, source: Source, previous: str = "h.action") -> Iterator[str]:
        """The block as Python."""
        if self.always:
            yield _denied(self.always)
        for (op, side), limits in self.compared.items():
            yield from self._comparison(source, op, side, limits, previous)
        for (before, most), levels in self.moved.items():
            yield from _moves(source, source.text(before, previous), source.text(most, previous), levels)
        for term, bits in self.conditions.items():
            yield from _guarded(term, f"y = {source.text(term, previous)}", bits, ["if y:", f"    {_denied(bits)}"])
        for test, (block, bits) in self.under.items():
            inner = [f"    {line}" for line in list(block.lines(source, previous)) or ["pass"]]
            yield from _guarded(test, f"y = {source.text(test, previous)}", bits, ["if y:", *inner])
        if self.for_each is not None:
            yield "for p in (h.action,) if h.other is None else (h.action, h.other):"
            yield from (f"    {line}" for line in list(self.for_each.lines(source, "p")) or ["pass"])

    def _comparison(self, source: Source, op: str, side: terms.Term, limits: _Limits, previous: str) -> Iterator[str]:
        """One number of the row beside constants."""
        all_bits = reduce(or_, limits.values())
        if op in ("==", "!="):
            same = {limit.value: bits for limit, bits in limits.items()}
            found, otherwise = (same, 0) if op == "==" else (_others(same), all_bits)
            name = source.name(found, ("found", *found.items()))
            then = [f"deny |= {name}.get(y, {otherwise:#x})"]
        elif len(limits) < _FEW:
            then = [
                line
                for limit, bits in limits.items()
                for line in (f"if y {op} {source.text(limit)}:", f"    {_denied(bits)}")
            ]
        else:
            ordered = sorted(limits.items(), key=lambda one: one[0].value)
            sums = _sums([bits for _, bits in ordered], rising=op in (">", ">="))
            at = "left" if op in (">", "<=") else "right"
            names = source.name(tuple(limit.value for limit, _ in ordered)), _bits(source, sums)
            then = [f"deny |= {names[1]}[{at}({names[0]}, y)]"]
            # A search takes what is no number for one.
            then = ["if y == y:", f"    {then[0]}"] if op in (">=", "<=") else then
        yield from _guarded(side, f"y = {source.text(side, previous)}", all_bits, then)


def _guarded(term: terms.Term, line: str, bits: int, then: Sequence[str]) -> Iterator[str]:
    """A line that works something out, and what is done then; where it fails, bits are forbidden."""
    if not terms.can_fail(term):
        yield line
        yield from then
        return
    yield from ("try:", f"    {line}", "except ArithmeticError:", f"    {_denied(bits)}", "else:")
    yield from (f"    {one}" for one in then)


def _denied(bits: int) -> str:
    return f"deny |= {bits:#x}"


def _sums(bits: Sequence[int], *, rising: bool) -> list[int]:
    """What the first so many forbid together, from none on; or all but the first so many."""
    if rising:
        return list(accumulate(bits, or_, initial=0))
    return list(accumulate(reversed(bits), or_, initial=0))[::-1]


def _bits(source: Source, sums: Sequence[int]) -> str:
    """The name of some bits, which are no numbers, though they may be equal to some."""
    return source.name(tuple(sums), ("bits", *sums))


def _others(same: dict[Action | float, int]) -> dict[Action | float, int]:
    """For each value, what all the others forbid together."""
    bits = list(same.values())
    before, after = _sums(bits, rising=True), _sums(bits, rising=False)
    return {one: before[i] | after[i + 1] for i, one in enumerate(same)}


def _moves(source: Source, before: str, most: str, levels: _Limits) -> Iterator[str]:
    """Levels that are farther than ``most`` from the one before: the lowest and the highest, as a difference of doubles
    grows with what it is taken from."""
    ordered = sorted(levels.items(), key=lambda one: one[0].value)
    values, bits = tuple(level.value for level, _ in ordered), [own for _, own in ordered]
    yield f"w, z = {before}, {most}"
    if len(values) < 2 * _FEW:
        for level, own in zip(values, bits, strict=True):
            yield from (f"if abs({level!r} - w) > z:", f"    {_denied(own)}")
        return
    name, up = source.name(values), _bits(source, _sums(bits, rising=False))
    down = _bits(source, _sums(bits, rising=True))
    yield f"deny |= {up}[right({name}, z, key=lambda c: c - w)] | {down}[left({name}, -z, key=lambda c: c - w)]"
