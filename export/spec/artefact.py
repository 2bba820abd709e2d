"""The file: how a manifest and a digest live inside an ONNX model, and what structure is accepted.

ArtefactError
├── NotAnArtefact      it is no ONNX file that actd-export wrote
├── DigestMismatch     its bytes are not those that were sealed
├── ManifestInvalid    its manifest does not follow the format
└── StructureRefused   its graph is not one that may be served
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from export.spec.manifest import Manifest

SIZE_CAP = 64 * 1024 * 1024
_DIGEST_KEY = "policy.digest"
_ZEROS = b"0" * 64
# How protobuf writes the metadata entry: field 1 (key) with its length, field 2 (value) with its length of 64.
_DIGEST_MARK = b"\x0a" + bytes([len(_DIGEST_KEY)]) + _DIGEST_KEY.encode() + b"\x12\x40"
_FLAT_KEYS = ("name", "version", "kind", "schema")

_INPUT_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
}

# Deterministic operators that policies are made of. No random numbers (the service draws), no custom domain.
OPERATORS = frozenset(
    """Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Constant
    ConstantOfShape Conv Cos CumSum DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor
    GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid
    HardSwish Identity If IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul
    MatMulInteger Max MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
    QuantizeLinear Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Round Scan Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh
    Tile TopK Transpose Unsqueeze Where Xor""".split()
)
# Graphs with these can run for any length of time.
LOOPS = frozenset({"Loop", "Scan"})


class ArtefactError(Exception):
    """The artefact cannot be used."""


class NotAnArtefact(ArtefactError):
    """It is no ONNX file that actd-export wrote."""


class DigestMismatch(ArtefactError):
    """Its bytes are not those that were sealed."""


class ManifestInvalid(ArtefactError):
    """Its manifest does not follow the format."""


class StructureRefused(ArtefactError):
    """Its graph is not one that may be served."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A policy whose digest, manifest and structure were checked; ``data`` are the very bytes that were."""

    manifest: Manifest
    digest: str
    data: bytes
    operators: frozenset[str]

    @property
    def loops(self) -> bool:
        """Whether the graph can run for an unbounded time."""
        return bool(self.operators & LOOPS)

    def __repr__(self) -> str:
        kib = len(self.data) / 1024
        return f"<Artefact {self.manifest.name}-{self.manifest.version} {self.digest[:12]} {kib:.0f} KiB>"


def seal(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    """Put the manifest into the model and seal the file with its digest.

    The digest is the sha256 of the file in which the digest's own 64 characters are zeros.
    Raises StructureRefused for a graph that may not be served, and ManifestInvalid.
    """
    del model.metadata_props[:]
    values = {
        "policy.name": manifest.name,
        "policy.version": manifest.version,
        "policy.kind": manifest.family,
        "policy.schema": str(manifest.format),
        "author": manifest.author,
        "license": manifest.license,
        "description": manifest.description,
        "date": manifest.date,
        "policy.manifest": manifest.text(),
        _DIGEST_KEY: _ZEROS.decode(),
    }
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    _check_arrays(manifest)
    _check_structure(model, manifest)
    zeroed = model.SerializeToString(deterministic=True)
    at = _place_of_digest(zeroed)
    digest = hashlib.sha256(zeroed).hexdigest().encode()
    return zeroed[:at] + digest + zeroed[at + 64 :]


def open_artefact(data: bytes) -> Artefact:
    """Check an artefact's digest, manifest and structure on its raw bytes.

    Raises NotAnArtefact, DigestMismatch, ManifestInvalid or StructureRefused.
    """
    if len(data) > SIZE_CAP:
        msg = f"the file has {len(data)} bytes, expected at most {SIZE_CAP}"
        raise StructureRefused(msg)
    at = _place_of_digest(data)
    told = data[at : at + 64].decode("ascii", "replace")
    found = hashlib.sha256(data[:at] + _ZEROS + data[at + 64 :]).hexdigest()
    if told != found:
        msg = f"policy.digest is {told}, the bytes of the file give {found}: it was altered after it was sealed"
        raise DigestMismatch(msg)
    model = model_of(data)
    manifest = _manifest_of(model)
    _check_arrays(manifest)
    operators = _check_structure(model, manifest)
    return Artefact(manifest=manifest, digest=found, data=data, operators=operators)


def model_of(data: bytes) -> onnx.ModelProto:
    """Parse the bytes as an ONNX model; raises NotAnArtefact."""
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        msg = "the file is not an ONNX model"
        raise NotAnArtefact(msg) from error


def _place_of_digest(data: bytes) -> int:
    count = data.count(_DIGEST_MARK)
    if count != 1:
        msg = f"the file has {count} policy.digest entries, expected one: only actd-export writes artefacts"
        raise NotAnArtefact(msg)
    return data.index(_DIGEST_MARK) + len(_DIGEST_MARK)


def _manifest_of(model: onnx.ModelProto) -> Manifest:
    texts = [entry.value for entry in model.metadata_props if entry.key == "policy.manifest"]
    if len(texts) != 1:
        msg = f"the file has {len(texts)} policy.manifest entries, expected one"
        raise ManifestInvalid(msg)
    try:
        return Manifest.model_validate_json(texts[0])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        msg = f"policy.manifest: {path}: {first['msg']}"
        raise ManifestInvalid(msg) from error


def _check_arrays(manifest: Manifest) -> None:
    """Refuse golden rows and statistics that do not fit the spaces: whoever reads them later need not look."""
    space, golden = manifest.observation, manifest.golden
    rows = golden.inputs["obs"].shape[:1] if "obs" in golden.inputs else ()
    wanted = {
        ("inputs", "obs"): (golden.inputs, space.dtype, (*rows, *space.shape)),
        ("outputs", manifest.head): (golden.outputs, "float32", (*rows, manifest.action.n)),
    }
    for (role, name), (tensors, dtype, shape) in wanted.items():
        tensor = tensors.get(name)
        if tensor is None or (tensor.dtype, tensor.shape) != (dtype, shape) or 0 in shape:
            found = "missing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
            msg = f"policy.manifest: golden.{role}.{name} is {found}, expected {dtype}{list(shape)} with rows in it"
            raise ManifestInvalid(msg)
        try:
            finite = np.isfinite(tensor.array().astype(np.float64)).all()
        except ValueError as error:
            msg = f"policy.manifest: golden.{role}.{name} cannot be decoded to its shape: {error}"
            raise ManifestInvalid(msg) from error
        if not finite:
            msg = f"policy.manifest: golden.{role}.{name} holds NaN or infinity, expected numbers"
            raise ManifestInvalid(msg)
    taken, size = manifest.statistics, math.prod(space.shape)
    if taken is not None and {len(taken.mean), len(taken.std), len(taken.quantiles)} != {size}:
        msg = f"policy.manifest: statistics are not of {size} numbers each, the size of an observation"
        raise ManifestInvalid(msg)
    if taken is not None and any(len(row) != len(taken.probabilities) for row in taken.quantiles):
        msg = f"policy.manifest: statistics.quantiles are not {len(taken.probabilities)} each, one per probability"
        raise ManifestInvalid(msg)


def _check_opset(model: onnx.ModelProto, manifest: Manifest) -> None:
    versions = [entry.version for entry in model.opset_import]
    if versions != [manifest.opset]:
        msg = f"the model uses the operator sets {versions}, expected [{manifest.opset}] as the manifest says"
        raise StructureRefused(msg)


def _check_structure(model: onnx.ModelProto, manifest: Manifest) -> frozenset[str]:
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
    space = manifest.observation
    _check_value("input", model.graph.input, "obs", _INPUT_TYPES[space.dtype], space.shape)
    _check_opset(model, manifest)
    _check_value("output", model.graph.output, manifest.head, onnx.TensorProto.FLOAT, (manifest.action.n,))
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


def _check_value(
    role: str, values: Sequence[onnx.ValueInfoProto], name: str, dtype: int, shape: tuple[int, ...]
) -> None:
    """Refuse an input or output that is missing or not ``[batch, *shape]`` of ``dtype``."""
    found = [value for value in values if value.name == name]
    if len(found) != 1:
        names = ", ".join(value.name for value in values)
        msg = f"the graph's {role}s are [{names}], expected one named {name!r}"
        raise StructureRefused(msg)
    if role == "input" and len(values) != 1:
        msg = f"the graph has {len(values)} inputs, expected {name!r} alone"
        raise StructureRefused(msg)
    tensor = found[0].type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if tensor.elem_type != dtype or not dims or dims[0] is not None or tuple(dims[1:]) != shape:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        wanted = f"{onnx.TensorProto.DataType.Name(dtype)}[batch, {', '.join(map(str, shape))}]"
        msg = f"the {role} {name!r} is {kind}{dims} (None is dynamic), expected {wanted}"
        raise StructureRefused(msg)
