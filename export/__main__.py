"""The command ``actd-export``: write an artefact from a checkpoint, and verify, show or sign one."""

import argparse
import difflib
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from export.errors import ExportError, OptionInvalid
from export.spec.errors import ArtefactError
from export.spec.extras import install

_USAGE = """actd-export CHECKPOINT [CHECKPOINT ...] -o NAME-VERSION.onnx [options]
       actd-export FILE.onnx -o NAME-VERSION.onnx --quantize int8 | --distill W,W,...
       actd-export adopt FILE.onnx -o NAME-VERSION.onnx [options]
       actd-export verify FILE [--key KEY.pub]
       actd-export show FILE [--json] [--key KEY.pub]
       actd-export keygen -o KEY
       actd-export sign FILE --key KEY"""
_WHAT = "Write a policy as one verified file, verify such a file, show what it says about itself, or sign it."
_CHECKPOINTS = """CHECKPOINT is what Stable-Baselines3 or sb3-contrib saved (.zip), a folder of RLlib's, a Q-table
(.npy, .npz or .pkl: an array of states x actions, or a dict by state), or, with --declare, tensors (.pt, .pth,
.cleanrl_model, .safetensors, .pkl) or TorchScript (.pt). Nothing in it is unpickled, but with --trust, and then in a
process that can reach nothing. docs/export.md has more."""


# What the first word asks for where it is no checkpoint: a module and a function in it.
_VERBS = {
    "verify": ("export.reading_command", "verify_file"),
    "show": ("export.reading_command", "show_file"),
    "keygen": ("export.signing_command", "keygen"),
    "sign": ("export.signing_command", "sign_file"),
    "adopt": ("export.adopt.command", "run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives 0, 1 where the file or checkpoint is at fault, 2 where the command line is."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = _VERBS.get(words[0] if words else "")
    try:
        return _verb(*verb)(words[1:]) if verb is not None else _export(words)
    except OptionInvalid as error:
        return _complain(error, 2)
    except (ExportError, ArtefactError) as error:
        return _complain(error, 1)
    except Exception as error:  # noqa: BLE001 - the last resort: people get a sentence, and where to look
        return _complain(_unforeseen(error), 1)


def _unforeseen(error: Exception) -> ExportError:
    """Put what nobody foresaw into a sentence, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = (str(error).strip() or "it says no more").splitlines()[0][:300]
    return ExportError(
        f"nothing was written: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {reason}; "
        "this is a fault of actd-export itself, expected a sentence of its own: please report it"
    )


def _complain(error: Exception, code: int) -> int:
    print(f"actd-export: {error}", file=sys.stderr)
    return code


def _export(words: Sequence[str]) -> int:
    _refuse_unknown_verb(words)
    parser = _parser()
    options = parser.parse_args(words)
    made = options.quantize is not None or options.distill is not None
    if not made:
        _refuse_onnx(options)
    if options.output is None:
        parser.error("the following arguments are required: -o/--output")
    try:
        # Torch takes seconds to load, and where artefacts are only verified and shown it is not there at all.
        from export.command import about_of, export  # noqa: PLC0415
        from export.variant_command import variant  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    for line in variant(options, about_of(options)) if made else export(options):
        print(line)
    return 0


def _refuse_unknown_verb(words: Sequence[str]) -> None:
    """Refuse a first word that can be no checkpoint, because it has no ending and is no folder: it was to be a verb."""
    word = words[0] if words else "-"
    if word.startswith("-") or Path(word).suffix or os.path.exists(word):  # noqa: PTH110 - of any length
        return
    near = difflib.get_close_matches(word.casefold(), _VERBS, 1)
    known = f"did you mean {near[0]!r}?" if near else f"expected a checkpoint, or one of {', '.join(_VERBS)}"
    msg = f"{word!r} is neither a file nor a verb: {known}"
    raise OptionInvalid(msg)


def _refuse_onnx(options: argparse.Namespace) -> None:
    """Refuse an ONNX file that is exported as a checkpoint would be, with the commands that take one."""
    for path in options.checkpoint:
        if path.suffix.lower() == ".onnx":
            file, output = (shlex.quote(str(name or "NAME-VERSION.onnx")) for name in (path, options.output))
            msg = (
                f"{path} is an ONNX file, which is adopted: actd-export adopt {file} -o {output} (a faster variant of "
                "an artefact needs --quantize or --distill)"
            )
            raise OptionInvalid(msg)


def _verb(module: str, function: str) -> Callable[[Sequence[str]], int]:
    """Find a verb's function: each loads what it needs and no more."""
    try:
        found: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return found


def _missing(error: ModuleNotFoundError) -> OptionInvalid:
    return OptionInvalid(f"this needs the package {error.name!r}, expected it installed: {install('export')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("actd-export", usage=_USAGE, description=_WHAT, epilog=_CHECKPOINTS)
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="+", metavar="CHECKPOINT", help="several become one: an ensemble")
    add("-o", "--output", type=Path, metavar="NAME-VERSION.onnx", help="the file to write")
    add("--name", help="the policy's name (else from the file's)")
    add("--version", help="the policy's version (else from the file's, after the last '-')")
    spaces = parser.add_argument_group("spaces, in the network's order").add_argument
    spaces("--names", type=_words, metavar="A,B,...", help="names of the observation's fields")
    spaces("--units", type=_words, metavar="A,B,...", help="their units; may be empty between the commas")
    spaces("--low", type=_words, metavar="X,Y,...", help="lower bounds; - for none (write --low=-1,-)")
    spaces("--high", type=_words, metavar="X,Y,...", help="upper bounds; - for none")
    spaces("--actions", type=_words, metavar="A,B,...", help="names of the actions")
    spaces("--declare", type=Path, metavar="FILE.toml", help="spaces and network of a plain state dict")
    known = parser.add_argument_group("what is known about the policy").add_argument
    known("--observations", type=Path, metavar="FILE.npy", help="recorded observations (.npy, .npz): statistics")
    known("--evaluation", type=Path, metavar="FILE.json", help="results in the form of Hugging Face's results.json")
    known("--control-period", type=float, metavar="SECONDS", help="the time from one decision to the next")
    known("--tolerance", type=float, default=1e-5, metavar="X", help="error allowed, at the head's scale (%(default)g)")
    known("--normalisation", type=Path, metavar="FILE.pkl", help="VecNormalize statistics (else those beside it)")
    known("--ignore-normalisation", action="store_true", help="leave out statistics that lie beside the checkpoint")
    known("--ignore-config", action="store_true", help="callers do what RL Zoo's config.yml beside it says was done")
    known("--trust", action="store_true", help="unpickle what has to be, in a confined process")
    known("--cvar", type=float, metavar="ALPHA", help="of a distribution of returns, the mean of the worst share ALPHA")
    _table_options(parser)
    _wrapper_options(parser)
    faster = parser.add_argument_group("a faster variant of an artefact (CHECKPOINT is FILE.onnx)").add_argument
    faster("--quantize", choices=["int8"], help="weights and activations of eight bits; needs --observations")
    faster("--distill", type=_words, metavar="W,W,...", help="train layers of these widths to answer alike")
    faster(
        "--floor", type=float, default=0.99, metavar="SHARE", help="of observations with the same action (%(default)g)"
    )
    faster("--env", metavar="ID", help="play both in this Gymnasium environment too")
    faster("--episodes", type=int, default=20, metavar="N", help="episodes to play (%(default)d)")
    for key in ("description", "author", "license", "date", "notes"):
        known(f"--{key}", default="", metavar="TEXT")
    return parser


def _wrapper_options(parser: argparse.ArgumentParser) -> None:
    kept = parser.add_argument_group("what the training wrappers kept of an episode").add_argument
    kept("--frame-stack", type=int, metavar="FRAMES", help="the network sees so many frames; callers send one")
    kept("--frame-padding", choices=["zero", "first"], default="zero", help="before the first frame (%(default)s)")
    kept("--frame-axis", type=_words, metavar="AXIS", help="they are stacked on the first or last axis (KEY=first,...)")
    kept("--channels-last", action="store_true", help="callers send images as [height, width, channels]")
    kept("--time-feature", type=int, metavar="STEPS", help="the last field is the share of STEPS that is left")


def _table_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a Q-table").add_argument
    add("--table-axes", type=_sizes, metavar="N,N,...", help="how many states each axis has, where the file is flat")
    add("--table-key", default="", metavar="NAME", help="where in the file the table is, where it has several")
    add("--table-missing", type=float, metavar="X", help="the value of every action in states that a dict lacks")


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(word) for word in text.split(","))
    if min(sizes) < 1:
        raise ValueError(text)
    return sizes


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
