"""The normalisation statistics beside a zip: which of the files around it are its own, and which could be."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from export.archive import read_capped
from export.errors import OptionInvalid
from export.sb3.around import Around, Folder, same

# What a file of statistics is called, beside the name of the zip that it is of.
_WORD = re.compile(
    r"(?P<before>.*?)[-_. ]*vec[-_. ]?(?:env[-_. ]?)?norm(?:ali[sz](?:e|er|ed|ation))?[-_. ]*(?P<after>.*)",
    re.IGNORECASE | re.DOTALL,
)
# What may stand after it without naming anything.
_TAILS = frozenset({"", "env", "stats", "stat", "statistics"})
# Zips that are written during a run, beside the run's own zip, and have no folder of their own: EvalCallback's and
# CheckpointCallback's.
_DURING = re.compile(r"best_model|.*_\d+_steps", re.IGNORECASE | re.DOTALL)


class Claim(Enum):
    """Why a file of statistics could be a zip's."""

    # CheckpointCallback writes PREFIX_N_steps.zip and PREFIX_vecnormalize_N_steps.pkl together.
    PAIR = auto()
    NAMED = auto()
    # It has no name but "vecnormalize", beside the zip alone or in a folder above that has no zips.
    GENERIC = auto()
    # So, but another zip, which has no statistics of its own, lies there too.
    SHARED = auto()
    # It looks like statistics, and its name says nothing that is known.
    STRANGE = auto()
    # It lies in a folder below that nothing connects with the zip.
    BELOW = auto()
    # It lies in the folder above, where other zips are, or has a name there that says nothing.
    FAR = auto()


# In order: what is used where it is there, and what must not be there besides, unless its bytes are the same.
_ORDER: Sequence[tuple[frozenset[Claim], frozenset[Claim]]] = (
    (frozenset({Claim.PAIR}), frozenset({Claim.PAIR, Claim.NAMED})),
    (frozenset({Claim.NAMED}), frozenset({Claim.NAMED, Claim.GENERIC, Claim.STRANGE})),
    (
        frozenset({Claim.GENERIC, Claim.SHARED}),
        frozenset({Claim.GENERIC, Claim.SHARED, Claim.STRANGE, Claim.BELOW}),
    ),
    (frozenset(), frozenset({Claim.STRANGE, Claim.BELOW, Claim.FAR})),
)


@dataclass(frozen=True, slots=True)
class Meant:
    """The statistics that are a zip's, if any, and the files that could be meant as well."""

    used: Path | None
    rivals: tuple[Path, ...] = ()


def is_during(stem: str) -> bool:
    """Say whether a zip has a name that SB3's callbacks give while a run goes on."""
    return _DURING.fullmatch(stem) is not None


def is_anothers(place: Around, folder: Folder) -> bool:
    """Say whether a folder beside the zip is of other zips: it has some, or is named after one.

    A run's folder is also that of the zips that were written during the run.
    """
    named = any(same(folder.path.name, other) for other in place.beside.zips)
    return bool(folder.zips) or (named and not is_during(place.stem))


def meant(places: Sequence[Around]) -> Meant:
    """Decide which statistics are a zip's by the names around it.

    A file named after the zip is used before one without a name, and one beside it before one above. One that is used
    has rivals where another file could be meant as well; ``used`` is None where all are doubtful or there are none.
    """
    found = list(dict.fromkeys(claim for place in places for claim in _claims(place)))
    for using, ruling_out in _ORDER:
        used = next((path for claim, path in found if claim in using), None)
        if used is not None or not using:
            rivals = tuple(path for claim, path in found if claim in ruling_out and path != used)
            return Meant(used, rivals)
    raise AssertionError


def statistics_beside(name: str, places: Sequence[Around]) -> Path | None:
    """Find the statistics of the zip ``name``, None where nothing looks like any.

    Raises OptionInvalid where a file looks like them and is not used, and CheckpointRefused where one cannot be read.
    """
    found = meant(places)
    if not found.rivals:
        return found.used
    ways = "--ignore-normalisation if it was trained without"
    if found.used is None:
        one = found.rivals[0]
        which = (
            f"--normalisation {shlex.quote(str(one))} if they are" if len(found.rivals) == 1 else "--normalisation FILE"
        )
        msg = (
            f"{name}: {_listed(found.rivals)} {'looks' if len(found.rivals) == 1 else 'look'} like normalisation "
            f"statistics, and nothing tells whether they are this policy's: say {which}, or {ways}"
        )
        raise OptionInvalid(msg)
    content = read_capped(found.used)
    others = [path for path in found.rivals if read_capped(path) != content]
    if others:
        msg = (
            f"{name}: {_listed([found.used, *others])} could each be its normalisation statistics, and they differ: "
            f"say --normalisation FILE, or {ways}"
        )
        raise OptionInvalid(msg)
    return found.used


def all_near(places: Sequence[Around]) -> tuple[Path, ...]:
    """Give all statistics near a zip that are not another zip's."""
    return tuple(dict.fromkeys(path for place in places for _, path in _claims(place)))


def _claims(place: Around) -> Iterator[tuple[Claim, Path]]:
    """Give each file of statistics around a zip with its claim, the nearest first; those of other zips are left out."""
    yield from ((_beside(place, name), path) for name, path in _files(place.beside, place.beside.zips, place.stem))
    for folder in place.named:
        for name, path in _files(folder, folder.zips, place.stem):
            plain = same(owner_of(name), place.stem) or not (owner_of(name) or folder.zips)
            yield Claim.NAMED if plain else Claim.STRANGE, path
    for folder in place.below:
        if not is_anothers(place, folder):
            for name, path in _files(folder, place.beside.zips, place.stem):
                yield Claim.NAMED if _is_of(name, place.stem) else Claim.BELOW, path
    above = place.above
    runs = tuple(name for name in above.folders if not same(name, place.home))
    for name, path in _files(above, (*above.zips, *runs), place.stem):
        yield _above(place, name), path


def _files(folder: Folder, others: Sequence[str], stem: str) -> Iterator[tuple[str, Path]]:
    """Give the files of statistics in a folder, but those that are named after another one than the zip."""
    for name in folder.statistics:
        if _is_of(name, stem) or not any(_is_of(name, other) for other in others):
            yield name, folder.path / name


def _beside(place: Around, name: str) -> Claim:
    if _is_of(name, place.stem):
        pair = is_during(place.stem) and not same(place.stem, "best_model") and all(_words(name))
        return Claim.PAIR if pair else Claim.NAMED
    if owner_of(name):
        return Claim.STRANGE
    others = [other for other in place.beside.zips if not same(other, place.stem)]
    own = [*place.beside.statistics, *(folder.path.name for folder in place.below if folder.statistics)]
    alone = all(any(_is_of(one, other) or same(one, other) for one in own) for other in others)
    return Claim.GENERIC if alone else Claim.SHARED


def _above(place: Around, name: str) -> Claim:
    if _is_of(name, place.stem):
        return Claim.FAR if any(same(one, place.stem) for one in place.above.zips) else Claim.NAMED
    return Claim.FAR if owner_of(name) or place.above.zips else Claim.GENERIC


def _is_of(name: str, stem: str) -> bool:
    """Say whether a file's name is that of a zip, with or without the word for statistics in it."""
    return same(Path(name).stem, stem) or same(owner_of(name), stem)


def owner_of(name: str) -> str:
    """Give what a file of statistics is named after: what is left of its name without the word for them."""
    before, after = _words(name)
    return f"{before}_{after}" if before and after else before or after


def _words(name: str) -> tuple[str, str]:
    found = _WORD.fullmatch(Path(name).stem)
    if found is None:
        return Path(name).stem, ""
    before, after = found["before"], found["after"]
    return before.removesuffix(".zip"), "" if after.lower() in _TAILS else after


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
