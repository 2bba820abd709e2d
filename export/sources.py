"""Where policies come from: one function each that reads a file, and one line each in the table at the end."""

from collections.abc import Callable, Mapping
from pathlib import Path

from export.archive import array_of, load_tensors_only, read_capped, sha256_of, tensors_of
from export.declaration import Declaration
from export.declared import of_declaration
from export.errors import CheckpointRefused, DeclarationInvalid
from export.families import of_sb3, tabular
from export.sb3 import read_sb3
from export.trained import TrainedPolicy


def sb3_zip(data: bytes, name: str, declaration: Declaration | None) -> TrainedPolicy:
    """Read what ``model.save`` of Stable-Baselines3 wrote."""
    _refuse_declaration(name, declaration)
    return of_sb3(read_sb3(data))


def q_table(data: bytes, name: str, declaration: Declaration | None) -> TrainedPolicy:
    """Read a Q-table ``[states, actions]`` that ``numpy.save`` wrote."""
    _refuse_declaration(name, declaration)
    return tabular(array_of(data, name), sha256_of(data))


def state_dict(data: bytes, name: str, declaration: Declaration | None) -> TrainedPolicy:
    """Read a state dict that ``torch.save`` wrote; the declaration says what network it belongs to."""
    if declaration is None:
        msg = f"{name} holds tensors alone, which do not say what network they belong to: give --declare FILE.toml"
        raise DeclarationInvalid(msg)
    key = declaration.network.key
    if key:
        loaded = load_tensors_only(data, name)
        inner = loaded.get(key) if isinstance(loaded, dict) else None
        return of_declaration(declaration, tensors_of(inner, f"{name}: {key}"), sha256_of(data))
    return of_declaration(declaration, tensors_of(load_tensors_only(data, name), name), sha256_of(data))


def _refuse_declaration(name: str, declaration: Declaration | None) -> None:
    if declaration is not None:
        msg = f"{name} says itself what network it holds, expected no --declare with it"
        raise DeclarationInvalid(msg)


# Checkpoints by the end of their name.
SOURCES: Mapping[str, Callable[[bytes, str, Declaration | None], TrainedPolicy]] = {
    ".zip": sb3_zip,
    ".npy": q_table,
    ".pt": state_dict,
    ".pth": state_dict,
}


def read(path: Path, declaration: Declaration | None = None) -> TrainedPolicy:
    """Read a checkpoint of any known kind; raises CheckpointRefused or DeclarationInvalid."""
    kind = SOURCES.get(path.suffix.lower())
    if kind is None:
        msg = f"{path.name} ends in {path.suffix!r}, expected a checkpoint ending in one of {', '.join(SOURCES)}"
        raise CheckpointRefused(msg)
    return kind(read_capped(path), path.name, declaration)
