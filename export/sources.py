"""Where policies come from: one function each that reads a checkpoint, and one line each in the table at the end."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from export.archive import array_of, read_capped, sha256_of
from export.declaration import Declaration
from export.declared import cleanrl
from export.declared.files import declared, of_loaded
from export.declared.leaves import Opaque
from export.errors import CheckpointRefused, DeclarationInvalid, OptionInvalid
from export.pickled_objects import held_by
from export.rllib import of_rllib, read_rllib
from export.sandbox import unpickled
from export.sb3 import of_sb3, read_normaliser, read_sb3
from export.spec import Source
from export.tabular import tabular
from export.tensorfile import tensor_file
from export.torchscript import torch_file
from export.trained import TrainedPolicy

_Reader = Callable[[bytes, str, Declaration | None, float | None], TrainedPolicy]


@dataclass(frozen=True, slots=True)
class Asked:
    """A checkpoint that is to be exported, and what was said about it.

    ``normalisation`` are the bytes of a ``vecnormalize.pkl``, and ``normalisation_name`` is what messages call it.
    ``cvar`` asks for the mean of the worst share of outcomes, above 0 and up to 1, where the network knows a
    distribution of them. ``trust`` lets a file that has to be unpickled be unpickled, in a confined process.
    """

    path: Path
    declaration: Declaration | None = None
    normalisation: bytes | None = None
    normalisation_name: str = "the file of normalisation statistics"
    cvar: float | None = None
    trust: bool = False

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def read(self) -> bytes:
        """Read the file, up to a cap; raises CheckpointRefused."""
        return read_capped(self.path)


def sb3_zip(asked: Asked) -> TrainedPolicy:
    """Read what ``model.save`` of Stable-Baselines3 or sb3-contrib wrote."""
    _refuse(asked, declaration=True)
    given = asked.normalisation
    normaliser = read_normaliser(given, asked.normalisation_name) if given is not None else None
    return of_sb3(read_sb3(asked.read()), normaliser, asked.cvar)


def q_table(asked: Asked) -> TrainedPolicy:
    """Read a Q-table ``[states, actions]`` that ``numpy.save`` wrote."""
    _refuse(asked, declaration=True, normalisation=True, cvar=True)
    data = asked.read()
    return tabular(array_of(data, asked.name), sha256_of(data))


def rllib(asked: Asked) -> TrainedPolicy:
    """Read the folder of a checkpoint of RLlib's new API stack, or of a module in it."""
    _refuse(asked, declaration=True, normalisation=True, cvar=True)
    return of_rllib(read_rllib(asked.path))


def pickled(asked: Asked) -> TrainedPolicy:
    """Read a pickle of arrays, which only who trusts it can have: a Q-table by state, or tensors with a declaration."""
    if not asked.trust:
        msg = f"{asked.name} is a pickle, which can run any code; nothing was run. Say --trust if you know who made it"
        raise CheckpointRefused(msg)
    return _trusted(asked)


def _trusted(asked: Asked) -> TrainedPolicy:
    """Unpickle in a confined process, and take what comes back as an untrusted state dict or table."""
    _refuse(asked, normalisation=True)
    data = asked.read()
    found = unpickled(data, asked.name)
    if set(found.arrays) == {"q_table"} and asked.declaration is None:
        return tabular(found.arrays["q_table"], sha256_of(data))
    declaration = declared(asked.name, asked.declaration, f"{held_by(data)}, and its tensors do")
    source = Source(library="torch", algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in (found.arrays | found.within).items()}
    plain = {name: array.tolist() for name, array in found.plain.items()}
    others = {name: Opaque(kind) for name, kind in found.others.items()}
    within = frozenset(found.within)
    return of_loaded(tensors | plain | others, asked.name, declaration, source, asked.cvar, within=within)


def _tensors(read: _Reader) -> Callable[[Asked], TrainedPolicy]:
    """Hand a file of tensors to its reader; what it does not read safely is tried confined, where it is trusted."""

    def source(asked: Asked) -> TrainedPolicy:
        _refuse(asked, normalisation=True)
        try:
            return read(asked.read(), asked.name, asked.declaration, asked.cvar)
        except CheckpointRefused as error:
            if not asked.trust:
                raise
            try:
                return _trusted(asked)
            except CheckpointRefused as confined:
                raise confined from error

    return source


def _refuse(asked: Asked, *, declaration: bool = False, normalisation: bool = False, cvar: bool = False) -> None:
    """Refuse what was said about a checkpoint that has no use for it."""
    if declaration and asked.declaration is not None:
        msg = f"{asked.name} says itself what network it holds, expected no --declare with it"
        raise DeclarationInvalid(msg)
    if normalisation and asked.normalisation is not None:
        msg = f"--normalisation is for Stable-Baselines3's zips, found with {asked.name}: declare [normalise] instead"
        raise OptionInvalid(msg)
    if cvar and asked.cvar is not None:
        msg = f"--cvar is {asked.cvar:g}, expected it with a network that knows a distribution of returns"
        raise OptionInvalid(msg)


# Checkpoints by the end of their name; a folder without one is RLlib's.
SOURCES: Mapping[str, Callable[[Asked], TrainedPolicy]] = {
    ".zip": sb3_zip,
    ".npy": q_table,
    ".pt": _tensors(torch_file),
    ".pth": _tensors(torch_file),
    ".cleanrl_model": _tensors(cleanrl),
    ".safetensors": _tensors(tensor_file),
    ".pkl": pickled,
}


def read(asked: Asked) -> TrainedPolicy:
    """Read a checkpoint of any known kind; raises CheckpointRefused, DeclarationInvalid or OptionInvalid."""
    kind = SOURCES.get(asked.path.suffix.lower())
    if kind is None and asked.path.is_dir():
        kind = rllib
    if kind is None and asked.path.suffix.lower() == ".onnx":
        command = f"actd-export adopt {shlex.quote(str(asked.path))} -o NAME-VERSION.onnx"
        msg = f"{asked.name} is an ONNX file, which is no checkpoint: {command}"
        raise CheckpointRefused(msg)
    if kind is None:
        known = ", ".join(SOURCES)
        msg = f"{asked.name} ends in {asked.path.suffix!r}, expected a checkpoint ending in one of {known}, or a folder"
        raise CheckpointRefused(msg)
    return kind(asked)
