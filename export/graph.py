"""From a torch module to an ONNX graph with our names and without anybody's paths."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence

import onnx
import torch
from google.protobuf.message import Message

from export.errors import ConversionFailed, ExportError
from export.executed import WithAction
from export.trained import TrainedPolicy

OPSET = 20
# What torch's exporter says of itself: of its own deprecated parts, of axes that share a name because they are one, and
# of the flat weights that torch's own recurrent layers put together anew.
_WARNINGS = (
    (FutureWarning, r".*LeafSpec.* is deprecated"),
    (FutureWarning, r".*_check_is_size will be removed"),
    (UserWarning, r".*The axis name: batch will not be used"),
    (UserWarning, r".*_flat_weights\[0\].* were assigned during export"),
)
# What torch says of an operator that it has no translation of, and of a graph that would have to go two ways.
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_DECIDES = re.compile(r"data-dependent|DataDependent|GuardOnDataDependentSymNode", re.IGNORECASE)
_TORCH_LOG = "torch.onnx._internal.exporter._registration"


def graph_of(policy: TrainedPolicy) -> onnx.ModelProto:
    """Convert a policy to a graph: ``obs`` in, its head and ``action`` out, any batch size.

    Raises ConversionFailed where torch cannot trace the module or has no ONNX operators for it.
    """
    network = WithAction(policy.module, policy).eval()
    # Batch 2, because torch takes a batch of one for a constant.
    examples = tuple(torch.zeros((2, *port.shape), dtype=getattr(torch, port.dtype)) for port in policy.inputs)
    ports = (*policy.inputs, *policy.outputs, policy.action.port)
    names = [port.name for port in ports]
    model = _converted(network, examples, names)
    if _has_twice(model.graph):
        # Something in the network has one of our names, as what torch.mean gives has: ours are put on afterwards.
        model = _converted(network, examples, [f"served.{name}" for name in names])
        _rename(model.graph, {f"served.{name}": name for name in names})
    strip(model)
    return model


def _converted(network: torch.nn.Module, examples: tuple[torch.Tensor, ...], names: Sequence[str]) -> onnx.ModelProto:
    """Convert with these names of the inputs, as many as examples, and then of the outputs."""
    printed = io.StringIO()
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), contextlib.redirect_stdout(printed), torch.no_grad():
            network(*examples)
            program = torch.onnx.export(
                network,
                examples,
                dynamo=True,
                external_data=False,
                # One for the variable number of inputs that the network takes, a tuple of them.
                dynamic_shapes=(tuple({0: batch} for _ in examples),),
                input_names=list(names[: len(examples)]),
                output_names=list(names[len(examples) :]),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # torch's exporter raises nearly everything there is, and so does somebody's module
        msg = f"torch cannot write the network as an ONNX graph: {_reason(error)}"
        raise ConversionFailed(msg) from error
    if program is None:
        msg = "torch wrote no ONNX graph for the network"
        raise ConversionFailed(msg)
    # A copy in Python's own protobuf classes: torch keeps a reference to its program otherwise.
    return onnx.ModelProto.FromString(program.model_proto.SerializeToString())


def _has_twice(graph: onnx.GraphProto) -> bool:
    """Say whether two tensors of a graph have one name, which torch does not see to where we give names."""
    made = [name for node in graph.node for name in node.output if name]
    names = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer), *made]
    return len(set(names)) < len(names)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors the names that ``names`` has for theirs; one that has such a name already becomes the network's."""
    taken = {name: f"net.{name}" for name in names.values()} | dict(names)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = taken.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = taken.get(tensor.name, tensor.name)
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [taken.get(name, name) for name in side]
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(body, names)


def _reason(error: BaseException) -> str:
    """Say in a sentence why a network was not converted: the operator, the decision, or what was raised first."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    own = next((str(one) for one in chain if isinstance(one, ExportError)), None)
    if own is not None:
        return own
    texts = [str(one) for one in chain]
    for text in texts:
        if (missing := _NO_OPERATOR.search(text)) is not None:
            return f"ONNX has no operator for {missing[1]}: write it with others, or leave it out of the served head"
        if _DECIDES.search(text) is not None:
            return (
                "it decides by a tensor's numbers which way it goes (an if, int() or item() on a tensor), which a "
                "graph cannot do: torch.where chooses by numbers"
            )
    return f"{type(chain[-1]).__name__}: {texts[-1].strip()}".splitlines()[0][:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says about itself: a deprecation inside its exporter, and operators of torchvision."""
    log = logging.getLogger(_TORCH_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in _WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
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
