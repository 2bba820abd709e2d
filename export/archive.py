"""Bytes from outside, read without running anything in them and without growing beyond a cap."""

import hashlib
import io
import math
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from export.errors import CheckpointRefused

FILE_CAP = 1024 * 1024 * 1024
TENSOR_CAP = 256 * 1024 * 1024
# What zipfile raises on damaged zips, by fuzzing it.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, EOFError, OSError)
# What reading the header of an array raises, which is a Python expression.
_ARRAY_ERRORS = (ValueError, TypeError, SyntaxError, tokenize.TokenError, EOFError, RecursionError, MemoryError)
_MEMBERS_CAP = 10_000
# The name of a module within the one that torch.compile makes of it.
_COMPILED = "_orig_mod"
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_capped(path: Path, cap: int = FILE_CAP) -> bytes:
    """Read a file of at most ``cap`` bytes; raises CheckpointRefused.

    Only plain files are read: a pipe would wait for ever, and a device has no end.
    """
    return _read(path, cap, os.O_RDONLY)


def read_member(path: Path, cap: int) -> bytes:
    """Read a file that lies in a checkpoint's folder, as read_capped does, but follow no link that stands there."""
    return _read(path, cap, os.O_RDONLY | os.O_NOFOLLOW)


def _read(path: Path, cap: int, flags: int) -> bytes:
    try:
        # Without O_NONBLOCK opening a pipe waits for somebody to write into it.
        opened = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            plain = stat.S_ISREG(os.fstat(opened).st_mode)
            with open(opened, "rb", closefd=False) as file:
                data = file.read(cap + 1) if plain else b""
        finally:
            os.close(opened)
    except (OSError, ValueError) as error:
        link = flags & os.O_NOFOLLOW and path.is_symlink()
        why = "it is a link" if link else error.strerror if isinstance(error, OSError) else error
        msg = f"{path} cannot be read: {why}"
        raise CheckpointRefused(msg) from error
    if not plain:
        msg = f"{path} is no plain file, expected one"
        raise CheckpointRefused(msg)
    if len(data) > cap:
        msg = f"{path} has more than {cap} bytes, expected at most that"
        raise CheckpointRefused(msg)
    return data


def sha256_of(data: bytes) -> str:
    """Give the sha256 of the bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def members_of(data: bytes, caps: dict[str, int]) -> dict[str, bytes]:
    """Unpack the named members of a zip, those that are there, each up to its cap in bytes.

    The cap holds for what is really unpacked, whatever the zip's directory says. Raises CheckpointRefused, also where a
    member's name would lead elsewhere if somebody unpacked the zip into a folder.
    """
    _refuse_crowd(data, "it")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                _refuse_astray(info)
            names = archive.namelist()
            return {name: _member(archive, name, cap) for name, cap in caps.items() if name in names}
    except _ZIP_ERRORS as error:
        msg = f"it cannot be unpacked as a zip: {error}"
        raise CheckpointRefused(msg) from error


def member_names(data: bytes) -> tuple[str, ...]:
    """Name the members of a zip, unpacking none of them; raises CheckpointRefused."""
    _refuse_crowd(data, "it")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return tuple(archive.namelist())
    except _ZIP_ERRORS as error:
        msg = f"it cannot be unpacked as a zip: {error}"
        raise CheckpointRefused(msg) from error


def _refuse_crowd(data: bytes, what: str) -> None:
    # Every member takes a record in Python's memory, so that they are counted before the directory is read.
    if data.count(b"PK\x01\x02") > _MEMBERS_CAP:
        msg = f"{what} is a zip of more than {_MEMBERS_CAP} members, expected at most that"
        raise CheckpointRefused(msg)


def _refuse_astray(info: zipfile.ZipInfo) -> None:
    name = info.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name or stat.S_ISLNK(info.external_attr >> 16):
        msg = f"the zip has the member {info.filename[:80]!r}, which leads out of it, expected plain names"
        raise CheckpointRefused(msg)


def _member(archive: zipfile.ZipFile, name: str, cap: int) -> bytes:
    if archive.namelist().count(name) > 1:
        msg = f"the zip has several members named {name!r}, expected one"
        raise CheckpointRefused(msg)
    if archive.getinfo(name).compress_type not in _PLAIN:
        msg = f"the zip's member {name!r} is compressed in an unusual way, expected stored or deflated"
        raise CheckpointRefused(msg)
    with archive.open(name) as member:
        content = member.read(cap + 1)
    if len(content) > cap:
        msg = f"the zip's member {name!r} unpacks to more than {cap} bytes, expected at most that"
        raise CheckpointRefused(msg)
    return content


def tensors_of(loaded: object, what: str) -> dict[str, torch.Tensor]:
    """Check that what was loaded is a state dict, name -> tensor; ``what`` names it in messages.

    Names are given as they were before ``torch.compile``. Raises CheckpointRefused where it holds anything but dense,
    finite tensors, or two whose names differ in that alone.
    """
    if not isinstance(loaded, dict):
        msg = f"{what} holds a {type(loaded).__name__}, expected a state dict (names and tensors)"
        raise CheckpointRefused(msg)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            msg = f"{what}: {name!r} is a {type(value).__name__}, expected a tensor"
            raise CheckpointRefused(msg)
        _refuse_odd(f"{what}: the tensor {name!r}", value)
    named = {uncompiled(name): value.detach().contiguous() for name, value in loaded.items()}
    if len(named) < len(loaded):
        plain = [uncompiled(name) for name in loaded]
        double = next(name for name in plain if plain.count(name) > 1)
        msg = (
            f"{what} has the tensor {double!r} compiled and not compiled (with {_COMPILED!r} in its name), expected one"
        )
        raise CheckpointRefused(msg)
    return named


def uncompiled(name: str) -> str:
    """Give a tensor's name without what ``torch.compile`` puts before all that is in a module that it compiled."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def load_tensors_only(data: bytes, what: str) -> object:
    """Load what ``torch.save`` wrote, with its own safe loader; raises CheckpointRefused.

    Nothing but tensors and plain containers comes out: anything that would have to run code is refused.
    """
    _refuse_compressed(data, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        msg = f"{what} holds more than tensors: it would have to be unpickled, which can run any code; nothing was run"
        raise CheckpointRefused(msg) from error
    except Exception as error:  # on damaged files the loader raises nearly everything there is
        msg = f"{what} cannot be read as a PyTorch state dict ({type(error).__name__})"
        raise CheckpointRefused(msg) from error


def _refuse_compressed(data: bytes, what: str) -> None:
    """Refuse a zip whose members could unpack to more than the file's own size; other files are no zips to torch."""
    if not data.startswith(b"PK\x03\x04"):
        return
    _refuse_crowd(data, what)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            plain = all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    except _ZIP_ERRORS as error:
        msg = f"{what} cannot be read as a PyTorch state dict: it is a damaged zip"
        raise CheckpointRefused(msg) from error
    if not plain:
        msg = f"{what} is compressed inside, which torch.save never does"
        raise CheckpointRefused(msg)


def _refuse_odd(what: str, tensor: torch.Tensor) -> None:
    # A view with stride 0 can claim any size, so the size is checked before anything is copied.
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        msg = f"{what} is not a dense one"
        raise CheckpointRefused(msg)
    if tensor.numel() * tensor.element_size() > TENSOR_CAP:
        msg = f"{what} has {tensor.numel()} elements, expected at most {TENSOR_CAP} bytes of them"
        raise CheckpointRefused(msg)
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        msg = f"{what} holds NaN or infinite values"
        raise CheckpointRefused(msg)


def array_of(data: bytes, what: str) -> NDArray[np.generic]:
    """Read the bytes of a ``.npy`` file with numbers in it; raises CheckpointRefused."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = npy.read_magic(stream)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = reader(stream)
    except _ARRAY_ERRORS as error:
        msg = f"{what} cannot be read as a NumPy array ({type(error).__name__})"
        raise CheckpointRefused(msg) from error
    if dtype.kind not in "biuf":
        msg = f"{what} holds {dtype}, expected numbers"
        raise CheckpointRefused(msg)
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        msg = f"{what} says it has the shape {shape}, which is not the size of the file"
        raise CheckpointRefused(msg)
    stream.seek(0)
    return np.asarray(npy.read_array(stream, allow_pickle=False))
