"""A sheet of nodes to be drawn around a network: each is added under a name of its own, next to its constants."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Sheet:
    """Nodes in the order they were added, and the constants that they read."""

    def __init__(self, prefix: str = "adapt") -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __repr__(self) -> str:
        return f"<Sheet {self._prefix}: {len(self.nodes)} nodes, {len(self.constants)} constants>"

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Add a node with one output, of that name or named by its number; gives the name."""
        name = output or f"{self._prefix}.{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, array: NDArray[np.generic]) -> str:
        """Add a constant; gives its name."""
        name = f"{self._prefix}.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def real(self, values: Sequence[float] | NDArray[np.generic]) -> str:
        """Add float32 numbers."""
        return self.constant(np.asarray(values, dtype=np.float32))

    def whole(self, values: Sequence[int]) -> str:
        """Add int64 numbers."""
        return self.constant(np.asarray(values, dtype=np.int64))

    @staticmethod
    def ones() -> onnx.TensorProto:
        """Give the value that ConstantOfShape fills with ones."""
        return numpy_helper.from_array(np.ones(1, dtype=np.float32), "value")
