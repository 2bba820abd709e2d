"""The verb ``actd-export adopt``: an artefact from a bare ONNX file, and what people say because the file does not."""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from export.adopt.adoption import adopt
from export.adopt.reading import HEAD_WORDS, Said
from export.archive import read_capped
from export.command import about_of
from export.errors import OptionInvalid
from export.meaning import Meaning
from export.naming import Names, named
from export.observations import read_recorded
from export.spec.artefact import SIZE_CAP
from export.write import finish, place

_CAP = 1024 * 1024
_LARGEST_TOLERANCE = 1e-2
_WHAT = """Adopt an ONNX file of Unity ML-Agents, Godot RL, rsl_rl (Isaac Lab), mujoco_playground, unitree_rl_lab or any
other exporter: its inputs and outputs are probed and matched to a head, and the result is compared with the file."""


def run(words: Sequence[str]) -> int:
    """Adopt a file as the words of the command line say; gives 0, or raises an ExportError and writes nothing."""
    for line in adopt_file(_parser().parse_args(words)):
        sys.stdout.write(f"{line}\n")
    return 0


def adopt_file(options: argparse.Namespace) -> Iterator[str]:
    """Adopt a file as the options say; gives the lines to print."""
    about = about_of(options)
    if not 0 < options.tolerance <= _LARGEST_TOLERANCE:
        msg = f"--tolerance is {options.tolerance:g}, expected more than 0 and at most {_LARGEST_TOLERANCE:g}"
        raise OptionInvalid(msg)

    def rename(meaning: Meaning) -> Meaning:
        return named(meaning, Names(options.names, options.units, options.low, options.high, options.actions))

    deploy = read_capped(options.deploy, _CAP) if options.deploy is not None else None
    adoption = adopt(read_capped(options.file, SIZE_CAP), _said(options), deploy=deploy, rename=rename)
    if about.control_period_s is None:
        about = replace(about, control_period_s=adoption.period_s)
    seen = read_recorded(options.observations, adoption.meaning) if options.observations is not None else None
    doubts: list[str] = []
    artefact = finish(
        adoption.meaning,
        adoption.model,
        adoption.answers,
        about,
        answers_name=adoption.answers_name,
        recorded=seen,
        tolerance=options.tolerance,
        tell=doubts.append,
    )
    place(options.output, artefact.data)
    meaning, parity = adoption.meaning, artefact.manifest.parity
    given = ", ".join(f"{port.name} {list(port.shape)}" for port in meaning.inputs)
    yield f"read as {meaning.source.library}: {given} -> {meaning.head} [{meaning.action.width}]"
    yield from doubts
    yield (
        f"parity: {parity.observations} observations, {parity.action_agreement * 100:g} % the same action, "
        f"largest error {parity.max_scaled_error:.2g} of the scale"
    )
    yield f"{options.output}: {len(artefact.data)} bytes, sha256 {artefact.digest}"


def _said(options: argparse.Namespace) -> Said:
    return Said(
        head=options.head,
        squash=options.squash,
        observations=tuple(options.obs or ()),
        outputs=tuple(options.output_name or ()),
        sizes=tuple(_size(word) for word in options.factors or ()),
        actions=tuple(options.actions or ()),
        action_low=_bounds(options.action_low, "--action-low"),
        action_high=_bounds(options.action_high, "--action-high"),
        constant=tuple(options.constant or ()),
        memory=tuple(_pair(word) for word in options.memory or ()),
    )


def _pair(word: str) -> tuple[str, str]:
    source, equals, result = (part.strip() for part in word.partition("="))
    if not (source and equals and result):
        msg = f"--memory has {word!r}, expected INPUT=OUTPUT"
        raise OptionInvalid(msg)
    return source, result


def _bounds(words: list[str] | None, option: str) -> tuple[float | None, ...]:
    """Read bounds; ``-`` and infinities mean that there is none."""
    try:
        values = [math.inf if word in ("", "-") else float(word) for word in words or ()]
    except ValueError as error:
        msg = f"{option} is {','.join(words or ())}, expected numbers, with - where there is no bound"
        raise OptionInvalid(msg) from error
    if any(math.isnan(value) for value in values):
        msg = f"{option} has nan in it, expected numbers"
        raise OptionInvalid(msg)
    return tuple(None if math.isinf(value) else value for value in values)


def _size(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 65536:
        msg = f"--factors has {word!r}, expected whole numbers above 0"
        raise OptionInvalid(msg)
    return int(word)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("actd-export adopt", description=_WHAT)
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.onnx")
    add("-o", "--output", type=Path, required=True, metavar="NAME-VERSION.onnx", help="the file to write")
    add("--name", help="the policy's name (else from the file's)")
    add("--version", help="the policy's version (else from the file's, after the last '-')")
    tensors = parser.add_argument_group("what the tensors are, where nothing in the file tells").add_argument
    tensors("--head", choices=tuple(HEAD_WORDS), help="what the output holds")
    tensors(
        "--squash", choices=("none", "tanh"), help="tanh: the mean is before it, and between the action's bounds after"
    )
    tensors("--obs", type=_words, metavar="A,B,...", help="the inputs that are observations")
    tensors("--output-name", type=_words, action="extend", metavar="A,B,...", help="the outputs that are the head")
    tensors("--memory", type=_words, metavar="IN=OUT,...", help="inputs that take what an output gave the step before")
    tensors("--deploy", type=Path, metavar="deploy.yaml", help="scale, clip and history around it (unitree_rl_lab)")
    spaces = parser.add_argument_group("spaces, in the network's order").add_argument
    spaces("--names", type=_words, metavar="A,B,...", help="names of the observation's fields")
    spaces("--units", type=_words, metavar="A,B,...", help="their units; may be empty between the commas")
    spaces("--low", type=_words, metavar="X,Y,...", help="lower bounds; - for none (write --low=-1,-)")
    spaces("--high", type=_words, metavar="X,Y,...", help="upper bounds; - for none")
    spaces("--actions", type=_words, metavar="A,B,...", help="names of the actions, or of an action's numbers")
    spaces("--factors", type=_words, metavar="N,M,...", help="sizes of the choices that are made at once")
    spaces("--action-low", type=_words, metavar="X,Y,...", help="an action's lower bounds; one stands for all")
    spaces("--action-high", type=_words, metavar="X,Y,...", help="an action's upper bounds; one stands for all")
    spaces("--constant", type=_words, metavar="A,B,...", help="an action's numbers that never change")
    known = parser.add_argument_group("what is known about the policy").add_argument
    known("--observations", type=Path, metavar="FILE.npy", help="recorded observations (.npy, .npz): statistics")
    known("--evaluation", type=Path, metavar="FILE.json", help="results in the form of Hugging Face's results.json")
    known("--control-period", type=float, metavar="SECONDS", help="the time from one decision to the next")
    known("--tolerance", type=float, default=1e-5, metavar="X", help="error allowed, at the head's scale (%(default)g)")
    for key in ("description", "author", "license", "date", "notes"):
        known(f"--{key}", default="", metavar="TEXT")
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
