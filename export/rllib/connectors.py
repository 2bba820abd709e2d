"""What RLlib does around a module: connectors between environment and module, as the checkpoint lists them."""

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.archive import array_of, read_member
from export.errors import CheckpointRefused
from export.inert import Named, read_inert
from export.inert_arrays import kind_of, mapping_of, number_of

_CAP = 16 * 1024 * 1024
# Pieces that move data around and change no number of an observation or an action.
_PLAIN = frozenset(
    "AddObservationsFromEpisodesToBatch AddTimeDimToBatchAndZeroPad AddStatesFromEpisodesToBatch BatchIndividualItems "
    "NumpyToTensor GetActions TensorToNumpy UnBatchToIndividualItems RemoveSingleTsTimeRankFromBatch "
    "ListifyDataForVectorEnv".split()
)
# What RLlib's MeanStdFilter adds to the deviation.
_SMALL = 1e-6


@dataclass(frozen=True, slots=True)
class MeanStd:
    """A MeanStdFilter: clip((obs - mean) / std, -clip, clip), with what RLlib adds to the deviation already in it."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    clip: float


@dataclass(frozen=True, slots=True)
class Connectors:
    """What happens to observations before the module and to actions after it.

    ``normalised`` says that an action's numbers run from -1 to 1 and are scaled to the bounds, ``clipped`` that they
    are only clipped; ``assumed`` that the checkpoint is a module alone, so that these are RLlib's defaults.
    """

    mean_std: MeanStd | None = None
    normalised: bool = True
    clipped: bool = False
    assumed: bool = True


def read_connectors(algorithm: Path | None) -> Connectors:
    """Read the connectors of an algorithm's folder; raises CheckpointRefused for one that is not known."""
    if algorithm is None:
        return Connectors()
    runner = algorithm / "env_runner"
    mean_std = None
    for name, _ in _pieces(runner / "env_to_module_connector"):
        if name == "MeanStdFilter":
            mean_std = _mean_std(runner / "env_to_module_connector" / name / "state.pkl")
        elif name not in _PLAIN:
            _refuse(name, "changes observations before the module sees them")
    normalised = clipped = False
    for name, settings in _pieces(runner / "module_to_env_connector"):
        if name == "NormalizeAndClipActions":
            normalised, clipped = settings.get("normalize_actions") is True, settings.get("clip_actions") is True
        elif name not in _PLAIN:
            _refuse(name, "changes actions after the module gave them")
    return Connectors(mean_std=mean_std, normalised=normalised, clipped=clipped, assumed=False)


def _refuse(name: str, effect: str) -> None:
    msg = f"the checkpoint has the connector {name}, which {effect}, expected RLlib's own ones"
    raise CheckpointRefused(msg)


def _pieces(folder: Path) -> list[tuple[str, Mapping[object, object]]]:
    """List the pieces of a pipeline in order, each with the name of its class and its settings."""
    what = f"{folder.name}/class_and_ctor_args.pkl"
    written = mapping_of(read_inert(read_member(folder / "class_and_ctor_args.pkl", _CAP), what), what)
    arguments = written.get("ctor_args_and_kwargs")
    kwargs = mapping_of(arguments[1], what) if isinstance(arguments, tuple) and len(arguments) == 2 else {}
    listed = kwargs.get("connectors")
    if not isinstance(listed, list):
        msg = f"{what} lists no connectors, expected those of a pipeline"
        raise CheckpointRefused(msg)
    pieces: list[tuple[str, Mapping[object, object]]] = []
    for piece in listed:
        if not isinstance(piece, tuple) or len(piece) != 3 or not isinstance(piece[0], Named):
            msg = f"{what} has {kind_of(piece)} as a connector, expected its class and settings"
            raise CheckpointRefused(msg)
        named = piece[0].name if piece[0].module.startswith("ray.rllib.connectors.") else str(piece[0])
        pieces.append((named, mapping_of(piece[2], what)))
    return pieces


def _mean_std(path: Path) -> MeanStd:
    what = "the MeanStdFilter"
    agents = mapping_of(read_inert(read_member(path, _CAP), what), what)
    state = mapping_of(agents.get(None), what)
    running = state.get("running_stats")
    if not isinstance(running, list) or len(running) != 1:
        msg = f"{what} has statistics of several observations, expected those of one"
        raise CheckpointRefused(msg)
    stats = mapping_of(running[0], what)
    mean = _unpacked(stats.get("mean_array"), f"{what}: mean_array")
    squares = _unpacked(stats.get("sum_sq_diff_array"), f"{what}: sum_sq_diff_array")
    pushes = number_of(stats.get("num_pushes"), f"{what}: num_pushes")
    if mean.shape != squares.shape or not (np.isfinite(mean).all() and np.isfinite(squares).all() and pushes >= 0):
        msg = f"{what} has statistics that are not finite or of different shapes, expected a mean and a deviation"
        raise CheckpointRefused(msg)
    # RLlib rounds the variance to float32.
    var = (squares / (pushes - 1)).astype(np.float32) if pushes > 1 else np.zeros_like(mean, dtype=np.float32)
    std = np.sqrt(np.maximum(0, var)).astype(np.float64) + _SMALL
    clip = state.get("clip_by_value")
    return MeanStd(
        mean=mean if state.get("de_mean_to_zero") is True else np.zeros_like(mean),
        std=std if state.get("de_std_to_one") is True else np.ones_like(std),
        clip=number_of(clip, f"{what}: clip_by_value") if clip else float("inf"),
    )


def _unpacked(value: object, what: str) -> NDArray[np.float64]:
    """Read an array that RLlib wrote as text: Base64 of a deflated ``.npy``."""
    if not isinstance(value, str):
        msg = f"{what} is {kind_of(value)}, expected a text"
        raise CheckpointRefused(msg)
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(value, validate=True), _CAP)
    except (binascii.Error, ValueError, zlib.error) as error:
        msg = f"{what} cannot be read as a packed array ({type(error).__name__})"
        raise CheckpointRefused(msg) from error
    if inflater.unconsumed_tail or not inflater.eof:
        msg = f"{what} unpacks to more than {_CAP} bytes or ends early"
        raise CheckpointRefused(msg)
    return np.asarray(array_of(data, what), dtype=np.float64)
