"""What a graph may hold beside its operators: plain numbers, in tensors and bodies of which the sizes are bounded.

ONNX Runtime takes whatever is valid ONNX: numbers that are none, a tensor of a terabyte that four bytes ask for, a
division of whole numbers that ends the process, bytes that it reads as a file of its own format.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.spec.errors import NotAnArtefact, StructureRefused

# The largest policies that are known (ensembles of recurrent networks) have some thousand nodes, and bodies of depth 2.
NODES = 10_000
DEPTH = 8
# Numbers in one tensor, and in all of them together, for one observation: a ResNet-18 over 224 x 224 has 7 million.
LARGEST = 1 << 24
ALL = 1 << 26
# How ONNX Runtime tells its own format, in which it would run another graph than the one that is checked here.
_OTHER_FORMAT = b"ORTM"

_WHOLE = frozenset(
    getattr(onnx.TensorProto, name) for name in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)
_NUMBERS = _WHOLE | {getattr(onnx.TensorProto, name) for name in "BOOL FLOAT16 FLOAT DOUBLE".split()}
# Where one of these leaves an input out, ONNX Runtime uses the address that is not there.
_WHOLE_INPUTS = frozenset({"Concat", "LayerNormalization", "Max", "Mean", "Min", "Sum"})


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph or the body of a control flow operator, with the tensors that it sees by name."""

    graph: onnx.GraphProto
    depth: int
    constants: dict[str, onnx.TensorProto]
    values: dict[str, onnx.ValueInfoProto]


def check_spelling(model: onnx.ModelProto, data: bytes) -> None:
    """Refuse bytes that are more than the model: unknown fields, parts told twice, another format in the same bytes."""
    if data[4:8] == _OTHER_FORMAT:
        msg = "the file begins as one of ONNX Runtime's own format, expected an ONNX model"
        raise NotAnArtefact(msg)
    known = onnx.ModelProto()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.SerializeToString(deterministic=True) != data:
        msg = "the file holds more than its model, or spells it in another way, expected it as actd-export writes it"
        raise NotAnArtefact(msg)


def check_contents(model: onnx.ModelProto) -> None:
    """Refuse a graph whose tensors are not plain numbers of bounded sizes; the operators are those of the list.

    NaN is refused among numbers, because golden rows do not reach every one of them; a single NaN is how a graph says
    "no answer" (a table, for a state that it does not have), and the service takes it for none. An infinity may stand
    where it means "no bound" or "never": alone or along one axis (the bounds of an action, a mask), not in a matrix.
    """
    scopes = list(_scopes(model.graph, 1))
    nodes = sum(len(scope.graph.node) for scope in scopes)
    if nodes > NODES:
        msg = f"the graph has {nodes} nodes, expected at most {NODES}"
        raise StructureRefused(msg)
    inputs = {value.name for value in model.graph.input}
    for scope in scopes:
        for tensor in scope.graph.initializer:
            if tensor.name in inputs:
                msg = f"the tensor {tensor.name!r} is a constant and an input, expected one of them"
                raise StructureRefused(msg)
            _check_numbers(f"the tensor {tensor.name!r}", tensor)
        for node in scope.graph.node:
            _check_form(node)
            for attribute in node.attribute:
                _check_attribute(f"the attribute {attribute.name!r} of {node.op_type}", attribute)
    for scope in _scopes(_inferred(model), 1):
        _check_sizes(scope)
        for node in scope.graph.node:
            if node.op_type in ("Div", "Mod"):
                _check_division(node, scope)
            elif node.op_type == "OneHot":
                _check_one_hot(node, scope)


def _scopes(graph: onnx.GraphProto, depth: int, outer: Scope | None = None) -> Iterator[Scope]:
    """Give a graph and all bodies in it, each with what it sees of those around it."""
    if depth > DEPTH:
        msg = f"the bodies of the graph's control flow are nested more than {DEPTH} deep"
        raise StructureRefused(msg)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            told = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
            constants |= {node.output[0]: told} if told is not None else {}
    values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    scope = Scope(
        graph,
        depth,
        {**(outer.constants if outer is not None else {}), **constants},
        {**(outer.values if outer is not None else {}), **values},
    )
    yield scope
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _scopes(body, depth + 1, scope)


def _check_attribute(what: str, attribute: onnx.AttributeProto) -> None:
    for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
        _check_numbers(what, tensor)
    if any(math.isnan(number) for number in attribute.floats):
        msg = f"{what} holds NaN, expected numbers"
        raise StructureRefused(msg)


def _check_numbers(what: str, tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in _NUMBERS:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        msg = f"{what} is of {kind}, expected numbers or truths"
        raise StructureRefused(msg)
    try:
        numbers = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        msg = f"{what} does not have the numbers that its shape {list(tensor.dims)} needs"
        raise StructureRefused(msg) from error
    if numbers.dtype.kind != "f":
        return
    if numbers.size > 1 and np.isnan(numbers).any():
        msg = f"{what} holds NaN, expected numbers"
        raise StructureRefused(msg)
    if sum(length > 1 for length in numbers.shape) > 1 and np.isinf(numbers).any():
        msg = f"{what}, of shape {list(numbers.shape)}, holds infinities, expected finite weights"
        raise StructureRefused(msg)


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the types and shapes of its tensors for one observation, by ONNX's own rules.

    What the file says of them is set aside first. Values of shapes are not followed: ONNX would make the lists that a
    graph asks for. What is not known then stays so.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.metadata_props[:]
    for scope in _scopes(plain.graph, 1):
        del scope.graph.value_info[:]
    for value in plain.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in plain.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(plain, check_type=False, strict_mode=False, data_prop=False).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        msg = f"the shapes of the graph's tensors do not go together: {str(error).splitlines()[0][:200]}"
        raise StructureRefused(msg) from error


def _check_sizes(scope: Scope) -> None:
    total = 0
    for node in scope.graph.node:
        for name in node.output:
            size = _size(scope.values.get(name))
            total += size
            if size > LARGEST or total > ALL:
                msg = f"the output {name!r} of {node.op_type} has {size} numbers for one observation, too many to serve"
                raise StructureRefused(msg)


def _size(value: onnx.ValueInfoProto | None) -> int:
    """How many numbers a tensor has; 0 where that is not known."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return 0
    return math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _check_form(node: onnx.NodeProto) -> None:
    """Refuse what ONNX takes for valid and a crash or a run without end comes of: found by trying, not by reading.

    It is checked before shapes are inferred, because some of it ends ONNX's own inference too.
    """
    if node.op_type in _WHOLE_INPUTS and "" in node.input:
        msg = f"{node.op_type} leaves an input out, expected all of them"
        raise StructureRefused(msg)
    told = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Split" and "num_outputs" in told and told["num_outputs"].i != len(node.output):
        msg = f"Split says {told['num_outputs'].i} outputs and has {len(node.output)}"
        raise StructureRefused(msg)
    if node.op_type == "GatherND" and "batch_dims" in told and told["batch_dims"].i < 0:
        msg = f"GatherND has batch_dims {told['batch_dims'].i}, expected 0 or more"
        raise StructureRefused(msg)
    # A loop gathers its further outputs trip by trip, however many there are.
    if node.op_type == "Loop" and len(told["body"].g.output) != len(told["body"].g.input) - 1:
        gathered = len(told["body"].g.output) - len(told["body"].g.input) + 1
        msg = f"a Loop gathers {gathered} outputs of its trips, expected none"
        raise StructureRefused(msg)


def _check_one_hot(node: onnx.NodeProto, scope: Scope) -> None:
    depth, values = (_shape(name, scope) for name in node.input[1:3])
    if depth not in ((), (1,)) or values != (2,):
        msg = f"OneHot has a depth of shape {depth} and values of shape {values}, expected one number and two"
        raise StructureRefused(msg)


def _shape(name: str, scope: Scope) -> tuple[int, ...] | None:
    """The shape of a tensor; None where it is not known."""
    if name in scope.constants:
        return tuple(scope.constants[name].dims)
    value = scope.values.get(name)
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _check_division(node: onnx.NodeProto, scope: Scope) -> None:
    """Refuse to divide whole numbers by 0 or -1, or by what is not known: the smallest of them by -1 ends a process."""
    divisor = scope.constants.get(node.input[1])
    if divisor is not None:
        kind = divisor.data_type
        numbers = numpy_helper.to_array(divisor)
        sound = not np.isin(numbers.astype(np.float64), (0.0, -1.0)).any()
    else:
        values = (scope.values.get(name) for name in (*node.input, *node.output))
        kind = next((value.type.tensor_type.elem_type for value in values if value is not None), 0)
        sound = False
    if (kind in _WHOLE or not kind) and not sound:
        msg = f"{node.op_type} divides whole numbers by {node.input[1]!r}, expected a constant without 0 or -1"
        raise StructureRefused(msg)
