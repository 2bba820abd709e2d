"""Where policies come from: one function each that reads a checkpoint, and one line each in the table at the end."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from export.archive import read_capped, sha256_of
from export.declaration import Declaration
from export.declared import cleanrl
from export.declared.files import declared, of_loaded
from export.declared.leaves import Opaque
from export.errors import CheckpointRefused, DeclarationInvalid, NeedsUnpickling, OptionInvalid
from export.inert import Inert
from export.inert_arrays import array_in, is_array, kind_of
from export.pickled_objects import held_by
from export.rllib import of_rllib, read_rllib
from export.sandbox import unpickled
from export.sb3 import of_sb3, read_normaliser, read_sb3
from export.spec import Source
from export.tables import NO_TABLE, TableAsked, table_of_npy, table_of_npz, table_of_pickle, value_of
from export.tables.choosing import entries_of
from export.tables.files import table_among
from export.tabular import tabular
from export.tensorfile import tensor_file
from export.torchscript import torch_file
from export.trained import TrainedPolicy

# What to do where a pickle is no data.
_TRUST = "; nothing was run. Say --trust if you know who made it, and it is unpickled in a process that is confined"
_PLAIN = "; nothing was run. Save what is in it as an array of numbers, or as a .pkl"
_ZIP = b"PK\x03\x04"
_Reader = Callable[[bytes, str, Declaration | None, float | None], TrainedPolicy]


@dataclass(frozen=True, slots=True)
class Asked:
    """A checkpoint that is to be exported, and what was said about it.

    ``normalisation`` are the bytes of a ``vecnormalize.pkl``, and ``normalisation_name`` is what messages call it.
    ``cvar`` asks for the mean of the worst share of outcomes, above 0 and up to 1, where the network knows a
    distribution of them. ``trust`` lets a file that has to be unpickled be unpickled, in a confined process.
    ``table`` is what was said about a Q-table.
    """

    path: Path
    declaration: Declaration | None = None
    normalisation: bytes | None = None
    normalisation_name: str = "the file of normalisation statistics"
    cvar: float | None = None
    trust: bool = False
    table: TableAsked = NO_TABLE

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
    """Read a Q-table that ``numpy.save`` or ``savez`` wrote: an array ``[*states, actions]``, or a dict by state."""
    _refuse(asked, declaration=True, normalisation=True, cvar=True)
    data = asked.read()
    reader = table_of_npz if asked.path.suffix.lower() == ".npz" else table_of_npy
    try:
        return tabular(reader(data, asked.name, asked.table), sha256_of(data))
    except NeedsUnpickling as error:
        raise NeedsUnpickling(f"{error}{_PLAIN}") from error


def rllib(asked: Asked) -> TrainedPolicy:
    """Read the folder of a checkpoint of RLlib's new API stack, or of a module in it."""
    _refuse(asked, declaration=True, normalisation=True, cvar=True)
    return of_rllib(read_rllib(asked.path))


def pickled(asked: Asked) -> TrainedPolicy:
    """Read a pickle as data: a Q-table, or arrays with a declaration.

    What is no data, objects for instance, is unpickled in a confined process where the file is trusted.
    """
    _refuse(asked, normalisation=True)
    data = asked.read()
    if data.startswith(_ZIP):  # torch.save gives whatever name it is told
        return _tensors(torch_file)(asked)
    try:
        if asked.declaration is not None:
            return _of_arrays(asked, _tensors_in(value_of(data, asked.name), asked.name), data)
        _refuse(asked, cvar=True)
        return tabular(table_of_pickle(data, asked.name, asked.table), sha256_of(data), "pickle")
    except CheckpointRefused as error:
        # A declared network may lie among settings, which the confined process leaves out; a table is what it is.
        if asked.trust and (isinstance(error, NeedsUnpickling) or asked.declaration is not None):
            return _trusted(asked)
        if isinstance(error, NeedsUnpickling):
            raise NeedsUnpickling(f"{error}{_TRUST}") from error
        raise


def _tensors_in(value: object, what: str) -> object:
    """Make tensors of the arrays that a pickle holds, within its dicts and lists; refuses objects."""
    if is_array(value):
        return torch.from_numpy(array_in(value, what).copy())
    if isinstance(value, (list, tuple)):
        return [_tensors_in(one, what) for one in value]
    entries = entries_of(value)
    if entries is not None:
        return {name: _tensors_in(one, f"{what}: {name}"[:200]) for name, one in entries.items()}
    if isinstance(value, Inert):
        msg = f"{what} is {kind_of(value)}, expected arrays of numbers"
        raise NeedsUnpickling(msg)
    return value


def _of_arrays(asked: Asked, arrays: object, data: bytes) -> TrainedPolicy:
    """Build the declared network from arrays that a pickle held, plain or after it was unpickled."""
    declaration = declared(asked.name, asked.declaration)
    source = Source(library="torch", algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    return of_loaded(arrays, asked.name, declaration, source, asked.cvar)


def _trusted(asked: Asked) -> TrainedPolicy:
    """Unpickle in a confined process, and take what comes back as an untrusted state dict or table."""
    data = asked.read()
    found = unpickled(data, asked.name)
    arrays = found.arrays | found.within
    table = table_among(arrays, asked.name, asked.table) if asked.declaration is None else None
    if table is not None:
        return tabular(table, sha256_of(data))
    declaration = declared(asked.name, asked.declaration, f"{held_by(data)}, and its tensors do")
    source = Source(library="torch", algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
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
    ".npz": q_table,
    ".pt": _tensors(torch_file),
    ".pth": _tensors(torch_file),
    ".cleanrl_model": _tensors(cleanrl),
    ".safetensors": _tensors(tensor_file),
    ".pkl": pickled,
    ".pickle": pickled,
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
    if asked.table != NO_TABLE and (kind not in (q_table, pickled) or asked.declaration is not None):
        msg = (
            f"{asked.name} is read as a network, expected --table-axes, --table-key and --table-missing with a Q-table"
        )
        raise OptionInvalid(msg)
    return kind(asked)
