"""Worlds: the services that the corpus is made in, each with one kind of constraint, one space and one explorer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from export.spec import ActionSpace, Box, Discrete, Factor, Field, Fields, Memory, MultiDiscrete, Statistics
from tests.ports import sealed

Settings = dict[str, Any]
# What constraints, doubts and failures go by; the policy's head stands behind it in the observation, number by number.
FIELDS = ("x", "y", "z", "broken", "failing", "spread")
FACTS = ("budget", "price")
FACTORS = (
    Factor(name="pump", names=("off", "on")),
    Factor(name="valve", names=("closed", "half", "open")),
    Factor(name="fan", names=("still", "slow", "fast", "storm")),
)
EXTRA = tuple(Factor(name=f"e{i}", names=("off", "on")) for i in range(10))
SPACES: dict[str, ActionSpace] = {
    "discrete": Discrete(names=tuple(f"a{i}" for i in range(4))),
    "many": Discrete(names=tuple(f"a{i}" for i in range(70))),
    "factors": MultiDiscrete(factors=FACTORS),
    "large": MultiDiscrete(factors=(*FACTORS, *EXTRA)),
    "arm": Box(fields=(Field(name="n0", low=-2, high=2), Field(name="n1", low=0), Field(name="n2"))),
    "line": Box(fields=tuple(Field(name=f"n{i}", low=-1 - i, high=i + 1) for i in range(4))),
    "grid": Box(fields=tuple(Field(name=f"n{i}", low=-1, high=1) for i in range(6)), shape=(2, 3)),
}
# The kinds of the table that a space has; a kind is left out where the service refuses to start with it.
COUNTED = ("rule", "cooldown", "bounds", "rate_limit", "budget")
KINDS = {
    "discrete": (*COUNTED, "max_switches", "mask", "doubts", "mixed"),
    "by factor": (*COUNTED, "mask", "doubts", "mixed"),
    "joint": (*COUNTED, "max_switches", "mask", "doubts", "mixed"),
    "too large": (*COUNTED, "max_switches", "mask", "doubts", "mixed"),
    "box": ("rule", "bounds", "linear", "rate_limit", "budget", "doubts", "mixed"),
}
EXPLORERS: dict[str, Settings] = {
    "greedy": {"kind": "greedy"},
    "epsilon_greedy": {"kind": "epsilon_greedy", "epsilon": 0.3},
    "softmax": {"kind": "softmax", "temperature": 0.7},
    "gaussian": {"kind": "gaussian", "scale": 0.8},
}
NEVER_OPENS = {"consecutive": 10**9, "minimum": 10**9}
_DOUBTS: tuple[Settings, ...] = (
    {"kind": "quorum", "at_most": 0.6},
    {"kind": "confidence", "at_least": 0.1},
    {"kind": "novelty", "false_alarms": 0.01},
    {"kind": "fresh", "max_age_seconds": 2.0, "missing": "allow"},
    {"kind": "quorum", "at_most": 0.1, "mode": "warn"},
    {"kind": "novelty", "false_alarms": 0.1, "mode": "audit"},
)
_DISCRETE: dict[str, tuple[Settings, ...]] = {
    "rule": (
        {"forbid": "action in ('a0', 'a2') and x > y"},
        {"forbid": "action == 'a1' and x / y > 1.5"},
        {"forbid": "action == previous_action and budget > x", "mode": "warn"},
        {"forbid": "action == 'a3' and price * x < 0.2", "on_error": "allow"},
        {"forbid": "action not in ('a0', 'a1') and seconds_since_change < 30 and step % 3 == 0", "mode": "audit"},
    ),
    "cooldown": (
        {"actions": ["a0", "a1"], "seconds": 20},
        {"actions": ["a2"], "seconds": 60, "mode": "warn"},
        {"actions": ["a3"], "seconds": 5},
        {"actions": ["a0", "a3"], "seconds": 300, "mode": "audit"},
    ),
    "bounds": (
        {"of": "x * 3", "effect": {"a0": 1.0, "a1": -1.0, "a2": 2.5}, "low": -2.0, "high": 2.0},
        {"of": "x / y if z == 1 else x", "effect": {"a1": 1.0}, "high": 2.0},
        {"of": "budget", "effect": {"a3": 0.5}, "high": 0.5, "mode": "warn"},
        {"of": "x", "effect": {"a0": -0.1}, "low": 0.0, "mode": "audit"},
    ),
    "rate_limit": (
        {"per_second": 0.1, "levels": {"a0": 0.0, "a1": 1.0, "a2": 2.0, "a3": 3.5}},
        {"per_second": 0.05, "effect": {"a2": 1.0}},
        {"per_second": 0.01, "levels": {"a0": 0.0, "a1": 0.5, "a2": 0.5, "a3": 0.0}, "mode": "warn"},
        {"per_second": 0.3, "effect": {"a3": 1.0, "a1": -1.0}, "mode": "audit"},
    ),
    "budget": (
        {"cost": "1.1 if action == 'a0' else x", "at_most": 7.3, "seconds": 60},
        {"cost": "x / y if action == 'a1' else 0", "at_most": 5.0, "seconds": 20},
        {"cost": "price", "at_most": 3.0, "seconds": 30, "mode": "audit"},
        {"cost": "0.1 * abs(x)", "at_most": 1.0, "seconds": 300, "mode": "warn"},
    ),
    "max_switches": (
        {"at_most": 2, "seconds": 20},
        {"at_most": 1, "seconds": 60, "mode": "warn"},
        {"at_most": 5, "seconds": 300, "mode": "audit"},
    ),
}
_BY_FACTOR: dict[str, tuple[Settings, ...]] = {
    "rule": (
        {"forbid": "fan == 'storm' and x > y"},
        {"forbid": "valve == 'open' and x / y > 1.5"},
        {"forbid": "pump == 'on' and budget > x", "mode": "warn"},
        {"forbid": "valve == 'half' and price * x < 0.2", "on_error": "allow"},
        {"forbid": "fan > 1 and seconds_since_change < 30 and step % 3 == 0", "mode": "audit"},
    ),
    "cooldown": (
        {"actions": ["valve=open"], "seconds": 20},
        {"actions": ["fan=slow", "fan=fast"], "seconds": 60, "mode": "warn"},
        {"actions": ["pump=on"], "seconds": 5},
        {"actions": ["pump=off"], "seconds": 300, "mode": "audit"},
    ),
    "bounds": (
        {"of": "x + fan", "effect": {"fan=slow": 1.0, "fan=fast": -1.0}, "low": -4.0, "high": 4.0},
        {"of": "x / y if z == 1 else x", "effect": {"pump=on": 1.0}, "high": 2.0},
        {"of": "budget", "effect": {"valve=open": 0.5}, "high": 0.5, "mode": "warn"},
        {"of": "x", "effect": {"pump=on": -0.1}, "low": 0.0, "mode": "audit"},
    ),
    "rate_limit": (
        {"per_second": 0.6, "levels": {"fan=still": 0.0, "fan=slow": 1.0, "fan=fast": 2.0, "fan=storm": 3.0}},
        {"per_second": 0.1, "effect": {"pump=on": 1.0}},
        {"per_second": 0.01, "levels": {"pump=off": 0.0, "pump=on": 0.5}, "mode": "warn"},
        {"per_second": 0.3, "effect": {"valve=half": 1.0, "valve=open": -1.0}, "mode": "audit"},
    ),
    "budget": (
        {"cost": "valve * abs(x) * 0.3", "at_most": 9.0, "seconds": 60},
        {"cost": "x / y if pump == 'on' else 0", "at_most": 5.0, "seconds": 20},
        {"cost": "price", "at_most": 3.0, "seconds": 30, "mode": "audit"},
        {"cost": "0.1 * fan", "at_most": 1.0, "seconds": 300, "mode": "warn"},
    ),
}
# Each has one that is about several factors at once: then all are asked about whole actions.
_JOINT: dict[str, tuple[Settings, ...]] = {
    "rule": (
        {"forbid": "pump == 'on' and fan == 'fast' and x > y or valve > fan and pump == 'off'"},
        {"forbid": "valve * fan > 2 and x / y > 1.5"},
        *_BY_FACTOR["rule"][2:],
    ),
    "cooldown": ({"actions": ["pump=on", "valve=open"], "seconds": 20}, *_BY_FACTOR["cooldown"]),
    "bounds": (
        {"of": "x", "effect": {"pump=on": 1.0, "valve=open": 0.5, "fan=slow": -2.0}, "low": -4.0, "high": 4.0},
        *_BY_FACTOR["bounds"][1:],
    ),
    "rate_limit": (
        {
            "per_second": 0.4,
            "levels": {"pump=off": 0.0, "pump=on": 1.5, "fan=still": 0.0, "fan=slow": 1, "fan=fast": 2, "fan=storm": 3},
        },
        {"per_second": 0.2, "effect": {"pump=on": 1.0, "valve=open": 0.7}},
        *_BY_FACTOR["rate_limit"][2:],
    ),
    "budget": ({"cost": "valve * fan * 0.5 + x", "at_most": 9.0, "seconds": 60}, *_BY_FACTOR["budget"][1:]),
    "max_switches": _DISCRETE["max_switches"],
}
_BOX: dict[str, tuple[Settings, ...]] = {
    "rule": (
        {"forbid": "n0 * x > n1 + 2"},
        {"forbid": "x / y > 3 + n2"},
        {"forbid": "n1 > budget", "mode": "warn"},
        {"forbid": "n2 > price", "on_error": "allow"},
        {"forbid": "seconds_since_change < 30 and step % 3 == 0 and n0 > 0", "mode": "audit"},
    ),
    "bounds": (
        {"of": "n0", "low": "x - 3", "high": "1 / y if x > 1 else 2"},
        {"of": "n1", "high": 0.5},
        {"of": "n2", "low": "budget - 2"},
        {"of": "n0", "low": 0.0, "mode": "warn"},
        {"of": "n1", "low": 0.1, "mode": "audit"},
    ),
    "linear": (
        {"coefficients": {"n0": "1 + abs(x)", "n1": -1.0}, "at_most": "2 + budget"},
        {"coefficients": {"n1": 1.0, "n2": 1.0}, "at_most": 0.7},
        {"coefficients": {"n0": "1 / y", "n2": 1.0}, "at_most": 1.0, "mode": "warn"},
        {"coefficients": {"n2": -1.0}, "at_most": 0.2, "mode": "audit"},
    ),
    "rate_limit": (
        {"of": "n0", "per_second": 0.1, "assume": [-0.5, 0.5]},
        {"of": "n1", "per_second": 0.2},
        {"of": "n2", "per_second": 0.05, "mode": "warn"},
        {"of": "n2", "per_second": 0.01, "assume": [0.0, 0.0], "mode": "audit"},
    ),
    "budget": (
        {"cost": "abs(n0) + 0.1 * x", "at_most": 7.3, "seconds": 60},
        {"cost": "x / y if n1 > 0.5 else 0", "at_most": 5.0, "seconds": 20},
        {"cost": "price", "at_most": 3.0, "seconds": 30, "mode": "audit"},
        {"cost": "abs(n2)", "at_most": 1.0, "seconds": 300, "mode": "warn"},
    ),
}
_KINDS: dict[str, dict[str, tuple[Settings, ...]]] = {
    "discrete": _DISCRETE,
    "by factor": _BY_FACTOR,
    "joint": _JOINT,
    "too large": _JOINT,
    "box": _BOX,
}
# In every world: something is forbidden where z is above 2, and everything above 3, also to the baseline.
_BACKGROUND: dict[str, tuple[Settings, ...]] = {
    "discrete": ({"kind": "rule", "forbid": "z > 3 or z > 2 and action in ('a1', 'a2')"},),
    "by factor": ({"kind": "rule", "forbid": "z > 2 and fan == 'storm'"}, {"kind": "rule", "forbid": "z > 3"}),
    "joint": ({"kind": "rule", "forbid": "z > 3 or z > 2 and pump == 'on' and fan > 1"},),
    "too large": ({"kind": "rule", "forbid": "z > 3 or z > 2 and pump == 'on' and fan > 1"},),
    "box": ({"kind": "bounds", "of": "n0", "low": "9 if z > 3 else -9", "high": "-0.5 if z > 2 else 9"},),
}


@dataclass(frozen=True)
class World:
    """A service: where it stands in the table, which artefact it serves, and how it is configured.

    ``shape`` is a key of ``SPACES``; ``timed`` says that the guards go by the caller's clock, ``masks`` how often a
    request has a mask of its own. ``model`` says what is other about the policy.
    """

    kind: str
    space: str
    explorer: str
    variant: str
    shape: str
    config: Settings
    model: str = "plain"
    masks: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in the corpus."""
        return f"{self.kind}/{self.space}/{self.explorer}/{self.variant}"

    @property
    def timed(self) -> bool:
        """Whether the guards go by the caller's clock."""
        return bool(self.config["guard_clock"] == "observed_at")

    def artefact(self) -> bytes:
        """The policy."""
        return artefact(self.shape, self.model)


def explorers(space: str) -> tuple[str, ...]:
    """Those that draw in a space."""
    return ("greedy", "gaussian") if space == "box" else ("greedy", "epsilon_greedy", "softmax")


def worlds() -> Iterator[World]:
    """Every world of the table in two variants, then those beside it."""
    for space, kinds in KINDS.items():
        for kind in kinds:
            for explorer in explorers(space):
                yield world(kind, space, explorer, "a")
                yield world(kind, space, explorer, "b")
    yield from beside()


def beside() -> Iterator[World]:
    """Worlds that are in no cell of the table: other policies, other baselines, a breaker that opens."""
    for explorer in ("greedy", "epsilon_greedy"):
        for space in ("discrete", "by factor", "joint"):
            yield world("rule", space, explorer, "unscored", model="unscored")
    yield world("rule", "discrete", "softmax", "memory", model="memory")
    yield world("mask", "discrete", "softmax", "network mask", model="mask")
    opens = {"consecutive": 2, "rest_seconds": 4.0, "jitter": 0.0, "good_probes": 2}
    yield world("rule", "discrete", "epsilon_greedy", "breaker", breaker=opens)
    for space in ("discrete", "box"):
        yield world("rule", space, "greedy", "trusted", baseline={"kind": "policy", "path": "trusted.onnx"})


def world(kind: str, space: str, explorer: str, variant: str, *, model: str = "plain", **settings: Any) -> World:
    """One world; variant a has a last resort and goes by the service's clock, b has none and goes by the caller's."""
    second = variant == "b"
    shape = {"discrete": "discrete", "too large": "large", "box": "grid" if second else "arm"}.get(space, "factors")
    told: Settings = {
        "name": "corpus",
        "facts": FACTS,
        "explore": EXPLORERS[explorer],
        "baseline": baseline(space, shape, len(kind) + len(explorer) + second),
        "breaker": NEVER_OPENS,
        "limits": {"deadline_ms": 60_000},
        # By the caller's clock no observation is ever old, and a doubt of old ones refuses to start.
        "guard_clock": "observed_at" if second and kind not in ("doubts", "mixed") else "service",
        "mask": "required" if second and kind == "mask" else "optional",
    }
    if kind == "mixed" and second:
        shape = {"discrete": "many", "grid": "line"}.get(shape, shape)
        if explorer == "gaussian":
            told["explore"] = {"kind": "gaussian", "scale": 0.3, "noise": 0.1}
        told["baseline"] = baseline(space, shape, 0)
    told |= {"constraints": constraints(kind, space, shape), **settings}
    if not second:
        told["baseline"] = {**told["baseline"], "last_resort": still(shape)}
    masks = 0.0 if space == "box" else {"mask": 0.8, "mixed": 0.5, "doubts": 0.4}.get(kind, 0.1)
    return World(kind, space, explorer, variant, shape, told, model, masks)


def constraints(kind: str, space: str, shape: str) -> list[Settings]:
    """Those of a kind in a space, behind what every world has."""
    kinds = _KINDS[space]
    if kind == "mixed":
        some = [(name, one) for i, (name, every) in enumerate(kinds.items()) for one in every[i % 2 * 2 :][:1]]
        listed = [*({"kind": name, **one} for name, one in some), *_DOUBTS[1:4], _DOUBTS[5]]
    elif kind == "doubts":
        listed = list(_DOUBTS)
    else:
        listed = [{"kind": kind, **one} for one in kinds.get(kind, ())]
    if space == "box":
        listed = [one for one in listed if one["kind"] != "confidence"]
    if space not in ("discrete", "box"):
        # The least gap of many factors is small.
        least = 0.001 if space == "too large" else 0.02
        listed = [{**one, "at_least": least} if one["kind"] == "confidence" else one for one in listed]
    if shape == "many":
        # Every action needs a level.
        levels = {f"a{i}": i % 9 * 0.5 for i in range(70)}
        listed = [{**one, "levels": levels} if "levels" in one else one for one in listed]
    told = [*_BACKGROUND[space], *listed]
    return [{**one, "name": f"{i}: {one['kind']}"} for i, one in enumerate(told)]


def baseline(space: str, shape: str, number: int) -> Settings:
    """One of the baselines of a space."""
    one, other = still(shape), moving(shape)
    every: list[Settings] = [
        {"kind": "constant", "action": one},
        {"kind": "rules", "rules": [{"when": "x / y > 1", "action": other}], "otherwise": one},
        {"kind": "hold", "first": one},
        {
            "kind": "lookup",
            "axes": [{"of": "x", "edges": [0.0]}, {"of": "y", "edges": [1.0]}],
            "actions": [one, other] * 2,
        },
        {
            "kind": "threshold",
            "of": "x",
            "below": {"limit": -1.0, "action": one},
            "above": {"limit": 1.0, "action": other},
            "otherwise": one,
            "between": "previous",
        },
    ]
    if space == "discrete":
        effect = {"a0": 0.0, "a1": 1.0, "a2": -1.0}
        every += [
            {"kind": "pid", "of": "x", "target": 0.5, "kp": 0.5, "ki": 0.1, "kd": 0.2, "effect": effect},
            {"kind": "proportional", "current": "abs(y)", "metric": "x", "target": 0.5, "effect": effect},
        ]
    return every[number % len(every)]


def still(shape: str) -> Any:
    """An action that does little."""
    space = SPACES[shape]
    if isinstance(space, Discrete):
        return "a0"
    return [0.0] * space.width if isinstance(space, Box) else [0] * len(space.factors)


def moving(shape: str) -> Any:
    """Another one."""
    space = SPACES[shape]
    if isinstance(space, Discrete):
        return "a3"
    return [0.5] * space.width if isinstance(space, Box) else [1] * len(space.factors)


@cache
def artefact(shape: str, model: str) -> bytes:
    """A policy whose head is what stands in the observation behind the ``FIELDS``, to the bit, whatever the batch.

    Where ``broken`` is negative the head is NaN; where ``failing`` is, the run fails. With ``memory`` half of the last
    head is added.
    """
    space = SPACES[shape]
    wide = isinstance(space, Box)
    width = 2 * space.width if wide else space.width
    names = [*FIELDS, *(f"h{i}" for i in range(width))]
    head = "gaussian" if wide else "q_values" if shape == "discrete" and model == "plain" else "logits"
    told: Settings = {
        "observation": Fields(fields=tuple(Field(name=name) for name in names)),
        "action": space,
        "head": head,
        "spread": model == "plain",
        "scores": model != "unscored",
        "statistics": statistics(width) if model == "plain" else None,
        "squash": "tanh" if shape == "grid" else "none",
    }
    nodes, constants = _graph(space.width, wide=wide, model=model, head=head)
    if model == "memory":
        told["memory"] = (Memory(name="last", shape=(width,), initial=0.25, meaning="half of what was"),)
    if model == "mask":
        told["mask"] = True
    return sealed(nodes, constants, observation=told.pop("observation"), **told)


def _graph(width: int, *, wide: bool, model: str, head: str) -> tuple[list[NodeProto], Mapping[str, object]]:
    count = 2 * width if wide else width
    first = len(FIELDS)
    nodes = [
        helper.make_node("Gather", ["obs", "broken_at"], ["broken"], axis=1),
        helper.make_node("Sqrt", ["broken"], ["root"]),
        helper.make_node("Mul", ["root", "nought"], ["lost"]),
        helper.make_node("Gather", ["obs", "failing_at"], ["failing"], axis=1),
        helper.make_node("ReduceMin", ["failing"], ["least"], keepdims=0),
        helper.make_node("Sign", ["least"], ["sign"]),
        helper.make_node("Cast", ["sign"], ["way"], to=7),
        helper.make_node("Min", ["way", "nothing"], ["index"]),
        helper.make_node("Mul", ["index", "two"], ["far"]),
        helper.make_node("Gather", ["table", "far"], ["nil"], axis=0),
        helper.make_node("Gather", ["obs", "head_at"], ["told"], axis=1),
        helper.make_node("Add", ["told", "nil"], ["sure"]),
        helper.make_node("Add", ["sure", "lost"], ["given"]),
    ]
    constants: dict[str, object] = {
        "broken_at": np.array([3]),
        "failing_at": np.array([4]),
        "nought": np.float32(0),
        "nothing": np.int64(0),
        "two": np.int64(2),
        "table": np.zeros(1, np.float32),
        "head_at": np.arange(first, first + count),
    }
    if model == "plain":
        nodes.append(helper.make_node("Gather", ["obs", "spread_at"], ["spread"], axis=1))
        constants["spread_at"] = np.int64(5)
    if model == "unscored":
        return [*nodes, helper.make_node("Identity", ["given"], [head])], constants
    if model == "memory":
        constants["half"] = np.float32(0.5)
        nodes += [
            helper.make_node("Mul", ["memory.last.in", "half"], ["faded"]),
            helper.make_node("Add", ["given", "faded"], ["memory.last.out"]),
            helper.make_node("Identity", ["memory.last.out"], [head]),
        ]
    elif model == "mask":
        constants["little"] = np.float32(-1e8)
        nodes.append(helper.make_node("Where", ["action_mask", "given", "little"], [head]))
    elif wide:
        nodes.append(helper.make_node("Split", ["given"], ["mean", "std"], axis=1, num_outputs=2))
    else:
        nodes.append(helper.make_node("Identity", ["given"], [head]))
    return nodes, constants


def statistics(width: int) -> Statistics:
    """What training saw: x, y and z about 0, the rest anywhere."""
    count = len(FIELDS) + width
    return Statistics(
        count=5000,
        mean=(0.0,) * count,
        std=(4.0, 4.0, 4.0) + (1e6,) * (count - 3),
        probabilities=(0.5,),
        quantiles=((0.0,),) * count,
        scores=tuple(float(score) for score in np.linspace(1.5, 6.5, 11)),
    )
