"""The states that a TorchScript module keeps: which they are, how they begin, and how rows of a batch lie in them."""

import itertools
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from export.errors import CheckpointRefused, DeclarationInvalid, ExportError
from export.scripted.module import Scripted
from export.scripted.rows import carried_shape
from export.scripted.tree import Held
from export.spec import Memory

_ROWS = 3
_RESETS = ("reset_memory", "reset")
Tensors = list[torch.Tensor]
Dtype = Literal["float32", "int64", "uint8"]


def states_of(scripted: Scripted, rows: Sequence[Tensors], name: str) -> list[int]:
    """Find the tensors that forward changes: those that it sets or writes into, and those with other numbers after."""
    everything = list(range(scripted.count))
    before = [scripted.get_buffer(f"tensor_{place}") for place in everything]
    found: set[int] = set()
    for row in rows[:_ROWS]:
        try:
            with torch.no_grad():
                if row is rows[0]:
                    _try_shapes(scripted, row, before)
                _, after, changed = scripted.run("forward", [part.clone() for part in row], everything, before)
        except ExportError:
            raise
        except Exception as error:  # the operators raise nearly everything there is
            shapes = ", ".join(str(list(part.shape)) for part in row)
            msg = f"{name} cannot be run on an observation {shapes}: {_reason(error)}"
            raise DeclarationInvalid(msg) from error
        for place in changed:
            _refuse_regrown(before[place], after[place])
        found |= changed
        found |= {place for place in everything if not _equal(before[place], after[place])}
    return sorted(found)


def _reason(error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return f"the result of {reason} has another shape for other numbers, which must not depend on them"
    return reason


def _refuse_regrown(before: torch.Tensor, after: torch.Tensor) -> None:
    if before.shape != after.shape or before.dtype != after.dtype:
        was, is_now = (f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}" for one in (before, after))
        msg = f"the module makes its state {was} into {is_now}, expected one shape and dtype from step to step"
        raise CheckpointRefused(msg)


def _try_shapes(scripted: Scripted, row: Tensors, before: Tensors) -> None:
    """Work the code out on shapes alone: a tensor beyond all measure is refused before it takes any memory."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = [mode.from_tensor(tensor) for tensor in before]
        scripted.run("forward", [mode.from_tensor(part) for part in row], range(len(tensors)), tensors)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def memory_of(
    scripted: Scripted, states: Sequence[int], owners: Sequence[Held], rows: Sequence[Tensors]
) -> tuple[Memory, ...]:
    """Make the states inputs and outputs, once it is known along which axis of each the rows of a batch lie."""
    if not states:
        return ()
    for place in states:
        _refuse_entangled(place, owners)
    scripted.memory = _axes(scripted, states, [owners[place].path for place in states], rows)
    found: list[Memory] = []
    for place, axis in scripted.memory:
        path = owners[place].path
        found.append(
            Memory(
                name=_identifier(path, [memory.name for memory in found]),
                shape=carried_shape(scripted.shape(place), axis),
                dtype=_dtype(scripted.get_buffer(f"tensor_{place}"), path),
                initial=initial_of(scripted, place, path),
                meaning=path,
            )
        )
    return tuple(found)


def _refuse_entangled(place: int, owners: Sequence[Held]) -> None:
    """Refuse a state that cannot go in and out by itself: its numbers are another tensor's too, or lie in a list."""
    state = owners[place]
    if state.within:
        msg = f"the module keeps its state in the list or dictionary {state.path!r}, expected a buffer for each"
        raise CheckpointRefused(msg)
    others = [held.path for held in owners if held is not state and held.memory == state.memory != 0]
    if others or state.also:
        names = ", ".join([*state.also, *others])
        msg = f"the module keeps its state {state.path!r} in the same memory as {names}, expected a buffer of its own"
        raise CheckpointRefused(msg)


def _identifier(path: str, taken: Sequence[str]) -> str:
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in path)[-48:] or "state"
    name = f"_{name}" if name[0].isdigit() else name
    return name if name not in taken else f"{name}_{len(taken)}"


def _dtype(state: torch.Tensor, path: str) -> Dtype:
    name = str(state.dtype).removeprefix("torch.")
    if name not in ("float32", "int64", "uint8"):
        msg = f"the module keeps its state {path!r} as {name}, expected float32, int64 or uint8"
        raise CheckpointRefused(msg)
    return cast("Dtype", name)


def initial_of(scripted: Scripted, place: int, path: str) -> float:
    """Give the number that fills a state as an episode begins: as the module's own reset sets it, else as stored."""
    state = scripted.get_buffer(f"tensor_{place}")
    for method in _RESETS:
        made = _reset(scripted, method, place, state)
        state = state if made is None else made
        if made is not None and _even(state):
            break
    if not _even(state):
        msg = f"the module was saved in the midst of an episode: its state {path!r} has several numbers, and no reset"
        raise CheckpointRefused(msg)
    return float(state.flatten()[0])


def _even(state: torch.Tensor) -> bool:
    return bool((state == state.flatten()[0]).all())


def _reset(scripted: Scripted, method: str, place: int, state: torch.Tensor) -> torch.Tensor | None:
    """Give a state as a method of the module leaves it; None where there is none that can be called by itself."""
    if f"{scripted.root.kind}.{method}" not in scripted.code:
        return None
    try:
        with torch.no_grad():
            _, (made,), _ = scripted.run(method, (), [place], [state])
    except Exception:  # noqa: BLE001 - what takes arguments, or does more than this can, resets something else
        return None
    return made if made.shape == state.shape and made.dtype == state.dtype else None


def unreset(scripted: Scripted, owners: Sequence[Held]) -> tuple[str, ...]:
    """Warn in a line of each state that begins as it was saved, and not at 0: nothing says that this is a beginning."""
    resets = any(f"{scripted.root.kind}.{method}" in scripted.code for method in _RESETS)
    begun = {owners[place].path: initial_of(scripted, place, owners[place].path) for place, _ in scripted.memory}
    return tuple(
        f"warning: the state {path} begins each episode at {value:.6g}, as the module was saved: where that was in the "
        "midst of one, save it at the beginning, or export a method reset()"
        for path, value in begun.items()
        if value != 0 and not resets
    )


def _axes(
    scripted: Scripted, states: Sequence[int], paths: Sequence[str], rows: Sequence[Tensors]
) -> tuple[tuple[int, int], ...]:
    """Find the axes by trying them: rows asked together, each with its own state, have to answer as they do alone."""
    choices = [[axis for axis, size in enumerate(scripted.shape(place)) if size == 1] for place in states]
    for axes in itertools.islice(itertools.product(*choices), 64):
        memory = tuple(zip(states, axes, strict=True))
        if _answers_alike(scripted, memory, rows):
            return memory
    shapes = ", ".join(f"{path} {list(scripted.shape(place))}" for path, place in zip(paths, states, strict=True))
    msg = f"the module changes its own state as it runs, and that cannot be kept for each session apart: {shapes}"
    raise CheckpointRefused(msg)


def _answers_alike(scripted: Scripted, memory: tuple[tuple[int, int], ...], rows: Sequence[Tensors]) -> bool:
    scripted.memory = memory
    generator = torch.Generator().manual_seed(0)
    states = []
    for place, axis in memory:
        own = scripted.get_buffer(f"tensor_{place}")
        shape = (_ROWS, *carried_shape(tuple(own.shape), axis))
        drawn = torch.rand(shape, generator=generator)
        states.append(drawn if own.is_floating_point() else (drawn * 2).to(own.dtype))
    parts = [torch.cat(column) for column in zip(*rows[:_ROWS], strict=True)]
    try:
        with torch.no_grad():
            together = scripted(*parts, *states)
            apart = [scripted(*row, *(state[at : at + 1] for state in states)) for at, row in enumerate(rows[:_ROWS])]
        return all(
            one.shape[0] == _ROWS and torch.allclose(one, torch.cat(alone), rtol=1e-4, atol=1e-5)
            for one, alone in zip(together, zip(*apart, strict=True), strict=True)
        )
    except Exception:  # noqa: BLE001 - an axis that does not fit fails in any operator, with whatever that raises
        return False
    finally:
        scripted.memory = ()
