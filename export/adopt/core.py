"""The part of somebody's graph that an answer needs: pruned, stripped, and of an operator set of today."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from export.adopt.original import Original, bodies_of
from export.errors import AdoptionRefused
from export.graph import OPSET, strip

# The nodes that are put around a network are written for these operator sets; older files are brought up.
OLDEST, NEWEST = 13, 23
_IR = 10


@dataclass(frozen=True, slots=True)
class Opening:
    """Which constant shapes are to be opened: those that hold ``size``, a batch, at the axis.

    Shapes of one or two axes have their batch first whatever the axis is: ``[layers, batch, units]`` is what has it
    second.
    """

    size: int
    axis: int

    def axis_of(self, shape: Sequence[int]) -> int | None:
        """Say where a shape is to be opened; None where it is not."""
        at = self.axis if len(shape) > 2 else 0
        return at if len(shape) > at and int(shape[at]) == self.size else None


def core(original: Original, wanted: Sequence[str], opening: Opening | None = None) -> onnx.ModelProto:
    """Give the graph that makes the wanted tensors and no other; they are its outputs.

    With ``opening`` constant shapes that hold a batch size take any. Raises AdoptionRefused where the operators cannot
    be brought up to a set that is served.
    """
    behind = original.behind(wanted)
    model = onnx.ModelProto()
    model.CopyFrom(original.model)
    graph = model.graph
    nodes = [node for node in graph.node if set(node.output) & behind]
    constants = [tensor for tensor in graph.initializer if tensor.name in behind]
    inputs = [value for name, value in original.inputs.items() if name in behind]
    _fill(graph.node, nodes)
    _fill(graph.initializer, constants)
    _fill(graph.input, inputs)
    _fill(graph.output, [onnx.ValueInfoProto(name=name) for name in wanted])
    strip(model)
    _forget_names(graph)
    if opening is not None:
        _open_shapes(original, model, opening)
    return _brought_up(original, model, wanted)


def _forget_names(graph: onnx.GraphProto) -> None:
    """Clear the names of nodes, which are places in somebody's code; tensors keep theirs for now."""
    for node in graph.node:
        node.ClearField("name")
        for body in bodies_of(node):
            _forget_names(body)


def renamed(graph: onnx.GraphProto, given: Mapping[str, str]) -> None:
    """Give every tensor a name with ``net.`` before it, in the bodies of control flow too; some get the given names.

    A name that could be a place on somebody's disk becomes a number.
    """
    names: dict[str, str] = {"": "", **given}
    _rename(graph, names)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    def new(name: str) -> str:
        if name not in names:
            plain = re.fullmatch(r"[A-Za-z0-9_.:-]+", name) is not None
            names[name] = f"net.{name if plain else f'+{len(names)}'}"
        return names[name]

    for value in [*graph.input, *graph.output]:
        value.name = new(value.name)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for node in graph.node:
        _fill(node.input, [new(name) for name in node.input])
        _fill(node.output, [new(name) for name in node.output])
        for body in bodies_of(node):
            body.name = "body"
            _rename(body, names)


def _fill(field, values) -> None:  # type: ignore[no-untyped-def]  # protobuf's repeated fields share no typed parent
    kept = list(values)
    del field[:]
    field.extend(kept)


def _open_shapes(original: Original, model: onnx.ModelProto, opening: Opening) -> None:
    """Let constant shapes that hold a batch size hold any: ``[1, 64]`` becomes ``[-1, 64]``.

    Where a shape has its -1 already, 0 takes the size at that place of what is reshaped. Weights keep their shapes.
    """
    given = set(original.inputs)
    for at, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or not original.behind([node.input[0]]) & given:
            continue
        shape = original.constants.get(node.input[1])
        place = None if shape is None or shape.ndim != 1 else opening.axis_of(shape.tolist())
        if place is None:
            continue
        opened = np.array(shape, dtype=np.int64)
        opened[place] = 0 if (np.delete(opened, place) == -1).any() else -1
        name = f"opened.{at}"
        model.graph.initializer.append(numpy_helper.from_array(opened, name))
        node.input[1] = name


def _brought_up(original: Original, model: onnx.ModelProto, wanted: Sequence[str]) -> onnx.ModelProto:
    """Bring the operators up to a set that is served; a file that has such a set keeps it."""
    if original.opset > NEWEST:
        msg = f"the file uses operator set {original.opset}, expected at most {NEWEST}"
        raise AdoptionRefused(msg)
    _fill(model.opset_import, [helper.make_opsetid("", original.opset)])
    if original.opset < OLDEST:
        _typed(model, wanted)
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            msg = f"the file uses operator set {original.opset}, which cannot be brought up to {OPSET}: {reason}"
            raise AdoptionRefused(msg) from error
    model.ir_version = min(max(model.ir_version, 8), _IR)
    return model


def _typed(model: onnx.ModelProto, wanted: Sequence[str]) -> None:
    """Give the outputs the types that inference finds: the converter takes none without."""
    found = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    outputs = [found.get(name) or helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted]
    _fill(model.graph.output, outputs)
