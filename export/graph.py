"""From a torch module to an ONNX graph with our names and without anybody's paths."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from google.protobuf.message import Message

from export.errors import ConversionFailed
from export.networks import WithAction
from export.trained import TrainedPolicy

OPSET = 20
_TORCH_LOG = "torch.onnx._internal.exporter._registration"


def graph_of(policy: TrainedPolicy) -> onnx.ModelProto:
    """Convert a policy to a graph: ``obs`` in, its head and ``action`` out, any batch size.

    Raises ConversionFailed where torch cannot trace the module or has no ONNX operators for it.
    """
    # Batch 2, because torch takes a batch of one for a constant.
    example = torch.zeros((2, *policy.observation.shape), dtype=getattr(torch, policy.observation.dtype))
    network = WithAction(policy.module).eval()
    model = _converted(network, example, policy.head)
    strip(model)
    return model


def _converted(network: torch.nn.Module, example: torch.Tensor, head: str) -> onnx.ModelProto:
    printed = io.StringIO()
    try:
        with _quiet(), contextlib.redirect_stdout(printed), torch.no_grad():
            network(example)
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["obs"],
                output_names=[head, "action"],
                opset_version=OPSET,
                verbose=False,
            )
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        msg = f"torch cannot write the network as an ONNX graph: {reason}"
        raise ConversionFailed(msg) from error
    if program is None:
        msg = "torch wrote no ONNX graph for the network"
        raise ConversionFailed(msg)
    # A copy in Python's own protobuf classes: torch keeps a reference to its program otherwise.
    return onnx.ModelProto.FromString(program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says about itself: a deprecation inside its exporter, and operators of torchvision."""
    log = logging.getLogger(_TORCH_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)


def strip(message: Message) -> None:
    """Clear documentation and metadata everywhere in a model: they hold stack traces with people's paths."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string", "value_info"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                strip(part)
