"""What a torch module holds beside its layers, and whether its answers depend on what running it leaves there."""

import collections
import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from export.errors import CheckpointRefused

# What torch itself keeps in a module; its parameters and buffers are looked at by their own names.
_TORCHS = frozenset(nn.Module().__dict__) | {"_flat_weights", "_flat_weight_refs"}
_DEEPEST = 3
_FAR = 1_000_003
Run = Callable[[nn.Module], object]


def own_copy(module: object) -> nn.Module:
    """Copy a module, in eval mode on the CPU, and leave it as it was.

    Raises CheckpointRefused where it has no numbers yet, or cannot be copied.
    """
    if isinstance(module, torch.jit.ScriptModule):
        msg = "the module is TorchScript: save it with torch.jit.save and export the file, whose code can be read"
        raise CheckpointRefused(msg)
    if not isinstance(module, nn.Module):
        msg = f"the module is a {type(module).__name__}, expected a torch.nn.Module: put it into the forward of one"
        raise CheckpointRefused(msg)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            msg = f"the module's tensor {name!r} has no numbers yet (a lazy layer, or the meta device): load them first"
            raise CheckpointRefused(msg)
    # Tensors that were worked out with gradients (weight_norm keeps one) are not copied by torch, their numbers are.
    worked_out = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in part.__dict__.values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, worked_out).cpu().eval()
    except Exception as error:  # a lock, an open file, a tensor in a list: whatever somebody's module holds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"the module cannot be copied: {reason}; leave out what it holds beside its layers"
        raise CheckpointRefused(msg) from error


def refuse_changed(module: nn.Module, run: Run) -> None:
    """Refuse a module that answers by what it kept of the run before; ``run`` asks the module, which nobody else has.

    A normaliser that goes on learning is one such, a recurrent network that keeps its state in itself is another, and a
    counter of its calls a third. What it merely leaves there, and does not read before it sets it anew, may stay:
    that is tried by putting other numbers there. Raises CheckpointRefused.
    """
    before = _snapshot(module)
    run(module)
    after = _snapshot(module)
    changed = [name for name in after.keys() | before.keys() if not _same(before.get(name), after.get(name))]
    if not changed:
        return
    first = run(module)
    _spoil(module, set(changed))
    kept = {name for name in changed if name in dict(module.named_parameters()) or name in dict(module.named_buffers())}
    if not kept and _same(first, _asked(run, module)):
        return
    msg = (
        f"the module changes {', '.join(sorted(changed)[:4])} when it is run, so that its answer depends on what came "
        "before: make its state an input and an output (network.kind = 'lstm'), or freeze it"
    )
    raise CheckpointRefused(msg)


def _asked(run: Run, module: nn.Module) -> object:
    try:
        return run(module)
    except Exception:  # noqa: BLE001 - what it raises over other numbers says that it reads them
        return None


def _snapshot(module: nn.Module) -> dict[str, object]:
    return {name: copy.deepcopy(_plain(value)) for name, value in _held(module)}


def _held(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Give what a module and its parts hold, by name: parameters, buffers, and attributes of their own."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for prefix, part in module.named_modules():
        for name, value in part.__dict__.items():
            if name not in _TORCHS and not isinstance(value, nn.Module):
                yield f"{prefix}.{name}".removeprefix("."), value


def _plain(value: object, depth: int = 0) -> object:
    """Give what can be compared of a value: numbers, texts, tensors, and containers of them."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth < _DEEPEST and isinstance(value, (list, tuple, collections.deque)):
        return [_plain(item, depth + 1) for item in value]
    if depth < _DEEPEST and isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items() if isinstance(key, (str, int))}
    return type(value).__name__


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return type(one) is type(other) and one == other


def _spoil(module: nn.Module, names: set[str]) -> None:
    """Put other numbers into the named attributes of a module."""
    for prefix, part in module.named_modules():
        for name, value in list(part.__dict__.items()):
            if f"{prefix}.{name}".removeprefix(".") in names:
                part.__dict__[name] = _spoiled(value)


def _spoiled(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, torch.nan) if value.is_floating_point() else ~value.detach()
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + _FAR
    if isinstance(value, (list, tuple)):
        return type(value)(_spoiled(item) for item in value) if type(value) in (list, tuple) else value
    if isinstance(value, dict):
        return {key: _spoiled(item) for key, item in value.items()}
    return collections.deque(map(_spoiled, value), value.maxlen) if isinstance(value, collections.deque) else value
