"""ONNX files as other exporters write them, made node by node."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.adopt.adoption import adopt
from export.adopt.reading import Said
from export.meaning import About, Arrays
from export.runtime import Session
from export.spec.artefact import Artefact
from export.write import finish

SHARED = Path(__file__).parents[4] / "shared" / "policies" / "onnx"
REAL = pytest.mark.skipif(not SHARED.exists(), reason="the real policies lie beside the repository, where they do")
ABOUT = About(name="adopted", version="1")

Dims = Sequence[int | str]
_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int32": TensorProto.INT32}
_TYPES |= {"int64": TensorProto.INT64, "float16": TensorProto.FLOAT16, "bool": TensorProto.BOOL}


class File:
    """An ONNX file in the making: nodes are added one by one, constants with them."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dims: Dims, dtype: str = "float32") -> str:
        """Declare an input."""
        self.inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], list(dims)))
        return name

    def output(self, name: str, dims: Dims, dtype: str = "float32") -> str:
        """Declare an output."""
        self.outputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], list(dims)))
        return name

    def add(self, operator: str, *inputs: str, out: str = "", count: int = 1, **attributes: object) -> str:
        """Add a node; gives the name of its first output."""
        name = out or f"t{len(self.nodes)}"
        names = [name, *(f"{name}.{at}" for at in range(1, count))]
        node = helper.make_node(operator, list(inputs), names, name=f"/place/of/somebody/{name}")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, values: object, dtype: str = "float32") -> str:
        """Add a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def weights(self, *shape: int, dtype: str = "float32") -> str:
        """Add random weights."""
        return self.constant(self.random.normal(size=shape), dtype)

    def reshaped(self, operator: str, given: str, axis: int) -> str:
        """Add a Squeeze or Unsqueeze, whose axes are an attribute in old operator sets."""
        if self.opset < 13:
            return self.add(operator, given, axes=[axis])
        return self.add(operator, given, self.constant([axis], "int64"))

    def linear(self, given: str, n: int, k: int, out: str = "", dtype: str = "float32") -> str:
        """Add a linear layer."""
        return self.add("Gemm", given, self.weights(n, k, dtype=dtype), self.weights(k, dtype=dtype), out=out)

    def network(self, given: str, n: int, k: int, out: str = "") -> str:
        """Add two layers with a tanh between them."""
        return self.linear(self.add("Tanh", self.linear(given, n, 8)), 8, k, out=out)

    def tell(self, name: str, values: Sequence[float]) -> None:
        """Add an output that is a constant, as ML-Agents does."""
        self.add("Identity", self.constant(values), out=name)
        self.output(name, [len(values)])

    def model(self) -> onnx.ModelProto:
        """Give the model."""
        graph = helper.make_graph(self.nodes, "torch-jit-export", self.inputs, self.outputs, self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8, producer_name="somebody"
        )

    def data(self) -> bytes:
        """Give the file."""
        return self.model().SerializeToString()


def simple(name: str = "obs", output: str = "actions", batch: int | str = "batch", opset: int = 17, k: int = 3) -> File:
    """Give a file with one vector of four numbers in, and k numbers out."""
    file = File(opset)
    file.network(file.input(name, [batch, 4]), 4, k, out=file.output(output, [batch, k]))
    return file


def finished(data: bytes, said: Said, *, deploy: bytes | None = None) -> Artefact:
    """Adopt a file, prove it and seal it."""
    found = adopt(data, said, deploy=deploy)
    return finish(found.meaning, found.model, found.answers, ABOUT, answers_name=found.answers_name)


def answered(artefact: Artefact, inputs: Arrays) -> dict[str, np.ndarray]:
    """Ask an artefact, all rows at once."""
    return dict(Session(artefact.data).run(inputs, chunk=len(next(iter(inputs.values())))))


def rows(count: int, *shape: int, seed: int = 5) -> NDArray[np.float32]:
    """Draw rows of normal numbers."""
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
