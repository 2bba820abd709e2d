"""The command ``actd-export``: write an artefact from a checkpoint, verify one, show one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.card import card, card_json
from export.errors import ExportError, OptionInvalid
from export.spec import ArtefactError, open_artefact
from export.verify import verify

_USAGE = """actd-export CHECKPOINT -o NAME-VERSION.onnx [options]
       actd-export verify FILE
       actd-export show [--json] FILE"""
_WHAT = "Write a policy as one verified file, verify such a file, or show what it says about itself."
_CHECKPOINTS = """CHECKPOINT is a Stable-Baselines3 zip (DQN, PPO, A2C, TRPO with discrete actions), a Q-table
(.npy, states x actions), or a PyTorch state dict (.pt, .pth) with --declare. Nothing in it is ever unpickled."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives 0, 1 where the file or checkpoint is at fault, 2 where the command line is."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = {"verify": _verify, "show": _show}.get(words[0] if words else "")
    try:
        return command(words[1:]) if command is not None else _export(words)
    except OptionInvalid as error:
        return _complain(error, 2)
    except (ExportError, ArtefactError) as error:
        return _complain(error, 1)


def _complain(error: Exception, code: int) -> int:
    print(f"actd-export: {error}", file=sys.stderr)
    return code


def _export(words: Sequence[str]) -> int:
    options = _parser().parse_args(words)
    try:
        # Torch takes seconds to load, and where artefacts are only verified and shown it is not there at all.
        from export.command import export  # noqa: PLC0415
    except ModuleNotFoundError as error:
        msg = f"exporting needs the package {error.name!r}, expected it installed: pip install 'actd[export]'"
        raise OptionInvalid(msg) from error
    for line in export(options):
        print(line)
    return 0


def _verify(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("actd-export verify", description="Check an artefact as a server will.")
    parser.add_argument("file", type=Path, metavar="FILE")
    report = verify(_bytes(parser.parse_args(words).file))
    for check in report.checks:
        print(f"{'OK    ' if check.passed else 'FAILED'} {check.name}: {check.found}")
    print("OK" if report.passed else "FAILED")
    return 0 if report.passed else 1


def _show(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("actd-export show", description="Show what an artefact says about itself.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="the card as JSON")
    options = parser.parse_args(words)
    artefact = open_artefact(_bytes(options.file))
    print(card_json(artefact) if options.json else card(artefact))
    return 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise OptionInvalid(msg) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("actd-export", usage=_USAGE, description=_WHAT, epilog=_CHECKPOINTS)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT")
    add("-o", "--output", type=Path, required=True, metavar="NAME-VERSION.onnx", help="the file to write")
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
    known(
        "--ignore-normalisation",
        action="store_true",
        help="export although a vecnormalize.pkl lies beside the checkpoint",
    )
    for key in ("description", "author", "license", "date", "notes"):
        known(f"--{key}", default="", metavar="TEXT")
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
