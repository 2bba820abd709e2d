"""Heads of declared networks: from the last layer's numbers to what an artefact's outputs mean."""

from collections.abc import Sequence

import torch
from torch import nn

from export.declaration import Heads, Std
from export.declared.likeness import DEVIATION, words
from export.errors import DeclarationInvalid
from export.networks import Tensors
from export.spec import Box

_MASKED = -1e8


class Choices(nn.Module):
    """Values or logits ``[N, A]``; a switch's one logit l becomes the two of its choices, (0, l).

    Masked choices get -1e8.
    """

    def __init__(self, *, binary: bool) -> None:
        super().__init__()
        self.binary = binary

    def forward(self, found: Sequence[torch.Tensor], mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        numbers = found[0]
        if self.binary:
            numbers = torch.stack([torch.zeros_like(numbers), numbers], dim=2).flatten(1)
        if mask is not None:
            numbers = torch.where(mask, numbers, torch.full_like(numbers, _MASKED))
        return (numbers,)


class Valued(nn.Module):
    """Values ``[N, A]`` out of ``[N, A * K]`` numbers that say how an action's return is distributed."""

    def __init__(self, distribution: nn.Module) -> None:
        super().__init__()
        self.distribution = distribution
        self.choices = Choices(binary=False)

    def forward(self, found: Sequence[torch.Tensor], mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        values: tuple[torch.Tensor, ...] = self.choices([self.distribution(found[0])], mask)
        return values


class Atoms(nn.Module):
    """The expectation of a distribution over atoms, or its mean over the worst share ``cvar`` of outcomes.

    Bellemare, Dabney and Munos (2017); CVaR as in Dabney et al. (2018), "Implicit quantile networks".
    """

    atoms: torch.Tensor

    def __init__(self, atoms: torch.Tensor, actions: int, cvar: float | None) -> None:
        super().__init__()
        self.register_buffer("atoms", atoms)
        self.actions, self.cvar = actions, cvar

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        share = torch.softmax(numbers.reshape(-1, self.actions, self.atoms.shape[0]), dim=2)
        if self.cvar is not None:
            before = torch.cumsum(share, dim=2) - share
            share = torch.minimum(share, (self.cvar - before).clamp(min=0.0)) / self.cvar
        return (share * self.atoms).sum(dim=2)


class Quantiles(nn.Module):
    """The mean of quantiles that each stand for an equal share, or of the worst share ``cvar`` of them."""

    shares: torch.Tensor

    def __init__(self, count: int, actions: int, cvar: float | None, *, quantiles_first: bool) -> None:
        super().__init__()
        alpha = 1.0 if cvar is None else cvar
        before = torch.arange(count, dtype=torch.float64) / count
        shares = (alpha - before).clamp(0.0, 1.0 / count) / alpha
        self.register_buffer("shares", shares.to(torch.float32))
        self.shape = (-1, count, actions) if quantiles_first else (-1, actions, count)
        self.axis = 1 if quantiles_first else 2
        self.worst = cvar is not None

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        found = numbers.reshape(self.shape)
        if not self.worst:
            return found.mean(dim=self.axis)
        if self.axis == 1:
            found = found.transpose(1, 2)
        ordered, _ = torch.sort(found, dim=2)
        return (ordered * self.shares).sum(dim=2)


class Spread(nn.Module):
    """A standard deviation out of numbers that say it or its logarithm."""

    def __init__(self, std: Std) -> None:
        super().__init__()
        self.of, self.squash = std.of, std.squash
        self.low, self.high = std.span or (0.0, 0.0)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        if self.squash == "tanh":
            numbers = self.low + 0.5 * (self.high - self.low) * (torch.tanh(numbers) + 1)
        elif self.squash == "clip":
            numbers = numbers.clamp(self.low, self.high)
        return numbers.exp() if self.of == "log_std" else numbers


class Gaussian(nn.Module):
    """``mean`` and ``std``, each ``[N, D]``: in executed units, or before the tanh where the action is squashed.

    ``spread`` takes a second head's numbers, or with ``halves`` the second half of the first's; without one, ``fixed``
    is the standard deviation, zero for deterministic actions. ``scale`` and ``offset`` bring a mean to executed units,
    after ``before`` (tanh, clip, or nothing).
    """

    fixed: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self,
        spread: Spread | None,
        fixed: torch.Tensor,
        units: tuple[torch.Tensor, torch.Tensor],
        before: nn.Module,
        *,
        halves: bool = False,
    ) -> None:
        super().__init__()
        self.spread, self.before, self.halves = spread, before, halves
        self.register_buffer("fixed", fixed)
        self.register_buffer("scale", units[0])
        self.register_buffer("offset", units[1])

    def forward(self, found: Sequence[torch.Tensor], mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        del mask
        if self.halves:
            found = found[0].chunk(2, dim=1)
        mean = self.before(found[0]) * self.scale + self.offset
        std = self.fixed.expand_as(mean) if self.spread is None else self.spread(found[1])
        return mean, std * self.scale.abs()


def gaussian(network: Heads, action: Box, tensors: Tensors) -> tuple[Gaussian, tuple[str, ...]]:
    """Build the Gaussian that a declaration describes, and say what is inside it."""
    width = action.width
    ones, zeros = torch.ones(width), torch.zeros(width)
    std, units, before, inside = network.std, (ones, zeros), nn.Identity(), list[str]()
    plain: nn.Module = before
    bounds = _bounds(network, action, tensors) if network.squash == "tanh" else None
    if bounds is not None and network.head == "deterministic":
        units, plain = bounds, nn.Tanh()
        inside.append("tanh, un-scale to the action's bounds")
    elif network.unscale is not None:
        units = (_numbers(network.unscale.scale, "scale", width, tensors),) * 2
        units = (units[0], _numbers(network.unscale.offset, "offset", width, tensors))
        inside.append("un-scale: offset + scale * output")
        if network.unscale.clip is not None:
            plain = nn.Hardtanh(-network.unscale.clip, network.unscale.clip)
            inside.append(f"clip the output to +-{network.unscale.clip:g}")
    if std is None:
        return Gaussian(None, zeros, units, plain), tuple(inside)
    _refuse_unsaid(std)
    spread = Spread(std)
    if std.half:
        inside.append(f"the second half of the numbers is the {'log-std' if std.of == 'log_std' else 'std'}")
    if std.layer or std.output is not None or std.half:
        return Gaussian(spread, zeros, units, plain, halves=std.half), tuple(inside)
    fixed = torch.full((width,), std.fixed) if std.fixed is not None else spread(_vector(tensors, std.parameter, width))
    _refuse_no_spread(fixed)
    return Gaussian(None, fixed, units, plain), tuple(inside)


def _refuse_unsaid(std: Std) -> None:
    """Refuse to take what is called a std for the logarithm of one where nothing but a default says so."""
    name = std.parameter or std.layer
    if std.span is not None and std.span[0] < 0:
        # No std is below 0: that is the span of a logarithm.
        return
    if "of" not in std.model_fields_set and words(name.rpartition(".")[2]) & DEVIATION and "log" not in name.lower():
        msg = (
            f"network.std has {name!r}, which by its name is a std, and nothing says whether it is one: say "
            "of = 'std', or of = 'log_std' where it is the logarithm"
        )
        raise DeclarationInvalid(msg)


def _refuse_no_spread(std: torch.Tensor) -> None:
    if not bool((std > 0).all()) or not bool(torch.isfinite(std).all()):
        msg = f"network.std gives {std.tolist()[:8]}, expected finite numbers above 0; say of = 'log_std' or of = 'std'"
        raise DeclarationInvalid(msg)


def _vector(tensors: Tensors, name: str, width: int) -> torch.Tensor:
    """Take one number for each of the action's, or one for all, whatever the axes of length 1 around them."""
    shape = tensors.shape(name)
    tensor = tensors.take(name, shape or (width,))
    if tensor.numel() not in (1, width):
        msg = f"the tensor {name!r} has {tensor.numel()} numbers, expected {width}, one for each of the action's"
        raise DeclarationInvalid(msg)
    return tensor.reshape(-1).expand(width).clone()


def _numbers(numbers: tuple[float, ...] | str, what: str, width: int, tensors: Tensors) -> torch.Tensor:
    if isinstance(numbers, str):
        return _vector(tensors, numbers, width)
    if len(numbers) not in (1, width):
        msg = f"network.unscale.{what} has {len(numbers)} numbers, expected 1 or {width}"
        raise DeclarationInvalid(msg)
    return torch.tensor(numbers, dtype=torch.float32).expand(width).clone()


def _bounds(network: Heads, action: Box, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Give (high - low) / 2 and (high + low) / 2; raises DeclarationInvalid where the file's own numbers differ."""
    low, high = (torch.tensor(side, dtype=torch.float64) for side in (action.low, action.high))
    found = []
    for name, half in ((network.action_scale, (high - low) / 2), (network.action_bias, (high + low) / 2)):
        declared = half.to(torch.float32)
        if tensors.shape(name) or tensors.has(name):
            stored = _vector(tensors, name, action.width)
            if not torch.allclose(stored, declared, rtol=1e-5, atol=1e-6):
                msg = (
                    f"the file's {name!r} is {stored.tolist()[:8]}, but the declared bounds of the action make it "
                    f"{declared.tolist()[:8]}: low and high are not those of training"
                )
                raise DeclarationInvalid(msg)
            declared = stored
        found.append(declared)
    return found[0], found[1]
