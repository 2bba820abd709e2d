"""Where the rows of a batch are in the tensors of a file, found by running it: what it declares may be wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.adopt.original import Original
from export.adopt.reading import Pieces, Reading
from export.adopt.trial import Trial
from export.errors import AdoptionRefused, OptionInvalid

# Batch sizes that a file is tried with which says that it takes any.
_SIZES = (1, 2, 8)


@dataclass(frozen=True, slots=True)
class Slot:
    """One input: the dtype and shape of one row, and the axis that rows are stacked on; None where there is none."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None

    def feed(self, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """Put ``rows[k, *shape]`` into the form that the file takes."""
        cast = np.ascontiguousarray(rows.astype(self.dtype))
        return cast[0] if self.axis is None else np.ascontiguousarray(np.moveaxis(cast, 0, self.axis))

    def rows(self, found: NDArray[np.generic]) -> NDArray[np.generic]:
        """Take rows ``[k, *shape]`` out of what the file gives back of this input."""
        return found[np.newaxis] if self.axis is None else np.moveaxis(found, self.axis, 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """The inputs of a file by name, how many rows it takes at once (None for any), and the widths of its pieces.

    ``axes`` are the axes of one row of each piece, without those of length 1.
    """

    slots: Mapping[str, Slot]
    at_once: int | None
    widths: Mapping[str, int]
    axes: Mapping[str, tuple[int, ...]]

    def width(self, pieces: Pieces) -> int:
        """Give how many numbers a tensor of our head has; raises OptionInvalid where there are no two equal halves."""
        whole = sum(self.widths[name] for name in pieces.names)
        if pieces.half is not None and whole % 2:
            names = ", ".join(pieces.names)
            msg = f"the output {names} has {whole} numbers, expected an even number: as many of the std as of the mean"
            raise OptionInvalid(msg)
        return whole if pieces.half is None else whole // 2


def exposed(original: Original, names: Sequence[str]) -> onnx.ModelProto:
    """Give the model as it is, with the named tensors among its outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(original.model)
    present = set(original.outputs)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return model


def layouts(original: Original, reading: Reading, trial: Trial) -> Iterator[Layout]:
    """Give the layouts that a file can have, the likelier first.

    The rows of an input are on the axis that it declares open. Where none is, they are on the first of an observation,
    and on the first or second of what is carried along. Raises AdoptionRefused where that is not clear, and where the
    file does not run at all.
    """
    dims = {name: original.dims(name) for name in original.inputs}
    opened = open_axes(original)
    found = trial.run(blank(original))
    declared = {name: [1 if size is None else size for size in sizes] for name, sizes in dims.items()}
    pieces = [name for tensor in reading.heads.values() for name in tensor.names]
    count, stacked = rows_of(found[pieces[0]], reading, declared)
    carried = {one.source for one in reading.memory}
    unsure = any(opened[name] is None for name in carried)
    for axis in (0, 1) if unsure else (0,):
        slots = {}
        for name, sizes in declared.items():
            told = opened[name]
            at = told if told is not None else axis if name in carried else 0
            on = stacked and len(sizes) > at and (dims[name][at] is None or sizes[at] == count)
            shape = tuple(size for place, size in enumerate(sizes) if not on or place != at)
            slots[name] = Slot(name, original.dtype(name).name, shape, at if on else None)
        if any(slots[name].axis is None for name in carried):
            continue
        # Where the head is one number a row on one axis, so is whatever else has as many.
        single = stacked and found[pieces[0]].ndim == 1
        widths = {name: _width(found[name], count, single=single) for name in pieces}
        axes = {name: _axes(found[name], widths[name]) for name in pieces}
        yield Layout(slots, _at_once(slots, dims, trial, pieces, count), widths, axes)


def blank(original: Original) -> dict[str, NDArray[np.generic]]:
    """Give zeros of the declared sizes for every input, one row where the number of rows is open."""
    sizes = {name: [1 if size is None else size for size in original.dims(name)] for name in original.inputs}
    return {name: np.zeros(shape, original.dtype(name)) for name, shape in sizes.items()}


def rows_of(found: NDArray[np.generic], reading: Reading, declared: Mapping[str, Sequence[int]]) -> tuple[int, bool]:
    """Say how many rows a head has, and whether rows are stacked in it at all.

    Numbers on one axis are a row's, unless every observation has rows and as many of them: then each row has one.
    """
    if found.ndim > 1:
        return found.shape[0], True
    sizes = [declared[name] for name in reading.observations]
    if found.ndim == 1 and all(len(one) > 1 and one[0] == found.size for one in sizes):
        return found.size, True
    return 1, False


def _width(found: NDArray[np.generic], count: int, *, single: bool) -> int:
    """Give how many numbers a row of an output has; a std that is the same for all rows comes once."""
    return found.size // count if (found.ndim > 1 or single) and found.shape[:1] == (count,) else found.size


def _axes(found: NDArray[np.generic], width: int) -> tuple[int, ...]:
    """Give the axes of a row of an output that has so many numbers, without those of length 1."""
    row = found.shape if found.size == width else found.shape[1:]
    return tuple(size for size in row if size > 1)


def open_axes(original: Original) -> dict[str, int | None]:
    """Say of every input which axis is declared open, None where none is; raises AdoptionRefused for several."""
    return {name: _open_axis(name, original.dims(name)) for name in original.inputs}


def _open_axis(name: str, sizes: Sequence[int | None]) -> int | None:
    """Say which axis is declared open, the first or second; None where none is."""
    axes = [at for at, size in enumerate(sizes) if size is None]
    if not sizes or len(axes) > 1 or axes[:1] > [1]:
        shown = ", ".join("?" if size is None else str(size) for size in sizes)
        msg = (
            f"the input {name!r} is declared [{shown}] (? is open), expected one open axis at most, the first or the "
            "second: the one that rows are on; export it with all others fixed"
        )
        raise AdoptionRefused(msg)
    return axes[0] if axes else None


def _at_once(
    slots: Mapping[str, Slot],
    dims: Mapping[str, list[int | None]],
    trial: Trial,
    pieces: Sequence[str],
    count: int,
) -> int | None:
    """Say how many rows the file takes at once: any, if it says so and does so."""
    if any(slot.axis is None or dims[name][slot.axis] is not None for name, slot in slots.items()):
        return count
    for size in _SIZES:
        blank = {name: slot.feed(np.zeros((size, *slot.shape))) for name, slot in slots.items()}
        try:
            found = trial.run(blank, pieces)
        except AdoptionRefused:
            return count
        if any(found[name].shape[:1] != (size,) for name in pieces):
            return count
    return None
