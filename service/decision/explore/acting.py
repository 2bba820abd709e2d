"""Acting: an explorer in an action space: what constraints leave of a row, and how one action is drawn from it.

What is left of choices are the bits of those that are forbidden; of a Box it is a region.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete, Squash
from guards.batched import BoxRuling, Domain
from guards.errors import GuardMisconfigured
from guards.projection import EXACT, Region, scale_of, some
from guards.records import Action, Actions, Allowed, Booleans, Floats, Row
from guards.shield import Shield
from service.decision.explore.draws import Choice, Draw, Draws
from service.decision.explore.explorers import GREEDY, IN_A_BLOCK, Explorer, uniforms
from service.decision.explore.factors import Factors, Joint
from service.log.records import Bits, listed_rows

# Heads of up to so many numbers are worked out in plain numbers, wider ones by NumPy: which way, no machine decides.
NARROW = 64
# What was left before may be left again: it need not be listed anew.
_REMEMBERED = 1024

# What constraints leave of a row.
Left = int | BoxRuling


@dataclass(frozen=True, slots=True)
class Acting:
    """An explorer in an action space, beside greed for the rows that may not explore.

    ``blocks`` of 32 random bytes are what a row's uniform numbers are made from; ``width`` is how many numbers a head
    has for it, and ``sound`` says of each of them whether something can be drawn from it. ``ranks`` says whether a head
    has a second best choice where the best one may not be done: of a chosen action, a one among zeros, it has none. The
    numbers of a Box need none, because they are moved. ``plain`` says whether a row is drawn in plain numbers.
    """

    space: ActionSpace
    explorer: Explorer
    explore: Draws
    greedy: Draws
    blocks: int
    width: int
    squash: Squash
    sound: Callable[[np.ndarray], np.ndarray]
    domain: Domain
    scores: bool = True
    ranks: bool = True
    plain: bool = False
    # Bits of the choices of each part of which one has to be left.
    parts: tuple[int, ...] = ()
    allowed: Callable[[Left], Bits] = field(default=lambda _: [])

    @classmethod
    def of(
        cls,
        explorer: Explorer,
        space: ActionSpace,
        squash: Squash,
        *,
        joint: bool = False,
        scores: bool = True,
        narrow: int = NARROW,
    ) -> "Acting":
        """Bind an explorer; raises GuardMisconfigured where it does not fit the space, or compares what has no scores.

        ``joint`` says that what is allowed of several factors is said of whole actions.
        """
        if explorer.compares and not scores:
            raise _uncomparable(explorer.kind)
        explore, greedy, numbers = explorer.bind(space, squash), GREEDY.bind(space, squash), _uniforms_of(space)
        if joint and isinstance(space, MultiDiscrete):
            whole, numbers = Joint(space), IN_A_BLOCK
            explore, greedy = (whole.over(one.bind(whole.listed, squash)) for one in (explorer, GREEDY))
        domain = Domain(space, joined=joint)
        listed = lru_cache(_REMEMBERED)(partial(_listed, domain.shape))
        return cls(
            space=space,
            explorer=explorer,
            explore=explore,
            greedy=greedy,
            blocks=-(-numbers // IN_A_BLOCK),
            width=2 * space.width if isinstance(space, Box) else space.width,
            squash=squash,
            sound=_sound_of(space, scores=scores),
            domain=domain,
            scores=scores,
            ranks=scores or isinstance(space, Box),
            plain=isinstance(space, Discrete) and space.n <= narrow,
            parts=_parts(domain),
            allowed=(lambda _: []) if isinstance(space, Box) else listed,
        )

    def left(self, shield: Shield, row: Row) -> Left:
        """What the constraints leave of a row."""
        if not isinstance(self.space, Box):
            return shield.judge(row)
        region = Region.of([shield.confines(row)], self.space.width)
        return BoxRuling([row], (), self.domain, region, scale_of(self.space))

    def choosable(self, left: Left) -> bool:
        """Whether there is an action."""
        if isinstance(left, BoxRuling):
            return bool((left.region.low <= left.region.high).all())
        for part in self.parts:  # noqa: SIM110 - a generator costs more than most have parts
            if left & part == part:
                return False
        return True

    def is_sound(self, head: np.ndarray) -> bool:
        """Whether something can be drawn from a head[W]."""
        return bool(self.sound(head[None]).all())

    def choose(self, head: np.ndarray, left: Left, digest: bytes, *, explores: bool) -> Choice:
        """Draw from a row's head[W] inside what is left to it, by the explorer where it ``explores``."""
        if isinstance(left, int):
            if self.plain:
                return (self.explorer if explores else GREEDY).choose(head.tolist(), left, digest)
            return self._told(self._drawn(head, self._cells(left), digest, explores=explores))
        draw = self._drawn(head, left.leaves, digest, explores=explores)
        if not (explores and self.explorer.kind != GREEDY.kind and left.region.most.size):
            return self._told(draw, left.nearest(draw.proposed, draw.action))
        # Of half-spaces a draw knows nothing: they may move it and the best to one point, or apart, so whether it
        # explores is seen after both were moved.
        best = self._drawn(head, left.leaves, digest, explores=False).proposed
        both = left.region.rows([0, 0]).nearest(np.concatenate([draw.proposed, best]), left.scale)
        action, there = np.split(both, 2)
        return self._told(draw, action, some(np.abs(action - there) > EXACT * left.scale))

    def best(self, head: np.ndarray, left: Left) -> Action:
        """What a head that has no scores chose."""
        (chosen,) = self.domain.told(self._drawn(head, self._cells(left), b"", explores=False).proposed)
        assert chosen is not None  # noqa: S101 - an arg-max is an action
        return chosen

    def nearest(self, proposal: Actions, left: Left) -> Actions:
        """What to do for a proposal[1, ...]: choices are not moved."""
        return left.nearest(proposal, proposal) if isinstance(left, BoxRuling) else proposal

    def permits(self, action: Actions, left: Left) -> bool:
        """Whether an action[1, ...] is one of those left."""
        if isinstance(left, BoxRuling):
            return bool(left.region.holds(action)[0])
        return not any(left >> column & 1 for column in self.domain.columns(action).reshape(-1).tolist())

    def draw(self, exploring: Sequence[bool], head: Floats, allowed: Allowed, uniform: Floats) -> Draw:
        """Draw by the explorer in the rows[N] that may explore, greedily in the others."""
        if all(exploring):
            return self.explore(head, allowed, uniform)
        greedy = self.greedy(head, allowed, uniform)
        if not any(exploring):
            return greedy
        drawn = self.explore(head, allowed, uniform)
        chosen = np.array(exploring)
        rows = chosen.reshape(-1, *[1] * (drawn.action.ndim - 1))
        measures = zip(drawn.measure, exploring, strict=False)
        return Draw(
            proposed=np.where(rows, drawn.proposed, greedy.proposed),
            action=np.where(rows, drawn.action, greedy.action),
            propensity=np.where(chosen, drawn.propensity, greedy.propensity),
            explored=drawn.explored & chosen,
            measure=[measure if explores else "mass" for measure, explores in measures],
            beyond=None if drawn.beyond is None else drawn.beyond & chosen,
        )

    def _drawn(self, head: np.ndarray, allowed: Allowed, digest: bytes, *, explores: bool) -> Draw:
        draws = self.explore if explores else self.greedy
        return draws(head[None].astype(np.float64), allowed, uniforms(digest, self.blocks))

    def _cells(self, left: Left) -> Booleans:
        """What is left of choices, as truths[1, W]."""
        assert isinstance(left, int)  # noqa: S101 - a Box has none
        return _truths(left, int(np.prod(self.domain.shape)))[None]

    def _told(self, draw: Draw, moved: Actions | None = None, explored: Booleans | None = None) -> Choice:
        """A draw of one row in plain numbers."""
        (proposed,), (action,) = (
            self.domain.told(draw.proposed),
            self.domain.told(draw.action if moved is None else moved),
        )
        return Choice(
            proposed,
            action,
            float(draw.propensity[0]),
            bool((draw.explored if explored is None else explored)[0]),
            draw.measure[0] if draw.measure else "mass",
            draw.beyond is not None and bool(draw.beyond[0]),
        )


def _truths(forbidden: int, width: int) -> Booleans:
    """The choices[W] that bits do not forbid."""
    raw = np.frombuffer(forbidden.to_bytes(-(-width // 8), "little"), dtype=np.uint8)
    return np.asarray(np.unpackbits(raw, count=width, bitorder="little") == 0)


def _listed(shape: tuple[int, ...], forbidden: int) -> Any:
    """What a record says is allowed."""
    return listed_rows(_truths(forbidden, int(np.prod(shape))).reshape(1, *shape))[0]


def _parts(domain: Domain) -> tuple[int, ...]:
    """All actions of a list as bits; or the choices of each factor."""
    if domain.joined or isinstance(domain.space, Discrete):
        return ((1 << int(np.prod(domain.shape))) - 1,)
    both = zip(domain.starts.tolist(), domain.sizes.tolist(), strict=True)
    return tuple(((1 << size) - 1) << start for start, size in both)


def _uniforms_of(space: ActionSpace) -> int:
    """How many uniform numbers a draw in a space takes at most."""
    if isinstance(space, Discrete):
        return IN_A_BLOCK
    return Factors(space).uniforms if isinstance(space, MultiDiscrete) else space.width


def _uncomparable(kind: str) -> GuardMisconfigured:
    """An explorer that goes by scores, beside a policy that has none."""
    told = "the policy has no scores, only the action that it chose"
    return GuardMisconfigured(f"kind: was {kind!r}, expected 'greedy' or 'epsilon_greedy': {told}")


def _sound_of(space: ActionSpace, *, scores: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What says of a head's numbers whether something can be drawn from them."""
    if isinstance(space, Box):
        return _sound_gaussian
    return (
        np.isfinite
        if scores
        else partial(sound_choices, space.sizes if isinstance(space, MultiDiscrete) else (space.n,))
    )


def sound_choices(sizes: Sequence[int], head: np.ndarray) -> np.ndarray:
    """A one among zeros for each factor: of anything else an arg-max would make an action that nobody chose."""
    sound = np.isin(head, (0.0, 1.0))
    for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        sound[:, end - size : end] &= (np.count_nonzero(head[:, end - size : end], axis=1) == 1)[:, None]
    return sound


def _sound_gaussian(head: np.ndarray) -> np.ndarray:
    """Finite numbers, and no std below zero."""
    sound: np.ndarray = np.isfinite(head)
    std = head.shape[1] // 2
    sound[:, std:] &= head[:, std:] >= 0
    return sound
