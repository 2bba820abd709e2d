"""Tensors in the safetensors format: the header is checked byte by byte before the library sees the file.

The format (https://github.com/huggingface/safetensors, "Format"): 8 bytes, the length of the header, little-endian;
the header, a JSON object of ``{"dtype", "shape", "data_offsets"}`` by name; then the tensors' bytes without a gap.
"""

import json
import math
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from export.archive import TENSOR_CAP, sha256_of, tensors_of
from export.declaration import Declaration
from export.declared import of_loaded
from export.declared.files import declared
from export.declared.order import natural
from export.errors import CheckpointRefused
from export.spec import Source
from export.trained import TrainedPolicy

HEADER_CAP = 4 * 1024 * 1024
TENSORS_CAP = 65536
# Bytes of one number by the format's names; those that torch cannot hold as plain numbers are left out.
_DTYPES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_MOST_AXES = 8


def tensor_file(data: bytes, name: str, declaration: Declaration | None, cvar: float | None = None) -> TrainedPolicy:
    """Read a ``.safetensors`` file; the declaration says what network its tensors belong to.

    ``name`` is the file's, for messages. Raises CheckpointRefused or DeclarationInvalid.
    """
    declaration = declared(name, declaration)
    source = Source(library="safetensors", algorithm=declaration.algorithm, checkpoint_sha256=sha256_of(data))
    return of_loaded(tensors_in(data, name), name, declaration, source, cvar)


def tensors_in(data: bytes, name: str) -> dict[str, torch.Tensor]:
    """Give the tensors of a safetensors file by name, sorted as people count; raises CheckpointRefused."""
    header, start = _header(data, name)
    _refuse_misplaced(header, len(data) - start, name)
    try:
        loaded = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        msg = f"{name} cannot be read as safetensors: {str(error)[:200]}"
        raise CheckpointRefused(msg) from error
    # The library writes tensors sorted by their names, and gives them in another order every time.
    return tensors_of({tensor: loaded[tensor] for tensor in sorted(loaded, key=natural)}, name)


def _header(data: bytes, name: str) -> tuple[dict[str, object], int]:
    """Read the header; gives it without its metadata, and where the tensors' bytes begin."""
    length = int.from_bytes(data[:8], "little")
    most = min(HEADER_CAP, len(data) - 8)
    if len(data) < 8 or not 2 <= length <= most:
        msg = f"{name} says that its header has {length} bytes, expected 2 to {max(most, 2)}"
        raise CheckpointRefused(msg)
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        msg = f"{name} has a header that is not JSON with distinct names: {str(error)[:120]}"
        raise CheckpointRefused(msg) from error
    if not isinstance(header, dict):
        msg = f"{name} has a header that is a {type(header).__name__}, expected an object of tensors by name"
        raise CheckpointRefused(msg)
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= TENSORS_CAP:
        msg = f"{name} has {len(header)} tensors, expected 1 to {TENSORS_CAP}"
        raise CheckpointRefused(msg)
    return header, 8 + length


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        msg = f"{next(name for name in names if names.count(name) > 1)!r} stands twice"
        raise ValueError(msg)
    return found


def _refuse_misplaced(header: Mapping[str, object], size: int, name: str) -> None:
    """Refuse tensors whose bytes are not those of their dtype and shape, one behind the other to the file's end."""
    places = sorted((_place(entry, f"{name}: the tensor {tensor!r}"), tensor) for tensor, entry in header.items())
    end = 0
    for (begin, stop), tensor in places:
        if begin != end:
            msg = f"{name}: the bytes of {tensor!r} begin at {begin}, expected {end}: no gap and no overlap"
            raise CheckpointRefused(msg)
        end = stop
    if end != size:
        msg = f"{name} has {size} bytes of tensors, expected {end} by its header"
        raise CheckpointRefused(msg)


def _place(entry: object, what: str) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        msg = f"{what} is described by {str(entry)[:80]}, expected dtype, shape and data_offsets"
        raise CheckpointRefused(msg)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        msg = f"{what} has the dtype {str(dtype)[:20]!r}, expected one of {', '.join(_DTYPES)}"
        raise CheckpointRefused(msg)
    if not _whole(shape) or len(shape) > _MOST_AXES:
        msg = f"{what} has the shape {str(shape)[:80]}, expected at most {_MOST_AXES} whole numbers"
        raise CheckpointRefused(msg)
    size = math.prod(shape) * _DTYPES[dtype]
    if size > TENSOR_CAP:
        msg = f"{what} has {size} bytes, expected at most {TENSOR_CAP}"
        raise CheckpointRefused(msg)
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        msg = f"{what} lies at {str(offsets)[:80]}, expected {size} bytes for {dtype}{shape}"
        raise CheckpointRefused(msg)
    return offsets[0], offsets[1]


def _whole(numbers: object) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 2**48 for number in numbers)
