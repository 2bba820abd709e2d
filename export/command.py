"""The export itself, from the options of the command line to the lines that it prints."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from export.archive import read_capped
from export.declaration import read_declaration
from export.errors import CheckpointRefused, OptionInvalid
from export.naming import Names, named
from export.observations import read_recorded
from export.sources import read
from export.spec import Evaluation
from export.trained import About
from export.write import STEPS, write

_CAP = 1024 * 1024
_LARGEST_TOLERANCE = 1e-2


def export(options: argparse.Namespace) -> Iterator[str]:
    """Export a checkpoint as the options say; gives the lines to print.

    Raises an ExportError where nothing could be written.
    """
    about = _about(options)
    if not 0 < options.tolerance <= _LARGEST_TOLERANCE:
        msg = f"--tolerance is {options.tolerance:g}, expected more than 0 and at most {_LARGEST_TOLERANCE:g}"
        raise OptionInvalid(msg)
    beside = _statistics_beside(options.checkpoint)
    if beside and not options.ignore_normalisation:
        msg = (
            f"{beside[0].name} lies beside the checkpoint: the policy was trained on normalised observations, which "
            "cannot be put into the graph yet. If this policy was not, say --ignore-normalisation"
        )
        raise CheckpointRefused(msg)
    declaration = read_declaration(options.declare) if options.declare is not None else None
    with tqdm(total=len(STEPS) + 1, disable=not sys.stderr.isatty(), leave=False, bar_format="{l_bar}{bar}") as bar:

        def step(name: str) -> None:
            bar.set_description(name)
            bar.update()

        bar.set_description("read")
        policy = named(read(options.checkpoint, declaration), _names(options))
        seen = read_recorded(options.observations, policy.observation) if options.observations is not None else None
        artefact = write(policy, options.output, about, recorded=seen, tolerance=options.tolerance, step=step)
    parity = artefact.manifest.parity
    if policy.set_aside:
        yield f"set aside: {len(policy.set_aside)} tensors that no action depends on ({_prefixes(policy.set_aside)})"
    yield (
        f"parity: {parity.observations} observations, {parity.action_agreement * 100:g} % the same action, "
        f"largest error {parity.max_scaled_error:.2g} of the scale"
    )
    yield f"{options.output}: {len(artefact.data)} bytes, sha256 {artefact.digest}"


def _prefixes(names: tuple[str, ...]) -> str:
    """Name tensors by what stands before the number of their layer."""
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names))


def _statistics_beside(checkpoint: Path) -> list[Path]:
    """Find SB3's VecNormalize statistics: a policy trained with them answers wrongly without."""
    beside = (checkpoint.with_suffix(".vecnormalize.pkl"), checkpoint.with_name("vecnormalize.pkl"))
    return [path for path in beside if checkpoint.suffix == ".zip" and path.exists()]


def _names(options: argparse.Namespace) -> Names:
    return Names(fields=options.names, units=options.units, low=options.low, high=options.high, actions=options.actions)


def _about(options: argparse.Namespace) -> About:
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
