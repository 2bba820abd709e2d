"""The commands that only read artefacts: ``actd-export verify`` and ``show``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.card import card, card_json
from export.errors import OptionInvalid
from export.signing_command import signature_check, signed_by
from export.spec.artefact import open_artefact
from export.verify import verify


def verify_file(words: Sequence[str]) -> int:
    """Check an artefact as a server will, and who signed it where that is asked; gives 1 where it fails."""
    parser = argparse.ArgumentParser("actd-export verify", description="Check an artefact as a server will.")
    parser.add_argument("file", type=Path, metavar="FILE")
    _add_keys(parser)
    options = parser.parse_args(words)
    data = _bytes(options.file)
    checks = list(verify(data).checks)
    if options.key:
        checks.append(signature_check(options.file, data, options.key))
    for check in checks:
        _print(f"{'OK    ' if check.passed else 'FAILED'} {check.name}: {check.found}")
    passed = all(check.passed for check in checks)
    _print("OK" if passed else "FAILED")
    return 0 if passed else 1


def show_file(words: Sequence[str]) -> int:
    """Show what an artefact says about itself and who signed it, as a page or as JSON."""
    parser = argparse.ArgumentParser("actd-export show", description="Show what an artefact says about itself.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="the card as JSON")
    _add_keys(parser)
    options = parser.parse_args(words)
    data = _bytes(options.file)
    artefact = open_artefact(data)
    signed = signed_by(options.file, data, options.key)
    _print(card_json(artefact, signed) if options.json else card(artefact, signed))
    return 0


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key", type=Path, action="append", default=[], metavar="KEY.pub", help="who may have signed it; several times"
    )


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise OptionInvalid(msg) from error
