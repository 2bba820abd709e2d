"""The adopted graph: the network of the file under our names, with what has to happen around it drawn as nodes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.adopt.core import Opening, core, renamed
from export.adopt.forms import draw_logarithm, draw_ones
from export.adopt.layout import Layout
from export.adopt.original import Original
from export.adopt.preparation import Preparation
from export.adopt.reading import Pieces, Reading
from export.adopt.sheet import Sheet
from export.meaning import Meaning
from export.questions import sizes_of
from export.spec import MASK, Box, Discrete, MultiDiscrete, Port
from export.spec.manifest import MASKED

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known about a file, from which both the graph and the answers to compare it with are made.

    ``allows`` is the value by which the file's own mask allows an action.
    """

    original: Original
    reading: Reading
    layout: Layout
    meaning: Meaning
    preparation: Preparation | None = None
    allows: float = 1.0

    def port_of(self, source: str) -> str:
        """Our name for an observation of the file."""
        at = self.reading.observations.index(source)
        return self.meaning.observation.inputs[at].name


def adopted(plan: Plan, *, open_axis: int | None = None) -> onnx.ModelProto:
    """Give the graph: our inputs, what prepares them, the network, and the head and action that come of its answers.

    With ``open_axis`` constant shapes that hold the batch size there are opened (see ``core``). Raises AdoptionRefused
    where the network cannot be taken out of the file.
    """
    wanted = plan.reading.wanted
    opening = None if open_axis is None else Opening(plan.layout.at_once or 1, open_axis)
    model = core(plan.original, wanted, opening)
    used = [value.name for value in model.graph.input]
    before, after = Sheet("before"), Sheet("after")
    names = {name: _prepared(plan, before, name) for name in used}
    made = {name: f"net.out.{at}" for at, name in enumerate(wanted)}
    # An output may be an input handed on: it needs a node of its own then.
    for name in wanted:
        if name in names:
            after.add("Identity", names[name], output=made[name])
    renamed(model.graph, {**{name: made[name] for name in wanted}, **names})
    _answered(plan, after, made)
    nodes = [*before.nodes, *model.graph.node, *after.nodes]
    constants = [*before.constants, *model.graph.initializer, *after.constants]
    ports = plan.meaning.inputs
    outputs = (*plan.meaning.outputs, plan.meaning.action.port)
    graph = helper.make_graph(nodes, "policy", [_value(p) for p in ports], [_value(p) for p in outputs], constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", model.opset_import[0].version)], ir_version=model.ir_version
    )


def _value(port: Port) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(port.name, _TYPES[port.dtype], ["batch", *port.shape])


def _prepared(plan: Plan, sheet: Sheet, name: str) -> str:
    """Draw what turns our input into the file's; gives the name of the tensor."""
    slot = plan.layout.slots[name]
    if name == plan.reading.mask:
        mask = MASK if plan.allows == 1.0 else sheet.add("Not", MASK)
        return mask if slot.dtype == "bool" else _cast(sheet, mask, slot.dtype)
    for one in plan.reading.memory:
        if name == one.source:
            given = _cast(sheet, f"memory.{one.name}.in", slot.dtype, have="float32")
            return _turned(sheet, given, slot.axis, len(slot.shape) + 1, back=True)
    port = next(p for p in plan.meaning.observation.inputs if p.name == plan.port_of(name))
    given, have = port.name, port.dtype
    if plan.preparation is not None:
        given, have = plan.preparation.draw(sheet, given), "float32"
    return _turned(sheet, _cast(sheet, given, slot.dtype, have=have), slot.axis, len(slot.shape) + 1, back=True)


def _cast(sheet: Sheet, name: str, dtype: str, *, have: str = "") -> str:
    if dtype == have:
        return name
    return sheet.add("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _turned(sheet: Sheet, name: str, axis: int | None, rank: int, *, back: bool) -> str:
    """Move the batch from the first axis to another (``back``), or from there to the first."""
    if axis in (0, None):
        return name
    order = list(range(rank))
    if back:
        order.insert(axis or 0, order.pop(0))
    else:
        order.insert(0, order.pop(axis or 0))
    return sheet.add("Transpose", name, perm=order)


def _answered(plan: Plan, sheet: Sheet, made: Mapping[str, str]) -> None:
    """Draw the head, the memory and the action."""
    width = plan.meaning.action.width
    for ours, pieces in plan.reading.heads.items():
        if pieces.names:
            _head(plan, sheet, ours, pieces, made)
    if "std" in plan.reading.heads and not plan.reading.heads["std"].names:
        sheet.add("ConstantOfShape", sheet.add("Shape", "mean"), output="std")
    for one in plan.reading.memory:
        slot = plan.layout.slots[one.source]
        turned = _turned(sheet, made[one.result], slot.axis, len(slot.shape) + 1, back=False)
        found = _cast(sheet, turned, "float32")
        shape = sheet.whole([-1, *slot.shape])
        sheet.add("Reshape", found, shape, output=f"memory.{one.name}.out")
    action = plan.meaning.action
    if isinstance(action, Discrete):
        sheet.add("ArgMax", plan.meaning.head, axis=1, keepdims=0, output="action")
    elif isinstance(action, MultiDiscrete):
        _factors(sheet, plan.meaning.head, action)
    else:
        _executed(plan, sheet, action, width)


def _head(plan: Plan, sheet: Sheet, ours: str, pieces: Pieces, made: Mapping[str, str]) -> None:
    """Draw one tensor of the head: pieces side by side, cast, cut, scaled, moved, masked."""
    parts = []
    # An index has to be exact: what is between two indices is none of them.
    dtype = "float64" if pieces.form == "choices" else "float32"
    for name in pieces.names:
        shape = sheet.whole([-1, plan.layout.widths[name]])
        parts.append(sheet.add("Reshape", _cast(sheet, made[name], dtype), shape))
    found = parts[0] if len(parts) == 1 else sheet.add("Concat", *parts, axis=1)
    if pieces.half is not None:
        width = plan.layout.width(pieces)
        start = pieces.half * width
        found = sheet.add("Slice", found, *(sheet.whole([n]) for n in (start, start + width, 1)))
    if pieces.exp:
        found = sheet.add("Exp", found)
    if set(pieces.scale) != {1.0}:
        found = sheet.add("Mul", found, sheet.real(pieces.scale))
    if set(pieces.offset) != {0.0}:
        found = sheet.add("Add", found, sheet.real(pieces.offset))
    if pieces.form == "probabilities":
        found = draw_logarithm(sheet, found)
    elif pieces.form == "choices":
        found = draw_ones(sheet, found, sizes_of(plan.meaning), sum(plan.layout.widths[name] for name in pieces.names))
    # What was chosen although it is forbidden stays chosen: the service sees that, and no other was asked for.
    if plan.reading.mask and ours == plan.meaning.head and plan.reading.scores:
        found = sheet.add("Where", MASK, found, sheet.real([MASKED]))
    # A std of the file's that is no tensor of its batch (log_std is often a constant) has to become one.
    if ours == "std":
        found = sheet.add("Add", found, sheet.add("ConstantOfShape", sheet.add("Shape", "mean")))
    sheet.add("Identity", found, output=ours)


def _factors(sheet: Sheet, head: str, action: MultiDiscrete) -> None:
    parts, start = [], 0
    for size in action.sizes:
        bounds = sheet.whole([start]), sheet.whole([start + size]), sheet.whole([1])
        parts.append(sheet.add("ArgMax", sheet.add("Slice", head, *bounds), axis=1, keepdims=1))
        start += size
    sheet.add("Concat", *parts, axis=1, output="action")


def _executed(plan: Plan, sheet: Sheet, action: Box, width: int) -> None:
    """Draw the greedy action of a Gaussian: its mean, clipped to the bounds or squashed between them."""
    low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
    found = "mean"
    if plan.meaning.squash == "tanh":
        share = sheet.add("Mul", sheet.add("Add", sheet.add("Tanh", found), sheet.real([1.0])), sheet.real([0.5]))
        found = sheet.add("Add", sheet.add("Mul", share, sheet.real(high - low)), sheet.real(low))
    elif np.isfinite(low).any() or np.isfinite(high).any():
        found = sheet.add("Min", sheet.add("Max", found, sheet.real(low)), sheet.real(high))
    sheet.add("Reshape", found, sheet.whole([-1, *(action.form or (width,))]), output="action")
