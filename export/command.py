"""The export itself, from the options of the command line to the lines that it prints."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from export.archive import read_capped
from export.card import behaviour_said
from export.channels import channels_last, refuse_last
from export.declaration import read_declaration
from export.ensemble import ensemble
from export.errors import CheckpointRefused, OptionInvalid
from export.frames import axes_of
from export.meaning import About
from export.naming import Names, named
from export.observations import read_recorded
from export.remembered import is_of_frames, stacked, timed
from export.sb3 import Told, Wrapped, read_normaliser, wrapped
from export.sources import Asked, read
from export.spec import Evaluation
from export.tables import TableAsked
from export.trained import TrainedPolicy
from export.write import STEPS, build, write

_CAP = 1024 * 1024
_LARGEST_TOLERANCE = 1e-2


def export(options: argparse.Namespace) -> Iterator[str]:
    """Export a checkpoint, or several as an ensemble, as the options say; gives the lines to print.

    Raises an ExportError where nothing could be written.
    """
    about = about_of(options)
    if not 0 < options.tolerance <= _LARGEST_TOLERANCE:
        msg = f"--tolerance is {options.tolerance:g}, expected more than 0 and at most {_LARGEST_TOLERANCE:g}"
        raise OptionInvalid(msg)
    with tqdm(total=len(STEPS) + 1, disable=not sys.stderr.isatty(), leave=False, bar_format="{l_bar}{bar}") as bar:

        def step(name: str) -> None:
            bar.set_description(name)
            bar.update()

        bar.set_description("read")
        policy, lines = _policy(options, about)
        doubts: list[str] = []
        seen = read_recorded(options.observations, policy) if options.observations is not None else None
        artefact = write(
            policy,
            options.output,
            about,
            recorded=seen,
            tolerance=options.tolerance,
            step=step,
            tell=doubts.append,
        )
    parity = artefact.manifest.parity
    yield from lines
    if policy.set_aside:
        yield f"set aside: {len(policy.set_aside)} tensors that no action depends on ({_prefixes(policy.set_aside)})"
    yield from (*policy.remarks, *doubts)
    recorded = f", {parity.recorded} of them with recorded actions" if parity.recorded else ""
    yield (
        f"parity: {parity.observations} observations{recorded}, {parity.action_agreement * 100:g} % the same action, "
        f"largest error {parity.max_scaled_error:.2g} of the scale, {parity.reference}"
    )
    if said := behaviour_said(artefact.manifest):
        yield f"behaviour: {said}"
    yield f"{options.output}: {len(artefact.data)} bytes, sha256 {artefact.digest}"


def _policy(options: argparse.Namespace, about: About) -> tuple[TrainedPolicy, list[str]]:
    """Read what is asked for, with the names and the memory that the options say; lines tell what was found with it."""
    declaration = read_declaration(options.declare) if options.declare is not None else None
    members, lines = [], []
    for path in options.checkpoint:
        around = _around(options, path)
        lines += [line if len(options.checkpoint) == 1 else f"{path}: {line}" for line in around.lines]
        asked = Asked(
            path,
            declaration,
            normalisation=around.statistics,
            normalisation_name=around.name,
            cvar=options.cvar,
            trust=options.trust,
            table=TableAsked(options.table_axes or (), options.table_key, options.table_missing),
        )
        member = named(_as_called(asked, options), _names(options))
        if len(options.checkpoint) > 1:
            # The ensemble is compared with its members' networks; each of them, here, with its own library.
            build(member, about, tolerance=options.tolerance)
        members.append(member)
    return members[0] if len(members) == 1 else ensemble(members), lines


def _as_called(asked: Asked, options: argparse.Namespace) -> TrainedPolicy:
    """Read a policy and have it take what callers have: one frame, no time feature, channels where theirs are."""
    frames = options.frame_stack
    of_frame = None
    if frames is not None and asked.normalisation is not None:
        normaliser, plain = read_normaliser(asked.normalisation), replace(asked, normalisation=None)
        # VecNormalize below VecFrameStack has the statistics of one frame, and zeros stand for normalised frames.
        if is_of_frames(normaliser, read(plain), frames):
            asked, of_frame = plain, normaliser
    policy = read(asked)
    if frames is None and options.frame_axis is not None:
        msg = f"--frame-axis is {','.join(options.frame_axis)}, expected --frame-stack FRAMES with it"
        raise OptionInvalid(msg)
    if frames is not None:
        axes, whole = axes_of(options.frame_axis or ()), policy
        policy = stacked(policy, frames, options.frame_padding, axes=axes, of_frame=of_frame)
        if options.channels_last:
            refuse_last(whole, policy)
    if options.time_feature is not None:
        policy = timed(policy, options.time_feature)
    return channels_last(policy) if options.channels_last else policy


def _prefixes(names: tuple[str, ...]) -> str:
    """Name tensors by what stands before the number of their layer."""
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names))


def _around(options: argparse.Namespace, checkpoint: Path) -> Wrapped:
    """Find SB3's VecNormalize statistics: a policy trained with them answers wrongly without."""
    if checkpoint.suffix.lower() != ".zip":
        return Wrapped(read_capped(options.normalisation) if options.normalisation is not None else None)
    told = Told(
        normalisation=options.normalisation,
        ignore_normalisation=options.ignore_normalisation,
        ignore_config=options.ignore_config,
        frames=options.frame_stack,
        time_feature=options.time_feature,
    )
    return wrapped(checkpoint, told)


def _names(options: argparse.Namespace) -> Names:
    return Names(fields=options.names, units=options.units, low=options.low, high=options.high, actions=options.actions)


def about_of(options: argparse.Namespace) -> About:
    """Gather what the options say about the policy; raises OptionInvalid where it has no name or version."""
    name, version = options.name, options.version
    stem_name, dash, stem_version = options.output.stem.rpartition("-")
    if options.output.suffix != ".onnx":
        msg = f"-o is {options.output.name!r}, expected a file that ends in .onnx"
        raise OptionInvalid(msg)
    if (not name or not version) and not (dash and stem_name and stem_version):
        msg = f"-o is {options.output.name!r}, expected NAME-VERSION.onnx, or --name and --version besides"
        raise OptionInvalid(msg)
    return About(
        name=name or stem_name,
        version=version or stem_version,
        author=options.author,
        license=options.license,
        description=options.description,
        date=options.date,
        notes=options.notes,
        control_period_s=options.control_period,
        evaluation=_evaluation(options.evaluation) if options.evaluation is not None else None,
    )


def _evaluation(path: Path) -> Evaluation:
    try:
        return Evaluation.model_validate_json(read_capped(path, _CAP))
    except CheckpointRefused as error:
        raise OptionInvalid(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise OptionInvalid(msg) from error
