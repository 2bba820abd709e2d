"""Files of tensors that torch.save wrote: a state dict, or one inside a checkpoint, with its declaration."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from pickle import UnpicklingError

import torch

from export.archive import load_tensors_only, sha256_of, tensors_of
from export.declaration import Declaration, ModuleNetwork
from export.declared.beside import Named, said_beside, said_ignored, said_inside, said_otherwise
from export.declared.leaves import below, leaves_of, numbers_under, shown
from export.declared.networks import of_declaration
from export.errors import CheckpointRefused, DeclarationInvalid, TensorsUnaccounted
from export.pickled_objects import advice, objects_in
from export.spec import Source
from export.trained import TrainedPolicy


def state_dict(data: bytes, name: str, declaration: Declaration | None, cvar: float | None = None) -> TrainedPolicy:
    """Read a state dict that ``torch.save`` wrote; the declaration says what network it belongs to.

    ``name`` is the file's, for messages. Raises CheckpointRefused or DeclarationInvalid.
    """
    return _of_saved(data, name, declaration, cvar, "torch")


def cleanrl(data: bytes, name: str, declaration: Declaration | None, cvar: float | None = None) -> TrainedPolicy:
    """Read a ``.cleanrl_model``: a state dict, a list of them (the actor's first), or one beside its settings.

    Raises CheckpointRefused or DeclarationInvalid.
    """
    return _of_saved(data, name, declaration, cvar, "cleanrl")


def declared(name: str, declaration: Declaration | None, holds: str = "tensors alone, which do") -> Declaration:
    """Give the declaration; raises DeclarationInvalid where there is none, which says what the file ``holds``."""
    if declaration is None:
        msg = f"{name} holds {holds} not say what network they belong to: give --declare FILE.toml"
        raise DeclarationInvalid(msg)
    return declaration


def _of_saved(
    data: bytes, name: str, declaration: Declaration | None, cvar: float | None, library: str
) -> TrainedPolicy:
    try:
        loaded = load_tensors_only(data, name)
    except CheckpointRefused as error:
        objects = objects_in(data) if isinstance(error.__cause__, UnpicklingError) else ()
        if not objects:
            raise
        msg = f"{error}. {advice(objects)}"
        raise CheckpointRefused(msg) from error
    declaration = declared(name, declaration)
    source = Source(library=library, algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    return of_loaded(loaded, name, declaration, source, cvar)


def of_loaded(
    loaded: object,
    name: str,
    declaration: Declaration,
    source: Source,
    cvar: float | None = None,
    *,
    within: Set[str] | None = None,
) -> TrainedPolicy:
    """Build the declared network from what a file held: a state dict, or containers with one at the declared key.

    What lies beside it is named in the policy's ``remarks``; statistics that would vanish with it are refused.
    ``within``, where given, says that ``loaded`` is all of a file by dotted name, and names the tensors in it that are
    of no state dict unless the key leads to them; what is no tensor then lies beside the others, wherever it is.
    Raises CheckpointRefused or DeclarationInvalid.
    """
    network = declaration.network
    if isinstance(network, ModuleNetwork):
        msg = f"{name} holds tensors, but network.kind is 'module', which is for TorchScript: declare the layers"
        raise DeclarationInvalid(msg)
    key = str(network.key)
    held = _at(loaded, network.key if within is None else key, name)
    leaves = leaves_of(loaded, name)
    used = Named.of(declaration, key)

    def stored(place: str | int | None) -> dict[str, torch.Tensor]:
        return numbers_under(leaves, key if place is None else str(place))

    def whole(inner: str) -> str:
        return f"{key}.{inner}" if key else inner

    if within is not None:
        apart = within if key == "" else frozenset[str]()
        held = {inner: part for inner, part in held.items() if isinstance(part, torch.Tensor) and inner not in apart}
        if not held and key == "":
            _refuse_none(within, name)
    tensors = _checked(dict(_unused(held, used, whole)), held, name if key == "" else f"{name}: {key}")
    try:
        policy = of_declaration(declaration, tensors, source, cvar=cvar, stored=stored)
    except TensorsUnaccounted as error:
        if not (more := said_inside(tensors, declaration, key)):
            raise
        raise TensorsUnaccounted(f"{error}{more}") from error
    own = {whole(inner) for inner in tensors} | {found for found in used.names if below(found, key)}
    others = {found: leaf for found, leaf in leaves.items() if found not in own}
    ignored = [str(place) for place in network.ignore_beside]
    remarks = (
        *said_beside(others, declaration, key, ignored, name),
        *said_ignored(tensors, policy.set_aside, declaration, key),
        *said_otherwise(declaration, key, leaves),
    )
    return replace(policy, remarks=remarks)


def _unused(held: Mapping[str, object], used: Named, whole: Callable[[str], str]) -> Iterator[tuple[str, object]]:
    """Leave out what normalises."""
    for inner, value in held.items():
        place = whole(str(inner))
        if not any(name == place or below(name, place) for name in used.names):
            yield inner, value


def _refuse_none(within: Set[str], name: str) -> None:
    """Refuse a file whose tensors all lie in objects, saying the keys that lead there."""
    tops = dict.fromkeys(shown(one.rpartition(".")[0].split(".")[0]) for one in sorted(within))
    said = " or ".join(f'key = "{top}"' for top in list(tops)[:4])
    more = f"; for what lies in its objects say {said} under [network]" if said else ""
    msg = f"{name} holds no tensors outside of objects, expected a module or a state dict{more}"
    raise CheckpointRefused(msg)


def _checked(tensors: dict[str, object], held: Mapping[str, object], what: str) -> dict[str, torch.Tensor]:
    """Check that only tensors are left; where state dicts lie deeper, say the key that leads there."""
    try:
        return tensors_of(tensors, what)
    except CheckpointRefused as error:
        deeper = [inner for inner, value in held.items() if _is_state_dict(value)]
        if not deeper or all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise
        said = " or ".join(f'key = "{shown(str(inner))}"' for inner in deeper[:4])
        msg = f"{error}; for a state dict that lies in it say {said} under [network]"
        raise CheckpointRefused(msg) from error


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(part, torch.Tensor) and part.ndim > 1 for part in value.values()
    )


def _at(loaded: object, key: str | int, name: str) -> Mapping[str, object]:
    """Find the state dict at ``key``: a name in a dict, dotted where it lies deeper, or a place in a list.

    In a dict of dotted names ``key`` is also what they begin with, as far as a dot.
    """
    if key == "" and isinstance(loaded, (list, tuple)):
        kind = type(loaded).__name__
        msg = f"{name} holds a {kind}, expected a state dict (names and tensors); say key = 0 for the {kind}'s first"
        raise CheckpointRefused(msg)
    found = loaded if key == "" else _step(loaded, key)
    if not isinstance(found, Mapping):
        there = ", ".join(shown(str(one)) for one in list(loaded)[:12]) if isinstance(loaded, Mapping) else ""
        more = f"; the file has {there}" if there else ""
        what = name if key == "" else f"{name}: {key}"
        msg = f"{what} holds a {type(found).__name__}, expected a state dict (names and tensors){more}"
        raise CheckpointRefused(msg)
    return found


def _step(loaded: object, key: str | int) -> object:
    if isinstance(key, int):
        return loaded[key] if isinstance(loaded, (list, tuple)) and 0 <= key < len(loaded) else None
    if not isinstance(loaded, Mapping):
        return None
    if key in loaded:
        return loaded[key]
    first, _, rest = key.partition(".")
    deeper = _step(loaded.get(first), rest) if rest else None
    if deeper is not None:
        return deeper
    below_it = {one[len(key) + 1 :]: part for one, part in loaded.items() if isinstance(one, str) and below(one, key)}
    return below_it or None
