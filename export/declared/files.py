"""Files of tensors that torch.save wrote: a state dict, or one inside a checkpoint, with its declaration."""

from collections.abc import Mapping

import torch

from export.archive import load_tensors_only, sha256_of, tensors_of
from export.declaration import Declaration, ModuleNetwork, Network
from export.declared.entry import statistics_named
from export.declared.networks import of_declaration
from export.errors import CheckpointRefused, DeclarationInvalid
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


def declared(name: str, declaration: Declaration | None) -> Declaration:
    """Give the declaration; raises DeclarationInvalid where there is none."""
    if declaration is None:
        msg = f"{name} holds tensors alone, which do not say what network they belong to: give --declare FILE.toml"
        raise DeclarationInvalid(msg)
    return declaration


def _of_saved(
    data: bytes, name: str, declaration: Declaration | None, cvar: float | None, library: str
) -> TrainedPolicy:
    declaration = declared(name, declaration)
    source = Source(library=library, algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    return of_loaded(load_tensors_only(data, name), name, declaration, source, cvar)


def of_loaded(
    loaded: object, name: str, declaration: Declaration, source: Source, cvar: float | None = None
) -> TrainedPolicy:
    """Build the declared network from what a file held: a state dict, or containers with one at the declared key."""
    network = declaration.network
    key = network.key if isinstance(network, Network) else ""

    def stored(place: str | int | None) -> dict[str, torch.Tensor]:
        return _at(loaded, key if place is None else place, name)

    if isinstance(network, ModuleNetwork):
        msg = f"{name} holds tensors, but network.kind is 'module', which is for TorchScript: declare the layers"
        raise DeclarationInvalid(msg)
    tensors = stored(None)
    beside = statistics_named(declaration.parts)
    left = {found: tensor for found, tensor in tensors.items() if found not in beside}
    return of_declaration(declaration, left, source, cvar=cvar, stored=stored)


def _at(loaded: object, key: str | int, name: str) -> dict[str, torch.Tensor]:
    """Find the state dict at ``key``: a name in a dict, dotted where it lies deeper, or a place in a list."""
    if key == "":
        if isinstance(loaded, (list, tuple)):
            kind = type(loaded).__name__
            msg = (
                f"{name} holds a {kind}, expected a state dict (names and tensors); say key = 0 for the {kind}'s first"
            )
            raise CheckpointRefused(msg)
        return tensors_of(_plain(loaded), name)
    return tensors_of(_plain(_step(loaded, key)), f"{name}: {key}")


def _step(loaded: object, key: str | int) -> object:
    if isinstance(key, int):
        return loaded[key] if isinstance(loaded, (list, tuple)) and 0 <= key < len(loaded) else None
    if isinstance(loaded, dict) and key in loaded:
        return loaded[key]
    first, _, rest = key.partition(".")
    if not rest or not isinstance(loaded, dict):
        return None
    return _step(loaded.get(first), rest)


def _plain(loaded: object) -> object:
    return dict(loaded) if isinstance(loaded, Mapping) else loaded
