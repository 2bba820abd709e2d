"""The structure of a graph that may be served: self-contained, deterministic by its operators, as its manifest says."""

from collections.abc import Sequence

import onnx

from export.spec.contents import check_contents
from export.spec.errors import StructureRefused
from export.spec.manifest import Manifest
from export.spec.spaces import Port

_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}

# Deterministic operators that policies are made of. No random numbers (the service draws), no custom domain.
OPERATORS = frozenset(
    """Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh
    CumSum DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    HardSigmoid HardSwish Identity If InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop MatMul MatMulInteger Max MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu
    Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Scan ScatterElements
    ScatterND Selu Shape Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
    Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor""".split()
)
# Graphs with these can run for any length of time.
LOOPS = frozenset({"Loop", "Scan"})


def _check_opset(model: onnx.ModelProto, manifest: Manifest) -> None:
    versions = [entry.version for entry in model.opset_import]
    if versions != [manifest.opset]:
        msg = f"the model uses the operator sets {versions}, expected [{manifest.opset}] as the manifest says"
        raise StructureRefused(msg)


def check_structure(model: onnx.ModelProto, manifest: Manifest) -> frozenset[str]:
    """Refuse a graph that is not self-contained, not deterministic by its operators, or not as the manifest says."""
    if len(model.training_info):
        msg = "the model holds a training graph, expected inference alone"
        raise StructureRefused(msg)
    if len(model.functions):
        msg = f"the model defines {len(model.functions)} local functions, expected none"
        raise StructureRefused(msg)
    for entry in model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            msg = f"the model uses the operator domain {entry.domain!r}, expected ONNX's own only"
            raise StructureRefused(msg)
    operators: set[str] = set()
    _check_graph(model.graph, operators)
    # Only now: the checker itself follows external data to other files.
    try:
        onnx.checker.check_model(model, full_check=False)
    except onnx.checker.ValidationError as error:
        msg = f"the graph is not valid ONNX: {str(error).splitlines()[0]}"
        raise StructureRefused(msg) from error
    _check_opset(model, manifest)
    _check_ports("input", model.graph.input, manifest.inputs, ())
    _check_ports("output", model.graph.output, manifest.outputs, (manifest.action.port,))
    check_contents(model)
    return frozenset(operators)


def _check_graph(graph: onnx.GraphProto, operators: set[str]) -> None:
    """Walk a graph and the bodies of its control flow, collecting operators."""
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
            msg = f"the tensor {tensor.name!r} keeps its data outside the file, expected one self-contained file"
            raise StructureRefused(msg)
    if len(graph.sparse_initializer):
        msg = "the graph has sparse initializers, expected dense ones"
        raise StructureRefused(msg)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            msg = f"the operator {node.domain or 'ai.onnx'}.{node.op_type} is not on the list of allowed operators"
            raise StructureRefused(msg)
        operators.add(node.op_type)
        for attribute in node.attribute:
            tensors = [attribute.t, *attribute.tensors]
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                msg = f"an attribute of {node.op_type} is a sparse tensor, expected dense ones"
                raise StructureRefused(msg)
            if any(t.data_location == onnx.TensorProto.EXTERNAL or len(t.external_data) for t in tensors):
                msg = f"an attribute of {node.op_type} keeps its data outside the file, expected one file"
                raise StructureRefused(msg)
            for body in [attribute.g, *attribute.graphs]:
                _check_graph(body, operators)


def _check_ports(
    role: str, values: Sequence[onnx.ValueInfoProto], needed: tuple[Port, ...], allowed: tuple[Port, ...]
) -> None:
    """Refuse inputs or outputs that are missing, too many, or not ``[batch, *shape]`` of their dtype."""
    names = [value.name for value in values]
    known = {port.name: port for port in (*needed, *allowed)}
    expected = ", ".join(port.name for port in needed)
    for port in needed:
        if names.count(port.name) != 1:
            msg = f"the graph's {role}s are [{', '.join(names)}], expected one named {port.name!r} among [{expected}]"
            raise StructureRefused(msg)
    for value in values:
        if value.name not in known:
            msg = f"the graph has an {role} {value.name!r}, expected [{expected}] alone"
            raise StructureRefused(msg)
        if not value.type.HasField("tensor_type"):
            msg = f"the {role} {value.name!r} is not a tensor"
            raise StructureRefused(msg)
        port, tensor = known[value.name], value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if tensor.elem_type != _TYPES[port.dtype] or not dims or dims[0] is not None or tuple(dims[1:]) != port.shape:
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
            told = ", ".join(map(str, ("batch", *port.shape)))
            wanted = f"{onnx.TensorProto.DataType.Name(_TYPES[port.dtype])}[{told}]"
            msg = f"the {role} {value.name!r} is {kind}{dims} (None is dynamic), expected {wanted}"
            raise StructureRefused(msg)
