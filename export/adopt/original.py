"""An ONNX file of somebody else's: parsed, checked before anything runs it, and open to questions about its graph."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from export.errors import AdoptionRefused
from export.spec.artefact import SIZE_CAP
from export.spec.structure import OPERATORS

# A file may hold these and be adopted all the same, where its actions are drawn by them from something deterministic.
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Original:
    """The parsed file, its bytes, which node makes which tensor, and the tensors that are constants."""

    model: onnx.ModelProto
    data: bytes
    makers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, NDArray[np.generic]]

    def __repr__(self) -> str:
        return f"<Original {','.join(self.inputs)} -> {','.join(self.outputs)}, opset {self.opset}>"

    @property
    def sha256(self) -> str:
        """The digest of the file as it was found."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next((e.version for e in self.model.opset_import if e.domain in _DOMAINS), 1)

    @property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """The inputs that somebody has to give, in order: without initializers, which old files list too."""
        known = {tensor.name for tensor in self.model.graph.initializer}
        return {value.name: value for value in self.model.graph.input if value.name not in known}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(value.name for value in self.model.graph.output)

    def behind(self, names: Iterable[str]) -> set[str]:
        """Name every tensor that the named ones depend on, themselves included."""
        found: set[str] = set()
        left = list(names)
        while left:
            name = left.pop()
            if name in found:
                continue
            found.add(name)
            if name in self.makers:
                left.extend(read_by(self.makers[name]))
        return found

    def constant_outputs(self) -> tuple[str, ...]:
        """Name the outputs that no input can change: what the file says about itself."""
        given = set(self.inputs)
        return tuple(name for name in self.outputs if not self.behind([name]) & given)

    def dims(self, name: str) -> list[int | None]:
        """Give the declared sizes of an input; None where one is not fixed."""
        shape = self.inputs[name].type.tensor_type.shape
        return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in shape.dim]

    def dtype(self, name: str) -> np.dtype[np.generic]:
        """Give the dtype of an input."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.inputs[name].type.tensor_type.elem_type))


def read_original(data: bytes) -> Original:
    """Parse a file and refuse what may not be run or cannot be; raises AdoptionRefused.

    Nothing outside the bytes is opened: external data is refused before any library could follow it.
    """
    if len(data) > SIZE_CAP:
        msg = f"the file has {len(data)} bytes, expected at most {SIZE_CAP}"
        raise AdoptionRefused(msg)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        msg = "the file is not an ONNX model"
        raise AdoptionRefused(msg) from error
    if not model.graph.node or not model.graph.output:
        msg = "the file holds no graph with an output, expected a policy as an ONNX model"
        raise AdoptionRefused(msg)
    if any(entry.key == "policy.manifest" for entry in model.metadata_props):
        msg = "the file has a policy.manifest already, expected a bare ONNX file: actd-export wrote this one"
        raise AdoptionRefused(msg)
    _refuse_foreign(model)
    _refuse_outside(model.graph)
    makers = {name: node for node in model.graph.node for name in node.output if name}
    constants = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    constants |= {n.output[0]: value for n in model.graph.node if (value := _value_of(n)) is not None}
    original = Original(model=model, data=data, makers=makers, constants=constants)
    _refuse_unmade(original)
    return original


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Name the tensors that a node reads, those that the bodies of its control flow take from outside included."""
    yield from (name for name in node.input if name)
    for body in bodies_of(node):
        inside = {v.name for v in body.input} | {t.name for t in body.initializer}
        inside |= {name for inner in body.node for name in inner.output}
        for inner in body.node:
            yield from (name for name in read_by(inner) if name not in inside)
        yield from (value.name for value in body.output if value.name not in inside)


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Give the graphs inside a node of control flow."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _refuse_foreign(model: onnx.ModelProto) -> None:
    """Refuse what is not ONNX's own or not for inference."""
    for entry in model.opset_import:
        if entry.domain not in _DOMAINS and entry.version:
            used = next((n.op_type for n in model.graph.node if n.domain == entry.domain), None)
            if used is not None:
                msg = f"the operator {entry.domain}.{used} is not ONNX's own, expected operators of ONNX alone"
                raise AdoptionRefused(msg)
    if len(model.functions) or len(model.training_info):
        msg = "the file defines functions or a training graph of its own, expected one plain graph"
        raise AdoptionRefused(msg)


def _refuse_outside(graph: onnx.GraphProto) -> None:
    """Refuse operators that are not known and tensors outside the file, in the bodies of control flow too."""
    tensors = list(graph.initializer)
    if len(graph.sparse_initializer):
        msg = "the graph has sparse initializers, expected dense ones"
        raise AdoptionRefused(msg)
    for node in graph.node:
        if node.domain not in _DOMAINS or node.op_type not in OPERATORS | RANDOM:
            msg = f"the operator {node.domain or 'ai.onnx'}.{node.op_type} is not on the list of allowed operators"
            raise AdoptionRefused(msg)
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                msg = f"an attribute of {node.op_type} is a sparse tensor, expected dense ones"
                raise AdoptionRefused(msg)
        for body in bodies_of(node):
            _refuse_outside(body)
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
            msg = f"the tensor {tensor.name!r} keeps its data outside the file, expected one self-contained file"
            raise AdoptionRefused(msg)


def _refuse_unmade(original: Original) -> None:
    """Refuse outputs, and inputs of nodes, that nothing in the file makes, or nothing before them."""
    given = {tensor.name for tensor in original.model.graph.initializer} | set(original.inputs)
    made = given | set(original.makers)
    lost = [name for name in original.outputs if name not in made]
    if lost:
        names = ", ".join(repr(name) for name in lost)
        msg = f"no node makes {names}, which the file lists among its outputs: it was damaged when it was last exported"
        raise AdoptionRefused(msg)
    for node in original.model.graph.node:
        for name in read_by(node):
            if name not in made:
                msg = f"the node {node.op_type} reads {name!r}, which nothing in the file makes"
                raise AdoptionRefused(msg)
            if name not in given:
                msg = f"the node {node.op_type} reads {name!r} before it is made, expected nodes in their order"
                raise AdoptionRefused(msg)
        given.update(node.output)


def _array(tensor: onnx.TensorProto) -> NDArray[np.generic]:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        msg = f"the tensor {tensor.name!r} cannot be read: {str(error).splitlines()[0][:200]}"
        raise AdoptionRefused(msg) from error


def _value_of(node: onnx.NodeProto) -> NDArray[np.generic] | None:
    if node.op_type != "Constant" or not len(node.attribute):
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return _array(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    return np.asarray(value, dtype=np.float32 if "float" in attribute.name else None)
