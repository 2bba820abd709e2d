"""The command for faster variants: an artefact in, a smaller one out, and both side by side."""

import argparse
from collections.abc import Iterator

from export.archive import read_capped
from export.distill import distilled
from export.errors import OptionInvalid
from export.meaning import About
from export.mother import Mother, asked, beside, mother_of
from export.observations import read_recorded
from export.playing import mean_return
from export.quantize import quantized
from export.spec import Recorded
from export.spec.artefact import Artefact
from export.write import place

_MOST_LAYERS = 8


def variant(options: argparse.Namespace, about: About) -> Iterator[str]:
    """Make the variant that the options ask for; gives the lines to print.

    Raises an ExportError or an ArtefactError where nothing could be written.
    """
    mother = mother_of(read_capped(options.checkpoint[0]))
    seen = read_recorded(options.observations, mother.meaning) if options.observations is not None else None
    made = _made(options, mother, about, seen)
    place(options.output, made.data)
    yield from beside(mother, made, asked(mother, seen).inputs)
    if options.env is not None:
        for name, policy in (("mother", mother.artefact), ("variant", made)):
            mean, deviation = mean_return(options.env, policy, options.episodes)
            played = f"{options.episodes} episodes of {options.env}"
            yield f"return of the {name}: {mean:.2f} +/- {deviation:.2f} over {played}"
    yield f"{options.output}: {len(made.data)} bytes, sha256 {made.digest}"


def _made(options: argparse.Namespace, mother: Mother, about: About, seen: Recorded | None) -> Artefact:
    if options.quantize is not None:
        if seen is None:
            msg = "--quantize needs --observations: what the policy saw fixes the scales and is what it is judged on"
            raise OptionInvalid(msg)
        return quantized(mother, about, seen, options.floor)
    return distilled(mother, about, _widths(options.distill), seen, options.floor)


def _widths(words: list[str]) -> list[int]:
    try:
        widths = [int(word) for word in words]
    except ValueError:
        widths = []
    if not 1 <= len(widths) <= _MOST_LAYERS or not all(1 <= width <= 65536 for width in widths):
        msg = f"--distill is {','.join(words)!r}, expected the widths of one to {_MOST_LAYERS} layers, as in 64,64"
        raise OptionInvalid(msg)
    return widths
