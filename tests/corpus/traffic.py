"""Traffic: what is asked of a world, step by step, made from a seed; the same for every tree."""

from collections.abc import Iterator
from random import Random
from typing import Any

from export.spec import Box, Discrete
from tests.corpus.worlds import SPACES, World

Op = dict[str, Any]
# How a request goes on, and how often: see ``Traffic.row``.
MODES = {"new": 13, "known": 15, "unknown": 13, "other": 34, "ended": 12, "stale": 3, "gap": 10}
SESSIONS = 8
# Seconds between two steps: binary fractions, so that no clock has to round.
STEPS = (0.0, 0.015625, 0.5, 2.0, 4.5, 7.0, 20.0)
EXPIRED, GAPS = (8.0, 16.0), (320.0, 1000.0, 4000.0)
LATE = 64.0


class Traffic:
    """What is asked of one world."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.space = SPACES[world.shape]
        self.random = Random(f"{seed}/{world.name}")  # noqa: S311 - a corpus that repeats itself
        self.sessions = [f"s{i}" for i in range(SESSIONS)]
        self.strangers = 0
        # Decisions of each session since its episode began, none where its history is not known.
        self.depths = [0] * SESSIONS

    def ops(self, rows: int) -> Iterator[Op]:
        """Steps with so many requests in all; in each the clock goes on once, then requests arrive together."""
        told = 0
        while told < rows:
            sizes = (1,) if self.world.variant == "breaker" else (1, 1, 1, 2, 3, 5, 8, 13)
            op = self.op(min(rows - told, self.random.choice(sizes)))
            told += len(op["rows"])
            yield op

    def op(self, count: int) -> Op:
        """One step: ``passed`` seconds, whether the lease is alive, how it is asked, and how long ago it came."""
        random = self.random
        # A run that fails fails for all that are in it: alone, what comes of it does not depend on who was with it.
        failing = count == 1 and random.random() < (0.6 if self.world.variant == "breaker" else 0.06)
        expired, gap = random.random() < 0.15, random.random() < 0.14
        passed = random.choice(GAPS if gap else EXPIRED if expired else STEPS)
        return {
            "passed": passed,
            "lease": not expired,
            "way": "act" if count == 1 else random.choice(("together", "batch")),
            "ago": LATE if random.random() < 0.02 else 0.0,
            "rows": [self.row(gap=gap, failing=failing) for _ in range(count)],
        }

    def row(self, *, gap: bool, failing: bool) -> Op:
        """One request.

        ``back`` says which decision of its session it follows, counted from the last: 0 the one that the service
        remembers, None none at all. A ``stale`` one is no longer kept; an ``ended`` one was the last of its episode.
        """
        random = self.random
        mode = "gap" if gap and random.random() < 0.7 else random.choices(list(MODES), list(MODES.values()))[0]
        slot = random.randrange(SESSIONS)
        if mode == "unknown" and random.random() < 0.4:
            self.strangers += 1
            self.sessions[slot] = f"u{self.strangers}"
        elif mode == "unknown":
            strangers = [one for one in self.sessions if one[0] == "u"]
            slot = self.sessions.index(random.choice(strangers)) if strangers else slot
        elif mode == "new" and random.random() < 0.3:
            self.sessions[slot] = f"s{slot}"
        elif mode in ("other", "gap", "known"):
            deep = [i for i, depth in enumerate(self.depths) if depth >= (2 if mode == "other" else 1)]
            slot = random.choice(deep) if deep else slot
        self.depths[slot] = {"new": 1, "ended": 1, "unknown": 0, "stale": 0}.get(
            mode, self.depths[slot] + bool(self.depths[slot])
        )
        body: Op = {"session": self.sessions[slot], "observation": self.observation(failing=failing)}
        known = {"new": None, "other": random.choice((2, 2, 2, 3)), "stale": random.choice((6, 7)), "ended": 1}
        back = known.get(mode, random.choice((0, 0, 1)))
        if mode == "ended":
            body["feedback"] = random.choice(({"terminated": True, "reward": 1.0}, {"truncated": True}))
        if random.random() < 0.8:
            body["facts"] = {name: self.number() for name in ("budget", "price") if random.random() < 0.8}
        if random.random() < self.world.masks:
            body["allowed"] = self.mask()
        if random.random() < 0.14:
            body["explore"] = False
        age = None
        if self.world.timed or random.random() < 0.6:
            age = random.choice((0.125, 0.25, 0.5, 1.0, 3.0, -0.5)) if random.random() < 0.95 else -4.0
        return {"body": body, "back": back, "age": age, "mode": "unknown" if mode == "stale" else mode}

    def number(self) -> float:
        """A number that rules go by: often one that meets an edge."""
        return self.random.choice((0.0, 0.5, 1.0, round(self.random.gauss(0, 1), 3), round(self.random.gauss(0, 2), 1)))

    def observation(self, *, failing: bool) -> list[float]:
        """What is observed: what rules go by, what breaks, and the head."""
        random = self.random
        x = 30.0 if random.random() < 0.02 else self.number() * 2
        z = random.choices((0.0, 1.0, 2.5, 3.5), (47, 14, 26, 13))[0]
        broken = -1.0 if random.random() < 0.08 else random.choice((0.0, 0.25))
        spread = random.choice((0.05, 0.05, 0.05, 0.05, 0.3, 0.3, 0.3, 0.9))
        return [x, self.number(), z, broken, -1.0 if failing else 0.5, spread, *self.head()]

    def head(self) -> list[float]:
        """The policy's numbers, now and then with ties; of what has no scores a one for each factor."""
        random, space = self.random, self.space
        digits = random.choice((0, 4, 4, 4, 4, 4) if self.world.kind in ("doubts", "mixed") else (0, 1, 4, 4))
        if isinstance(space, Box):
            means = [round(random.gauss(0, 1.2), digits) for _ in range(space.width)]
            return means + [random.choice((0.0, 0.1, 0.5, 1.0)) for _ in means]
        if self.world.model != "unscored":
            return [round(random.gauss(0, 1), digits) for _ in range(space.width)]
        sizes = (space.n,) if isinstance(space, Discrete) else space.sizes
        picked = [random.randrange(size) for size in sizes]
        ones = [float(i == pick) for size, pick in zip(sizes, picked, strict=True) for i in range(size)]
        if random.random() < 0.05:
            ones[random.randrange(len(ones))] = random.choice((0.0, 1.0, 0.5))
        return ones

    def mask(self) -> list[Any]:
        """A mask with something left in each factor, as truths or as names."""
        assert not isinstance(self.space, Box)
        names = [self.space.names] if isinstance(self.space, Discrete) else [one.names for one in self.space.factors]
        parts = []
        for some in names:
            left = [self.random.random() < 0.6 for _ in some]
            left[self.random.randrange(len(some))] = True
            parts.append(left)
        if self.random.random() < 0.5:
            return [one for part in parts for one in part]
        named = [
            [name for name, one in zip(some, part, strict=True) if one] for some, part in zip(names, parts, strict=True)
        ]
        return named[0] if isinstance(self.space, Discrete) else named
