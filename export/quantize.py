"""A variant with weights and activations of eight bits, made of an artefact and measured against it.

Scales are fixed beforehand on recorded observations (static quantization): scales worked out at run time would make a
row's answer depend on the other rows of its batch.
"""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.errors import ConversionFailed
from export.graph import strip
from export.meaning import About, Arrays
from export.mother import Mother, accepted, agreement, asked
from export.runtime import Session
from export.spec import Recorded
from export.spec.artefact import Artefact, model_of
from export.write import finish

_HEAVY = ("Conv", "Gemm", "MatMul")
_PART = 64
# Kernels of different processors round an activation to neighbouring steps; golden rows are held to this.
_TOLERANCE = 0.05


def quantized(mother: Mother, about: About, recorded: Recorded, floor: float) -> Artefact:
    """Quantize the products of a mother artefact to int8, but for the first and the last ones; nothing is written.

    ``recorded`` observations fix the scales, and on them the variant executes the mother's action in a share of at
    least ``floor``. The proof compares with the same graph run without the runtime's integer kernels.
    Raises ParityFailed below the floor, ConversionFailed where there is nothing to quantize.
    """
    played = asked(mother, recorded)
    model = _quantized(model_of(mother.artefact.data), played.inputs)
    session = Session(model.SerializeToString())
    share = agreement(mother.meaning, played, session)
    variant = accepted(
        mother, "int8", share, len(played), floor, "static, per channel, the first and last products in float"
    )
    meaning = replace(
        mother.meaning, variant=variant, inside=(*mother.meaning.inside, "weights and activations of eight bits")
    )
    plain = Session(model.SerializeToString(), optimised=False)
    # Recorded actions are the mother's: how often they are met is what the agreement says.
    seen = replace(recorded, actions=None)
    return finish(
        meaning, model, plain.run, about, answers_name="its graph unoptimised", recorded=seen, tolerance=_TOLERANCE
    )


def _quantized(model: onnx.ModelProto, inputs: Arrays) -> onnx.ModelProto:
    for at, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{at}"
    exact = _last_products(model.graph) | _first_products(model.graph)
    if all(node.op_type not in _HEAVY or node.name in exact for node in model.graph.node):
        msg = "the network has no product (Conv, Gemm, MatMul) between its first and its last: nothing to quantize"
        raise ConversionFailed(msg)
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it advises a pre-processing that these graphs do not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "mother.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(model.SerializeToString())
            quantize_static(
                source,
                target,
                _Rows(inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_HEAVY),
                nodes_to_exclude=sorted(exact),
                per_channel=True,
                # Without it, processors without VNNI saturate sums of two products.
                reduce_range=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
            )
            found = onnx.load_model_from_string(target.read_bytes())
    finally:
        log.setLevel(level)
    strip(found)
    return found


def _last_products(graph: onnx.GraphProto) -> set[str]:
    """Name the products that no other product comes after on the way to an output: they stay exact."""
    makers = {name: node for node in graph.node for name in node.output}
    left = [value.name for value in graph.output]
    found: set[str] = set()
    met: set[str] = set()
    while left:
        node = makers.get(left.pop())
        if node is None or node.name in met:
            continue
        met.add(node.name)
        if node.op_type in _HEAVY:
            found.add(node.name)
        else:
            left.extend(node.input)
    return found


def _first_products(graph: onnx.GraphProto) -> set[str]:
    """Name the products that no other product comes before: one scale for all of an observation's numbers loses most.

    Those over images stay out: bytes share a scale, and a first convolution is where the time goes.
    """
    fresh = {value.name for value in graph.input}
    found: set[str] = set()
    for node in graph.node:
        if not fresh & set(node.input):
            continue
        if node.op_type in _HEAVY:
            found |= {node.name} if node.op_type != "Conv" else set()
        else:
            fresh |= set(node.output)
    return found


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibration what the policy saw, in parts."""

    def __init__(self, inputs: Arrays) -> None:
        self._parts = self._cut(inputs)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._parts, None)

    @staticmethod
    def _cut(inputs: Arrays) -> Iterator[dict[str, NDArray[np.generic]]]:
        count = len(next(iter(inputs.values())))
        for at in range(0, count, _PART):
            yield {name: array[at : at + _PART] for name, array in inputs.items()}
