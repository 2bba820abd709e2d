"""Layers of torch that TorchScript code calls whole: worked out in eval mode, recurrent ones step by step."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional
from torch.nn.functional import linear

from export.errors import CheckpointRefused

_LONGEST = 64
Weights = Sequence[torch.Tensor]


def _dropout(tensor: torch.Tensor, share: float, train: bool) -> torch.Tensor:
    if train and share > 0:
        msg = "the module was saved in training mode, with dropout: call eval() before scripting it"
        raise CheckpointRefused(msg)
    return tensor


def _rrelu(
    tensor: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: object
) -> object:
    if training:
        msg = "the module was saved in training mode, with a random slope (rrelu): call eval() before scripting it"
        raise CheckpointRefused(msg)
    return functional.leaky_relu(tensor, (lower + upper) / 2)


def _rrelu_(tensor: torch.Tensor, *given: object, **named: object) -> object:
    found = _rrelu(tensor.clone(), *given, **named)  # type: ignore[arg-type]  # as the code gives them
    return tensor.copy_(found)  # type: ignore[arg-type]  # a tensor, as _rrelu gives


def _batch_norm(tensor: torch.Tensor, *given: object) -> torch.Tensor:
    weight, bias, mean, variance, training, momentum, epsilon, *_ = given
    if training:
        msg = "the module was saved in training mode, with batch normalisation: call eval() before scripting it"
        raise CheckpointRefused(msg)
    del momentum
    return functional.batch_norm(tensor, mean, variance, weight, bias, eps=epsilon)  # type: ignore[arg-type]


def _convolution(tensor: torch.Tensor, *given: object) -> object:
    """Work out the convolution of any kind that tracing writes; what follows the groups says how, not what."""
    return torch.ops.aten.convolution(tensor, *given[:8])


def _convolution_mode(tensor: torch.Tensor, weight: torch.Tensor, *given: object) -> object:
    """Work out a convolution whose padding is 'same' or 'valid'."""
    kinds: Mapping[int, Callable[..., object]] = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
    return kinds[weight.dim()](tensor, weight, *given)


def _attention(query: torch.Tensor, *given: object, **named: object) -> object:
    """Work out attention, whose dropout is zero in eval mode."""
    share = named.get("dropout_p", given[3] if len(given) > 3 else 0.0)
    if share:
        msg = "the module's attention has dropout, which draws random numbers: call eval() before scripting it"
        raise CheckpointRefused(msg)
    if query.dim() == 4:
        return torch.ops.aten.scaled_dot_product_attention(query, *given, **named)
    # As one head of several: torch's exporter knows no other attention.
    own = [part.unsqueeze(1) if isinstance(part, torch.Tensor) and part.dim() == 3 else part for part in given]
    return torch.ops.aten.scaled_dot_product_attention(query.unsqueeze(1), *own, **named).squeeze(1)


def _hypot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(one * one + other * other)


def _fmax(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(one), other, torch.where(torch.isnan(other), one, torch.maximum(one, other)))


def _fmin(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(one), other, torch.where(torch.isnan(other), one, torch.minimum(one, other)))


def _cdist(one: torch.Tensor, other: torch.Tensor, p: float = 2.0, *_: object) -> torch.Tensor:
    apart: torch.Tensor = torch.linalg.vector_norm(one.unsqueeze(-2) - other.unsqueeze(-3), ord=p, dim=-1)
    return apart


def _masked_fill(tensor: torch.Tensor, mask: torch.Tensor, value: object) -> object:
    """Fill where the mask says so; with the lowest number instead of -inf, which no weight of an artefact may be."""
    return torch.ops.aten.masked_fill(tensor, mask, _finite(tensor, value))


def _masked_fill_(tensor: torch.Tensor, mask: torch.Tensor, value: object) -> object:
    return torch.ops.aten.masked_fill_(tensor, mask, _finite(tensor, value))


def _finite(tensor: torch.Tensor, value: object) -> object:
    lowest = isinstance(value, float) and value == -math.inf and tensor.is_floating_point()
    return torch.finfo(tensor.dtype).min if lowest else value


def _index_put(tensor: torch.Tensor, at: Sequence[torch.Tensor | None], value: torch.Tensor, *more: object) -> object:
    return _index_put_(tensor.clone(), at, value, *more)


def _index_put_(tensor: torch.Tensor, at: Sequence[torch.Tensor | None], value: torch.Tensor, *more: object) -> object:
    """Write at places; one number where a mask is true is a choice number by number, which graphs have."""
    mask = at[0] if len(at) == 1 else None
    if mask is None or mask.dtype != torch.bool or value.dim() or any(more):
        return torch.ops.aten.index_put_(tensor, at, value, *more)
    wide = mask.reshape(*mask.shape, *[1] * (tensor.dim() - mask.dim()))
    return tensor.copy_(torch.where(wide, value.to(tensor.dtype), tensor))


def _take_along(tensor: torch.Tensor, at: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    if dim is None:
        return torch.gather(tensor.flatten(), 0, at.flatten())
    # Torch's own looks at the batch's size as it makes the shapes alike.
    form = [*tensor.shape]
    form[dim] = at.shape[dim]
    return torch.gather(tensor, dim, at.expand(form))


def _hstack(tensors: Weights) -> torch.Tensor:
    return torch.cat(list(tensors), dim=0 if tensors[0].dim() == 1 else 1)


def _column_stack(tensors: Weights) -> torch.Tensor:
    return torch.cat([tensor if tensor.dim() > 1 else tensor.reshape(-1, 1) for tensor in tensors], dim=1)


def _lstm(
    sequence: torch.Tensor, state: Sequence[torch.Tensor], weights: Weights, *said: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Work out torch's LSTM step by step: [T, N, I], or [N, T, I] where it is batch first."""
    layers, first = _plain_recurrence(sequence, weights, said)
    rows = list(sequence.unbind(1 if first else 0))
    hidden, cell = list(state[0].unbind(0)), list(state[1].unbind(0))
    for layer, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(_each(weights, layers)):
        for at, row in enumerate(rows):
            gates = linear(row, weight_ih, bias_ih) + linear(hidden[layer], weight_hh, bias_hh)
            take, forget, content, output = gates.chunk(4, dim=1)
            cell[layer] = torch.sigmoid(forget) * cell[layer] + torch.sigmoid(take) * torch.tanh(content)
            hidden[layer] = torch.sigmoid(output) * torch.tanh(cell[layer])
            rows[at] = hidden[layer]
    return torch.stack(rows, dim=1 if first else 0), torch.stack(hidden), torch.stack(cell)


def _gru(
    sequence: torch.Tensor, state: torch.Tensor, weights: Weights, *said: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Work out torch's GRU step by step: [T, N, I], or [N, T, I] where it is batch first."""
    layers, first = _plain_recurrence(sequence, weights, said)
    rows, hidden = list(sequence.unbind(1 if first else 0)), list(state.unbind(0))
    for layer, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(_each(weights, layers)):
        for at, row in enumerate(rows):
            new = linear(row, weight_ih, bias_ih).chunk(3, dim=1)
            old = linear(hidden[layer], weight_hh, bias_hh).chunk(3, dim=1)
            update = torch.sigmoid(new[1] + old[1])
            content = torch.tanh(new[2] + torch.sigmoid(new[0] + old[0]) * old[2])
            hidden[layer] = (1 - update) * content + update * hidden[layer]
            rows[at] = hidden[layer]
    return torch.stack(rows, dim=1 if first else 0), torch.stack(hidden)


def _rnn(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., object]:
    """Work out torch's plain recurrent layer step by step, with its activation."""

    def rnn(
        sequence: torch.Tensor, state: torch.Tensor, weights: Weights, *said: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layers, first = _plain_recurrence(sequence, weights, said)
        rows, hidden = list(sequence.unbind(1 if first else 0)), list(state.unbind(0))
        for layer, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(_each(weights, layers)):
            for at, row in enumerate(rows):
                hidden[layer] = activation(linear(row, weight_ih, bias_ih) + linear(hidden[layer], weight_hh, bias_hh))
                rows[at] = hidden[layer]
        return torch.stack(rows, dim=1 if first else 0), torch.stack(hidden)

    return rnn


def _each(
    weights: Weights, layers: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]]:
    """Give each layer's weights of input and state, and their biases where it has some."""
    count = len(weights) // layers
    found = []
    for layer in range(layers):
        weight_ih, weight_hh, *biases = weights[layer * count : (layer + 1) * count]
        bias_ih, bias_hh = biases or (None, None)
        found.append((weight_ih, weight_hh, bias_ih, bias_hh))
    return found


def _plain_recurrence(sequence: torch.Tensor, weights: Weights, said: Sequence[object]) -> tuple[int, bool]:
    _, layers, share, train, bidirectional, first = said
    steps = sequence.shape[1 if first else 0]
    if bidirectional or (train and share) or not isinstance(layers, int) or not 1 <= steps <= _LONGEST:
        msg = "the module's recurrent layer is bidirectional, has dropout in training mode, or runs over too many steps"
        raise CheckpointRefused(msg)
    if len(weights) not in (2 * layers, 4 * layers) or sequence.dim() != 3:
        msg = "the module's recurrent layer has projections (proj_size) or no axis for the batch, expected neither"
        raise CheckpointRefused(msg)
    return layers, bool(first)


LAYERS: Mapping[str, Callable[..., object]] = {
    "_convolution": _convolution,
    "_convolution_mode": _convolution_mode,
    "alpha_dropout": _dropout,
    "alpha_dropout_": _dropout,
    "batch_norm": _batch_norm,
    "cdist": _cdist,
    # Torch's exporter writes these with sequences, which no artefact has.
    "column_stack": _column_stack,
    "dropout": _dropout,
    "dropout_": _dropout,
    "dstack": lambda tensors: torch.cat([torch.ops.aten.atleast_3d(tensor) for tensor in tensors], dim=2),
    "feature_alpha_dropout": _dropout,
    "feature_alpha_dropout_": _dropout,
    "feature_dropout": _dropout,
    "feature_dropout_": _dropout,
    "fmax": _fmax,
    "fmin": _fmin,
    "gru": _gru,
    "hstack": _hstack,
    "hypot": _hypot,
    # In the order of writing: torch's own looks for the best, and at the batch's size for it.
    "index_put": _index_put,
    "index_put_": _index_put_,
    "linalg_multi_dot": lambda tensors: functools.reduce(torch.matmul, tensors),
    "lstm": _lstm,
    "masked_fill": _masked_fill,
    "masked_fill_": _masked_fill_,
    "rnn_relu": _rnn(torch.relu),
    "rnn_tanh": _rnn(torch.tanh),
    "rrelu": _rrelu,
    "rrelu_": _rrelu_,
    "scaled_dot_product_attention": _attention,
    "take_along_dim": _take_along,
    "vstack": lambda tensors: torch.cat([torch.ops.aten.atleast_2d(tensor) for tensor in tensors]),
}
