"""The operators that TorchScript code may call: they give tensors and numbers, and touch nothing else."""

import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn.functional import linear

from export.errors import CheckpointRefused

# torch's own operators, called as they are.
_TENSOR = frozenset(
    """
    abs adaptive_avg_pool1d adaptive_avg_pool2d add add_ addcdiv addcmul addmm addmv all any arange argmax argmin
    as_tensor atan atan2 avg_pool1d avg_pool2d baddbmm bmm broadcast_to cat ceil celu chunk clamp clamp_ clamp_max
    clamp_min clip clone concat constant_pad_nd contiguous conv1d conv2d copy_ cos cumsum detach div div_ dot einsum elu
    elu_ embedding eq erf exp expand expand_as fill_ flatten flip floor fmod full full_like ge gelu glu group_norm
    gt
    hardsigmoid hardswish hardtanh hardtanh_ hstack index_select instance_norm isfinite isnan layer_norm le leaky_relu
    leaky_relu_ linalg_vector_norm linear log log1p log_softmax logical_and logical_not logical_or lt masked_fill matmul
    max max_pool1d max_pool2d maximum mean min minimum mish mm movedim mul mul_ mv narrow ne neg norm numel one_hot ones
    ones_like pad permute pow prelu prod reciprocal relu relu6 relu_ remainder repeat reshape reshape_as roll round
    rsqrt rsub select selu selu_ sigmoid sign silu silu_ sin slice softmax softplus sort split split_with_sizes sqrt
    square squeeze stack std sub sub_ sum swapaxes t tan tanh tanh_ tile transpose triu tril type_as unbind unflatten
    unsqueeze var var_mean view view_as vstack where zero_ zeros zeros_like
    """.split()
)
RANDOM = frozenset(
    """
    alpha_dropout_ bernoulli bernoulli_ multinomial normal normal_ rand rand_like randint randn randn_like uniform_
    exponential_ poisson randperm gumbel_softmax
    """.split()
)
_DTYPES: Mapping[int, torch.dtype] = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    11: torch.bool,
}
_NUMBERS: Mapping[torch.dtype, int] = {dtype: number for number, dtype in _DTYPES.items()}
_LONGEST = 64
# Numbers of one tensor, for a batch of one.
_LARGEST = 2**25


def _size(tensor: torch.Tensor, axis: int | None = None) -> object:
    return list(tensor.shape) if axis is None else tensor.shape[axis]


def _to(tensor: torch.Tensor, *given: object, **named: object) -> torch.Tensor:
    """Bring a tensor to another dtype; TorchScript writes dtypes as numbers, and devices do not matter here."""
    for value in (*given, *named.values()):
        if isinstance(value, torch.Tensor):
            return tensor.to(value.dtype)
        if isinstance(value, torch.dtype):
            return tensor.to(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return tensor.to(dtype_of(value))
    return tensor


def dtype_of(number: object) -> torch.dtype:
    """Give the dtype that TorchScript writes as a number."""
    if isinstance(number, torch.dtype):
        return number
    if isinstance(number, int) and number in _DTYPES:
        return _DTYPES[number]
    msg = f"the module's code uses the dtype number {number}, expected one of {sorted(_DTYPES)}"
    raise CheckpointRefused(msg)


def _raise(*said: object) -> None:
    msg = f"the module's own code refuses its input: {' '.join(str(part) for part in said)[:200]}"
    raise CheckpointRefused(msg)


def _dropout(tensor: torch.Tensor, share: float, train: bool) -> torch.Tensor:
    if train and share > 0:
        msg = "the module was saved in training mode, with dropout: call eval() before scripting it"
        raise CheckpointRefused(msg)
    return tensor


def _batch_norm(tensor: torch.Tensor, *given: object) -> torch.Tensor:
    weight, bias, mean, variance, training, momentum, epsilon, *_ = given
    if training:
        msg = "the module was saved in training mode, with batch normalisation: call eval() before scripting it"
        raise CheckpointRefused(msg)
    del momentum
    return torch.nn.functional.batch_norm(tensor, mean, variance, weight, bias, eps=epsilon)  # type: ignore[arg-type]


def _lstm(
    sequence: torch.Tensor, state: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], *said: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Work out torch's LSTM step by step: [T, N, I], or [N, T, I] where it is batch first."""
    layers, first = _plain_recurrence(sequence, said)
    rows = list(sequence.unbind(1 if first else 0))
    hidden, cell = list(state[0].unbind(0)), list(state[1].unbind(0))
    each = len(weights) // layers
    for layer in range(layers):
        weight_ih, weight_hh, *biases = weights[layer * each : (layer + 1) * each]
        bias_ih, bias_hh = biases or (None, None)
        for at, row in enumerate(rows):
            gates = linear(row, weight_ih, bias_ih) + linear(hidden[layer], weight_hh, bias_hh)
            take, forget, content, output = gates.chunk(4, dim=1)
            cell[layer] = torch.sigmoid(forget) * cell[layer] + torch.sigmoid(take) * torch.tanh(content)
            hidden[layer] = torch.sigmoid(output) * torch.tanh(cell[layer])
            rows[at] = hidden[layer]
    return torch.stack(rows, dim=1 if first else 0), torch.stack(hidden), torch.stack(cell)


def _gru(
    sequence: torch.Tensor, state: torch.Tensor, weights: Sequence[torch.Tensor], *said: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Work out torch's GRU step by step: [T, N, I], or [N, T, I] where it is batch first."""
    layers, first = _plain_recurrence(sequence, said)
    rows, hidden = list(sequence.unbind(1 if first else 0)), list(state.unbind(0))
    each = len(weights) // layers
    for layer in range(layers):
        weight_ih, weight_hh, *biases = weights[layer * each : (layer + 1) * each]
        bias_ih, bias_hh = biases or (None, None)
        for at, row in enumerate(rows):
            new = linear(row, weight_ih, bias_ih).chunk(3, dim=1)
            old = linear(hidden[layer], weight_hh, bias_hh).chunk(3, dim=1)
            update = torch.sigmoid(new[1] + old[1])
            content = torch.tanh(new[2] + torch.sigmoid(new[0] + old[0]) * old[2])
            hidden[layer] = (1 - update) * content + update * hidden[layer]
            rows[at] = hidden[layer]
    return torch.stack(rows, dim=1 if first else 0), torch.stack(hidden)


def _plain_recurrence(sequence: torch.Tensor, said: Sequence[object]) -> tuple[int, bool]:
    _, layers, share, train, bidirectional, first = said
    steps = sequence.shape[1 if first else 0]
    if bidirectional or (train and share) or not isinstance(layers, int) or not 1 <= steps <= _LONGEST:
        msg = "the module's recurrent layer is bidirectional, has dropout in training mode, or runs over too many steps"
        raise CheckpointRefused(msg)
    return layers, bool(first)


_SPECIAL: Mapping[str, Callable[..., object]] = {
    "RaiseException": _raise,
    "NumToTensor": lambda number: number,
    "batch_norm": _batch_norm,
    "device": lambda *_: "cpu",
    "dim": lambda tensor: tensor.dim(),
    "dropout": _dropout,
    "dropout_": _dropout,
    "dtype": lambda tensor: _NUMBERS.get(tensor.dtype, -1),
    "feature_dropout": _dropout,
    "format": lambda text, *parts: text.format(*parts),
    "gru": _gru,
    "is_floating_point": lambda tensor: tensor.is_floating_point(),
    "len": len,
    "list": list,
    "lstm": _lstm,
    "size": _size,
    "tensor": lambda value, dtype=None, **_: torch.tensor(value, dtype=dtype),
    "to": _to,
    "warn": lambda *_, **__: None,
}
# On numbers, lists and None.
_PLAIN: Mapping[str, Callable[..., object]] = {
    "__and__": operator.and_,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__not__": operator.not_,
    "__or__": operator.or_,
    "add": operator.add,
    "div": operator.truediv,
    "eq": operator.eq,
    "floordiv": operator.floordiv,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "max": max,
    "min": min,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": operator.neg,
    "remainder": operator.mod,
    "sub": operator.sub,
}
ALLOWED = _TENSOR | _SPECIAL.keys() | _PLAIN.keys()


def call(name: str, given: Sequence[object], named: Mapping[str, object]) -> object:
    """Work out one operator; raises CheckpointRefused where it is not on the list."""
    keywords = {key: value for key, value in named.items() if key not in ("layout", "device", "pin_memory")}
    if keywords.get("dtype") is not None:
        keywords["dtype"] = dtype_of(keywords["dtype"])
    if name in _SPECIAL:
        return _within(_SPECIAL[name](*given, **keywords), name)
    if name in ("__is__", "__isnot__") or (name in _PLAIN and not _has_tensor(given)):
        return _PLAIN[name](*given)
    if name not in _TENSOR:
        msg = f"the module's code calls {name}, which is not on the list of operators that only work out numbers"
        raise CheckpointRefused(msg)
    return _within(getattr(torch.ops.aten, name)(*given, **keywords), name)


def _within(found: object, name: str) -> object:
    """Refuse a tensor that grew beyond all measure; one whose size is not known yet is part of an export by then."""
    if isinstance(found, torch.Tensor):
        count = found.numel()
        if type(count) is int and count > _LARGEST:
            msg = f"the module's code makes a tensor of {count} numbers by {name}, expected at most {_LARGEST}"
            raise CheckpointRefused(msg)
    return found


def _has_tensor(values: Sequence[object]) -> bool:
    return any(
        isinstance(value, torch.Tensor) or (isinstance(value, (list, tuple)) and _has_tensor(value)) for value in values
    )
