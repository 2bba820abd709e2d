"""A torch module in memory as a policy: what it takes and gives is checked before anything is written."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from export.declaration import Declaration, ModuleNetwork, parsed
from export.declared.entry import prepared
from export.declared.policies import family_of, head_of, policy_of
from export.errors import CheckpointRefused, DeclarationInvalid, ExportError
from export.held import own_copy, refuse_changed
from export.networks import Tensors
from export.observations import sampled
from export.spec import Box, Memory, MultiDiscrete, Source
from export.trained import TrainedPolicy

_ROWS = 8
# Kernels for one row and for many round differently.
_ALIKE = 1e-4


def of_module(
    module: nn.Module,
    declaration: Declaration | Mapping[str, object],
    *,
    source: Source | None = None,
) -> TrainedPolicy:
    """Make a policy of a module whose ``forward`` takes the observation (its entries in order) and gives the head.

    ``declaration`` is a Declaration, or a table as its TOML file would have it; ``network`` may be left out where the
    head is ``q_values``. For a Gaussian with ``std = {output = 1}`` the module gives mean and std, or its logarithm;
    with ``outputs = [0, 1]`` its first two outputs are put side by side.
    The module is copied and left as it was; dropout and batch normalisation are in eval mode in the copy.

    Raises DeclarationInvalid where it does not give what was declared, and CheckpointRefused where it changes its own
    state, gives NaN, or cannot be run.
    """
    if not isinstance(declaration, Declaration):
        declaration = parsed({"network": {"kind": "module"}} | dict(declaration), "the declaration")
    network = declaration.network
    if not isinstance(network, ModuleNetwork):
        msg = f"network.kind is {network.kind!r}, expected 'module' for a module in memory"
        raise DeclarationInvalid(msg)
    own, fresh = own_copy(module), own_copy(module)
    policy = of_forward(own, declaration, source or Source(library="torch", algorithm=declaration.algorithm))
    obs, _ = _prepared(policy, declaration)

    def run(it: nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            found = it(*(part.clone() for part in obs))
        return [found] if isinstance(found, torch.Tensor) else [one for one in found if isinstance(one, torch.Tensor)]

    # Another copy, which nothing has asked yet: the first answer may change it once and for all.
    refuse_changed(fresh, run)
    refuse_random(policy)
    refuse_mixed(policy)
    return policy


def of_forward(
    forward: nn.Module, declaration: Declaration, source: Source, memory: tuple[Memory, ...] = ()
) -> TrainedPolicy:
    """Put a module's forward between the declared preparation and the declared head, and try it.

    Its memory comes in behind the observation and goes out behind everything else. Raises as ``of_module`` does.
    """
    network = declaration.network
    if not isinstance(network, ModuleNetwork):
        raise TypeError(network)
    _refuse_named(network)
    apart, inside = apart_of(declaration)
    head, said = head_of(network, declaration, Tensors({}, "the module"))
    core = Whole(forward, network.outputs, None if network.std is None else network.std.output)
    policy = policy_of(
        declaration,
        (apart, core, head),
        family=family_of(network),
        memory=memory,
        inside=(*inside, *said),
        source=source,
        set_aside=(),
    )
    _refuse_misshapen(policy, core, declaration)
    return policy


def apart_of(declaration: Declaration) -> tuple["Apart", tuple[str, ...]]:
    """Give what happens to an observation before a module gets it, and how to name it."""
    steps: list[nn.Module] = []
    inside: list[str] = []
    for part in declaration.parts:
        step, _, said = prepared(part, _nothing)
        # States go to the module as they are: its own first layer may be an embedding or a one-hot.
        steps.append(nn.Identity() if part.states else step)
        inside.extend(() if part.states else said)
    return Apart(steps), tuple(inside)


class Apart(nn.Module):
    """Prepares the parts of an observation and hands them on one by one."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *obs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part(one) for part, one in zip(self.parts, obs, strict=True))


class Whole(nn.Module):
    """Somebody's module between the observation's parts and the head.

    ``places`` are those of its outputs that are put side by side, ``std`` is the place of a std of its own. A module
    that writes into what it is given gets copies: what is around it needs the observation as it was.
    """

    def __init__(self, network: nn.Module, places: tuple[int, ...], std: int | None) -> None:
        super().__init__()
        self.network, self.places, self.std, self.copies = network, places, std, False

    def forward(
        self, parts: tuple[torch.Tensor, ...], *memory: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        own = tuple(part.clone() for part in parts) if self.copies else parts
        found = self.network(*own, *memory)
        given: tuple[torch.Tensor, ...] = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        chosen = [given[place] for place in self.places]
        # Indices may come on one axis.
        rows = [one.unsqueeze(1) if one.ndim == 1 else one for one in chosen]
        head = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        heads = (head,) if self.std is None else (head, given[self.std])
        return heads, given[len(given) - len(memory) :]


def _nothing(key: str | int | None) -> dict[str, torch.Tensor]:
    del key
    msg = "normalise names tensors, expected numbers for a module: it has its tensors itself"
    raise DeclarationInvalid(msg)


def _refuse_named(network: ModuleNetwork) -> None:
    if network.std is not None and (network.std.parameter or network.std.layer):
        msg = "network.std names a tensor or a layer, expected a number, or output = 1 for a module's second output"
        raise DeclarationInvalid(msg)


def _questions(policy: TrainedPolicy) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Draw a few observations; every choice is allowed, and memories are at their beginning."""
    found = dict(sampled(policy.observation, _ROWS))
    for port in policy.inputs[len(policy.observation.inputs) :]:
        found[port.name] = np.full((_ROWS, *port.shape), port.dtype == "bool", dtype=port.dtype)
    return found


def _prepared(policy: TrainedPolicy, declaration: Declaration) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Draw a few observations, prepared as the module gets them, and the memory at its beginning."""
    questions = _questions(policy)
    given = [torch.from_numpy(questions[port.name]) for port in policy.inputs]
    obs = apart_of(declaration)[0](*given[: len(policy.observation.inputs)])
    return list(obs), given[len(given) - len(policy.memory) :]


def _refuse_misshapen(policy: TrainedPolicy, core: Whole, declaration: Declaration) -> None:
    """Run the module alone and compare what it gives with what was declared."""
    obs, memory = _prepared(policy, declaration)
    own = [part.clone() for part in obs]
    try:
        with torch.no_grad():
            found = core.network(*own, *memory)
    except ExportError:
        raise
    except Exception as error:  # somebody's module may raise anything
        shapes = ", ".join(f"{tensor.dtype}".removeprefix("torch.") + f"{list(tensor.shape)}" for tensor in obs)
        msg = f"the module cannot be run on {shapes}: {_reason(error)}{_width(core.network)}"
        raise DeclarationInvalid(msg) from error
    core.copies = not all(torch.equal(part, one) for part, one in zip(own, obs, strict=True)) or any(
        part._version > 0  # noqa: SLF001 - torch's only count of what was written, with the same number too
        for part in own
    )
    given = list(found) if isinstance(found, (tuple, list)) else [found]
    given = given[: len(given) - len(memory)]
    wanted = (*core.places, *(() if core.std is None else (core.std,)))
    rows = [_checked(given, place, declaration, core.network) for place in wanted]
    head, std = rows[: len(core.places)], rows[len(core.places) :]
    places = ", ".join(map(str, core.places))
    _refuse_other_width(head, declaration, f"output{'s' if len(head) > 1 else ''} {places}", given)
    if std:
        _refuse_other_width(std, declaration, f"output {core.std}", given)


def _checked(given: Sequence[object], place: int, declaration: Declaration, module: nn.Module) -> torch.Tensor:
    """Take an output that is a row of float32 numbers for each observation; an index may be of any kind of number."""
    tensor, index = given[place] if place < len(given) else None, _is_index(declaration)
    alone = index and isinstance(tensor, torch.Tensor) and tensor.ndim == 1
    if not isinstance(tensor, torch.Tensor) or list(tensor.shape if alone else tensor.shape[:-1]) != [_ROWS]:
        shown = "nothing" if tensor is None else _shown(tensor)
        msg = f"output {place} of the module is {shown} for {_ROWS} observations, expected float32[{_ROWS}, numbers]"
        raise DeclarationInvalid(msg + (_cause(tensor, declaration) or _instead(tensor, module)))
    if not index and _kind(tensor) != f"float32{list(tensor.shape)}":
        shape = list(tensor.shape)
        msg = f"output {place} of the module is {_shown(tensor)} for {_ROWS} observations, expected float32{shape}"
        raise DeclarationInvalid(msg + (_cause(tensor, declaration) or _instead(tensor, module)))
    if not bool(torch.isfinite(tensor).all()):
        msg = f"output {place} of the module is NaN or infinite for an observation within the declared bounds"
        raise CheckpointRefused(msg)
    return tensor.unsqueeze(1) if alone else tensor


def _refuse_other_width(
    rows: Sequence[torch.Tensor], declaration: Declaration, what: str, given: Sequence[object]
) -> None:
    """Refuse outputs that have not as many numbers together as were declared; say how others could be joined."""
    found, width = sum(row.shape[1] for row in rows), declaration.outputs
    if found == width or (_is_index(declaration) and found in (_count(declaration), declaration.action_space.width)):
        return
    shown = " and ".join(_shown(row) for row in rows)
    verb = "are" if len(rows) > 1 else "is"
    wanted = f"an index for each of {_count(declaration)} choices" if _is_index(declaration) else ""
    msg = (
        f"{what} of the module {verb} {shown} for {_ROWS} observations, expected {wanted or f'float32{[_ROWS, width]}'}"
    )
    if len(given) > len(rows):
        msg += f" (network.outputs = [0, 1, ...] puts several of its {len(given)} outputs side by side)"
    raise DeclarationInvalid(msg + (_cause(rows[0], declaration) if len(rows) == 1 else ""))


def _is_index(declaration: Declaration) -> bool:
    """Say whether the module gives the choices that it made."""
    return declaration.head == "action" and not isinstance(declaration.action_space, Box)


def _count(declaration: Declaration) -> int:
    """How many choices an action makes at once."""
    space = declaration.action_space
    return len(space.factors) if isinstance(space, MultiDiscrete) else 1


def _cause(tensor: object, declaration: Declaration) -> str:
    """Say what a tensor that is no head may be: an index is whole, or one number where there should be several."""
    if not isinstance(tensor, torch.Tensor) or declaration.head == "action":
        return ""
    box = isinstance(declaration.action_space, Box)
    alone = not box and list(tensor.shape) in ([_ROWS], [_ROWS, _count(declaration)])
    if tensor.dtype.is_floating_point and not alone:
        return ""
    return (
        ": that is the action already chosen, not its scores; have the module give the numbers before the arg-max, or "
        "say network.head = 'action', which serves the action without scores"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _instead(found: object, module: nn.Module) -> str:
    if isinstance(found, torch.Tensor) or found is None:
        return _width(module)
    return ": have its forward give that tensor, or a tuple that begins with it"


def _width(module: nn.Module) -> str:
    """Say that a module is not made of float32 numbers; nothing where it is."""
    dtypes = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} - {torch.float32}
    if not dtypes:
        return ""
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return f"; its parameters are {names}: bring it to float32 with float(), or have its forward cast in and out"


def _shown(found: object) -> str:
    return _kind(found) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"


def _kind(tensor: torch.Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f"{str(tensor.layout).removeprefix('torch.')} "
    return f"{layout}{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def refuse_random(policy: TrainedPolicy) -> None:
    """Refuse a module that answers the same question in two ways."""
    first, second = policy.answer(_questions(policy)), policy.answer(_questions(policy))
    for port in policy.outputs:
        # What is NaN both times is the same; the proof refuses it, and says what it means.
        if not np.array_equal(first[port.name], second[port.name], equal_nan=True):
            msg = (
                f"the module gives another {port.name} when asked again, expected the head without random numbers in it"
            )
            raise CheckpointRefused(msg)


def refuse_mixed(policy: TrainedPolicy) -> None:
    """Refuse a module whose answer to a row depends on how many others are asked with it, or on what those are.

    The proof asks many at once, and a controller asks alone.
    """
    asked = _questions(policy)
    together = policy.answer(asked)
    rows = [policy.answer({name: array[at : at + 1] for name, array in asked.items()}) for at in range(_ROWS)]
    for port in policy.outputs:
        alone = np.concatenate([row[port.name] for row in rows])
        # What is NaN both times is the same here too.
        limit = _ALIKE * max(1.0, float(np.abs(np.nan_to_num(together[port.name])).max()))
        if not np.allclose(together[port.name], alone, rtol=_ALIKE, atol=limit, equal_nan=True):
            msg = (
                f"the module gives another {port.name} for an observation alone than for the same among {_ROWS}: its "
                "answer to a row must not depend on the batch (a mean over rows, item(), the batch's size)"
            )
            raise CheckpointRefused(msg)
