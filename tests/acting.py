"""Small real artefacts that act in other ways than by one of a list of actions, and what stands around their draws."""

from typing import Any

import numpy as np
from onnx import helper

from export.spec import Box, Factor, Field, Fields, MultiDiscrete, Squash
from guards.baselines import Baseline, Constant
from guards.records import Schema
from service.decision.batch import Behaviour
from service.decision.explore.choice import Explorer
from tests.artefacts import ACTIONS, BIAS, FIELDS, WEIGHTS
from tests.fakes import behaviour_of
from tests.ports import sealed

SWITCHES = MultiDiscrete(
    factors=(
        Factor(name="pump", names=("off", "on")),
        Factor(name="valve", names=("closed", "half", "open")),
        Factor(name="fan", names=("still", "slow", "fast", "storm")),
    )
)
# Bounds on both sides, on one, and on none.
ARM = Box(fields=(Field(name="torque", low=-2, high=2), Field(name="grip", low=0), Field(name="drift")))
BOUNDED = Box(fields=(Field(name="left", low=-2, high=2), Field(name="right", low=0, high=10)))
GRID = Box(fields=tuple(Field(name=f"g{i}", low=-1, high=1) for i in range(6)), shape=(2, 3))
OBSERVATION = Fields(fields=(Field(name="load"), Field(name="lag"), Field(name="pods")))


def factors(space: MultiDiscrete = SWITCHES, *, seed: int = 3, version: str = "1") -> bytes:
    """A policy over the fields of the demo whose logits are numbers of the same for every place."""
    weights = np.random.default_rng(seed).normal(size=(3, space.width)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["obs", "weights"], ["logits"])]
    return sealed(nodes, {"weights": weights}, observation=FIELDS, action=space, head="logits", version=version)


def chosen(space: MultiDiscrete | None = None, *, version: str = "1", spoilt: str = "") -> bytes:
    """A policy that says which action it chose and no more: that of the demo, or of ``factors`` over a space.

    Where ``queue`` is negative nothing is chosen: the row is zeros, ones, or NaN, as ``spoilt`` says.
    """
    sizes = (len(ACTIONS),) if space is None else space.sizes
    weights = np.random.default_rng(3).normal(size=(3, sum(sizes))).astype(np.float32)
    constants: dict[str, Any] = {"weights": weights, "bias": np.zeros(sum(sizes), np.float32), "axis": np.array([1])}
    if space is None:
        constants |= {"weights": WEIGHTS.astype(np.float32), "bias": BIAS.astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
    ]
    for at, (start, size) in enumerate(zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes, strict=True)):
        constants |= {
            f"from{at}": np.array([start]),
            f"to{at}": np.array([start + size]),
            f"depth{at}": np.array([size]),
        }
        nodes += [
            helper.make_node("Slice", ["scores", f"from{at}", f"to{at}", "axis"], [f"part{at}"]),
            helper.make_node("ArgMax", [f"part{at}"], [f"index{at}"], axis=1, keepdims=0),
            helper.make_node("OneHot", [f"index{at}", f"depth{at}", "values"], [f"ones{at}"], axis=1),
        ]
    ones = [f"ones{at}" for at in range(len(sizes))]
    bad = {"": 0.0, "zeros": 0.0, "ones": 1.0, "nan": np.nan}[spoilt]
    constants |= {"values": np.array([0, 1], np.float32), "one": np.array([1]), "nought": np.float32(0)}
    constants["bad"] = np.array([bad], np.float32)
    nodes += [
        helper.make_node("Concat", ones, ["hot"], axis=1),
        helper.make_node("Gather", ["obs", "one"], ["queue"], axis=1),
        helper.make_node("Less", ["queue", "nought"], ["lost"]),
        helper.make_node("Where", ["lost", "bad", "hot"], ["logits"]),
    ]
    told: dict[str, Any] = {} if space is None else {"action": space}
    return sealed(nodes, constants, observation=FIELDS, head="logits", scores=False, version=version, **told)


def gaussian(space: Box = ARM, *, squash: Squash = "none", std: float = 0.5, version: str = "1") -> bytes:
    """A policy over the fields of the demo: every mean is cpu minus queue, every std the same."""
    toward = np.zeros((3, space.width), dtype=np.float32)
    toward[0], toward[1] = 1, -1
    nodes = [
        helper.make_node("MatMul", ["obs", "toward"], ["mean"]),
        helper.make_node("Mul", ["mean", "nought"], ["nothing"]),
        helper.make_node("Add", ["nothing", "spread"], ["std"]),
    ]
    constants: dict[str, Any] = {"toward": toward, "nought": np.float32(0), "spread": np.float32(std)}
    told: dict[str, Any] = {"action": space, "head": "gaussian", "squash": squash, "version": version}
    return sealed(nodes, constants, observation=FIELDS, **told)


def acting_behaviour(
    space: MultiDiscrete | Box,
    explorer: Explorer | None = None,
    baseline: Baseline | None = None,
    *,
    facts: tuple[str, ...] = (),
    **told: Any,
) -> Behaviour:
    """A plane over an action space whose baseline does what stands in the middle, unless something else is said."""
    schema = Schema(observation=OBSERVATION, action=space, facts=facts)
    middle = (0,) * len(space.factors) if isinstance(space, MultiDiscrete) else (0.5,) * space.width
    return behaviour_of(explorer=explorer, baseline=baseline or Constant(action=middle), schema=schema, **told)
