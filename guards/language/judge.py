"""The judge: of all constraints together a function from a row to the bits of the choices that they forbid.

Terms are evaluated over the actions when it is made, as far as that goes: what is about the action alone becomes bits,
the rest conditions on the row, each with the bits that it forbids. Where constraints come to the same condition they
share it, and conditions that compare one number of the row with many constants become a search in a sorted list.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
_Limits = defaultdict[terms.Fixed, int]
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
        return {one if one is FAILS else terms.Fixed(one): bits for one, bits in found.items()}


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
    if not terms.about_action(term) and not terms.about_row(term) and not isinstance(term, terms.Fixed):
        try:
            return terms.Fixed(value(term, Scene(_NOWHERE)))
        except EvaluationFailed:
            return term
    if not isinstance(term, terms.Operation):
        return term
    if term.op == "if" and isinstance(term.parts[0], terms.Fixed):
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
        match folded(term):
            case terms.Fixed(value=value):
                self.always |= bits if value else 0
            case terms.Operation(op="or", parts=parts):
                # Whichever is true or fails: the second is asked where the first is neither.
                for part in parts:
                    self.deny(part, bits)
            case terms.Compare(ops=(op,), parts=(side, terms.Fixed() as limit)):
                self.compared[op, side][limit] |= bits
            case terms.Compare(ops=(op,), parts=(terms.Fixed() as limit, side)):
                self.compared[_TURNED[op], side][limit] |= bits
            case condition:
                self.conditions[condition] |= bits

    def add(self, term: terms.Term, listing: Listing, within: int) -> None:
        """Forbid those of some actions for which a term is true or fails."""
        if within and not (terms.about_action(term) and self._parted(term, listing, within)):
            for one, bits in split(term, listing).items():
                self.deny(one, bits & within)

    def _parted(self, term: terms.Term, listing: Listing, within: int) -> bool:
        """Forbid what the parts of a term forbid; false where they cannot be asked one by one."""
        match term:
            case terms.Operation(op="or", parts=parts):
                for part in parts:
                    self.add(part, listing, within)
                return True
            case terms.Operation(op="some", parts=(inner,)):
                self.for_each = self.for_each or Block()
                self.for_each.add(inner, listing, within)
                return True
            case terms.Operation(op="and", parts=(test, *rest)):
                first, then = test, terms.operation("and", *rest)
                if terms.about_row(test) and not (terms.about_action(then) or terms.can_fail(term)):
                    first, then = then, test
                return self._divided(first, then, terms.FALSE, listing, within)
            case terms.Operation(op="if", parts=(test, body, otherwise)):
                return self._divided(test, body, otherwise, listing, within)
            case terms.Compare(ops=(op,), parts=(left, right)):
                return self._compared(op, left, right, listing, within)
        return False

    def _divided(
        self, test: terms.Term, body: terms.Term, otherwise: terms.Term, listing: Listing, within: int
    ) -> bool:
        """Forbid what a term forbids where a test is true, and another where not; false where it is about both."""
        if not terms.about_action(test):
            self._under(test, body, listing, within)
            if otherwise != terms.FALSE:
                self._under(terms.opposite(test), otherwise, listing, within)
            return True
        both = split(test, listing)
        if not both.keys() <= {terms.TRUE, terms.FALSE}:
            return False
        self.add(body, listing, within & both.get(terms.TRUE, 0))
        self.add(otherwise, listing, within & both.get(terms.FALSE, 0))
        return True

    def _under(self, test: terms.Term, term: terms.Term, listing: Listing, within: int) -> None:
        """Forbid what a term forbids where a test is true; where that fails, all within."""
        alone = split(term, listing) if not terms.about_row(term) else {}
        bits = within & alone.get(terms.TRUE, 0)
        if alone.keys() <= {terms.TRUE, terms.FALSE} and alone and (bits == within or not terms.can_fail(test)):
            self.deny(test, bits)
            return
        block, bits = self.under.get(test, (Block(), 0))
        self.under[test] = block, bits | within
        block.add(term, listing, within)

    def _compared(self, op: str, left: terms.Term, right: terms.Term, listing: Listing, within: int) -> bool:
        """Forbid by comparing what is known of each action with a number of the row; false where it is not that."""
        if not terms.about_action(left):
            left, op, right = right, _TURNED[op], left
        if terms.about_action(right):
            return False
        if not terms.about_row(left):
            for one, bits in split(left, listing).items():
                if not isinstance(one, terms.Fixed):
                    self.always |= bits & within
                elif bits & within:
                    self.compared[_TURNED[op], right][one] |= bits & within
            return True
        if op != ">" or terms.can_fail(left) or terms.can_fail(right):
            return False
        match left:
            # A move from a number of the row that is too long.
            case terms.Operation(op="abs", parts=(terms.Operation(op="-", checked=False, parts=(to, before)),)) if not (
                terms.about_row(to) or terms.about_action(before)
            ):
                for one, bits in split(to, listing).items():
                    assert isinstance(one, terms.Fixed)  # noqa: S101 - it is about the action alone, and does not fail
                    self.moved[before, right][one] |= bits & within
                return True
        return False

    def lines(self, source: Source, previous: str = "h.action") -> Iterator[str]:
        """The block as Python."""
        if self.always:
            yield _denied(self.always)
        for (op, side), limits in self.compared.items():
            bits = reduce(or_, limits.values())
            yield from _guarded(side, source.text(side, previous), bits, _comparison(source, op, limits))
        for (before, most), levels in self.moved.items():
            yield from _moves(source, source.text(before, previous), source.text(most, previous), levels)
        for term, bits in self.conditions.items():
            yield from _guarded(term, source.text(term, previous), bits, _where("y", [_denied(bits)]))
        for test, (block, bits) in self.under.items():
            yield from _guarded(test, source.text(test, previous), bits, _where("y", block.lines(source, previous)))
        if self.for_each is not None:
            yield "for p in (h.action,) if h.other is None else (h.action, h.other):"
            yield from _indented(self.for_each.lines(source, "p"))


def _comparison(source: Source, op: str, limits: _Limits) -> Iterator[str]:
    """What constants forbid to which a number of the row, ``y``, compares."""
    if op in ("==", "!="):
        same = {limit.value: bits for limit, bits in limits.items()}
        found, otherwise = (same, 0) if op == "==" else (_others(same), reduce(or_, same.values()))
        yield f"deny |= {source.name(found, ('found', *found.items()))}.get(y, {otherwise:#x})"
    elif len(limits) < _FEW:
        for limit, bits in limits.items():
            yield from _where(f"y {op} {source.text(limit)}", [_denied(bits)])
    else:
        values, own = _ordered(limits)
        sums, at = _sums(own, rising=op in (">", ">=")), "left" if op in (">", "<=") else "right"
        search = f"deny |= {_bits(source, sums)}[{at}({source.name(values)}, y)]"
        # A search takes what is no number for one.
        yield from _where("y == y", [search]) if op in (">=", "<=") else [search]


def _moves(source: Source, before: str, most: str, levels: _Limits) -> Iterator[str]:
    """Levels that are farther than ``most`` from the one before: the lowest and the highest, as a difference of doubles
    grows with what it is taken from."""
    values, bits = _ordered(levels)
    yield f"w, z = {before}, {most}"
    if len(values) < 2 * _FEW:
        for level, own in zip(values, bits, strict=True):
            yield from _where(f"abs({level!r} - w) > z", [_denied(own)])
        return
    name, up = source.name(values), _bits(source, _sums(bits, rising=False))
    down = _bits(source, _sums(bits, rising=True))
    yield f"deny |= {up}[right({name}, z, key=lambda c: c - w)] | {down}[left({name}, -z, key=lambda c: c - w)]"


def _guarded(term: terms.Term, text: str, bits: int, then: Iterable[str]) -> Iterator[str]:
    """A term worked out as ``y``, and what is done then; where it fails, bits are forbidden."""
    if not terms.can_fail(term):
        yield f"y = {text}"
        yield from then
        return
    yield from ("try:", f"    y = {text}", "except ArithmeticError:", f"    {_denied(bits)}", "else:")
    yield from _indented(then)


def _where(condition: str, then: Iterable[str]) -> Iterator[str]:
    yield f"if {condition}:"
    yield from _indented(then)


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines] or ["    pass"]


def _denied(bits: int) -> str:
    return f"deny |= {bits:#x}"


def _ordered(limits: _Limits) -> tuple[tuple[Any, ...], list[int]]:
    """Constants, the lowest first, and the bits of each."""
    ordered = sorted(limits.items(), key=lambda one: one[0].value)
    return tuple(limit.value for limit, _ in ordered), [bits for _, bits in ordered]


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
