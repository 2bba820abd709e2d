"""Small real artefacts that act in other ways than by one of a list of actions, and what stands around their draws."""

from typing import Any

import numpy as np
from onnx import helper

from export.spec import Box, Factor, Field, Fields, MultiDiscrete, Squash
from guards.baselines import Baseline, Constant
from guards.records import Schema
from service.explore import Explorer
from service.flight import Plane
from tests.artefacts import FIELDS
from tests.fakes import plane_of
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


def acting_plane(
    space: MultiDiscrete | Box,
    explorer: Explorer | None = None,
    baseline: Baseline | None = None,
    *,
    facts: tuple[str, ...] = (),
    **told: Any,
) -> Plane:
    """A plane over an action space whose baseline does what stands in the middle, unless something else is said."""
    schema = Schema(observation=OBSERVATION, action=space, facts=facts)
    middle = (0,) * len(space.factors) if isinstance(space, MultiDiscrete) else (0.5,) * space.width
    return plane_of(explorer=explorer, baseline=baseline or Constant(action=middle), schema=schema, **told)
