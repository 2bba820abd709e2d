"""What was around a policy as SB3 trained it: its statistics, and whether RL Zoo's settings agree with an export."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.archive import read_capped
from export.errors import CheckpointRefused, OptionInvalid
from export.inert_yaml import YAML_CAP
from export.sb3.around import Around, around, same
from export.sb3.beside import all_near, is_anothers, statistics_beside
from export.sb3.checkpoint import shows_vec_normalize
from export.sb3.normaliser import read_normaliser
from export.sb3.zoo import Given, Zoo, contradictions, read_zoo

_SETTINGS = ("config.yml", "args.yml")


@dataclass(frozen=True, slots=True)
class Told:
    """What people say of the wrappers that a policy was trained in."""

    normalisation: Path | None = None
    ignore_normalisation: bool = False
    ignore_config: bool = False
    frames: int | None = None
    time_feature: int | None = None


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The statistics that go into the graph, where they are from, and the lines that tell people of it."""

    statistics: bytes | None = None
    name: str = ""
    lines: tuple[str, ...] = ()


def wrapped(zip_: Path, told: Told) -> Wrapped:
    """Find the statistics of a zip, and compare the settings around it with what was said.

    Raises OptionInvalid where statistics could be meant and are not used, or where settings contradict the export, and
    CheckpointRefused where a file cannot be read.
    """
    if told.normalisation is not None and told.ignore_normalisation:
        msg = "--normalisation and --ignore-normalisation contradict each other, expected one of them"
        raise OptionInvalid(msg)
    places = around(zip_)
    found = told.normalisation
    if found is None and not told.ignore_normalisation:
        found = statistics_beside(zip_.name, places)
    name = f"the file of normalisation statistics {found}" if found is not None else ""
    data = read_capped(found) if found is not None else None
    does = data is not None and read_normaliser(data, name).norm_obs
    # Whoever names or leaves out statistics knows better than the settings.
    said = told.ignore_normalisation or (told.normalisation is not None)
    read = () if told.ignore_config else tuple(_settings(places))
    _refuse(zip_, read, Given(None if said else does, told.frames, told.time_feature))
    without = any(zoo.normalised is False and zoo.normalise for _, zoo in read)
    if found is None and not told.ignore_normalisation and not without:
        _refuse_lost(zip_)
    return Wrapped(data, name, tuple(_lines(found, does, all_near(places) if told.ignore_normalisation else ())))


def settings_near(places: Sequence[Around]) -> Iterator[tuple[Path, bool]]:
    """Give RL Zoo's files that are a zip's, and whether each lies where RL Zoo writes none.

    Those named after the zip, or in the folder named like it, stand before those that have no name.
    """
    for kind in _SETTINGS:
        own = list(dict.fromkeys(path for place in places for path in _own(place, kind)))
        if own:
            yield from ((path, False) for path in own)
        else:
            yield from dict.fromkeys(one for place in places for one in _unnamed(place, kind))


def _own(place: Around, kind: str) -> Iterator[Path]:
    named = [f"{place.stem}{mark}{kind}" for mark in "._-"]
    for folder, names in ((place.beside, named), *((folder, [kind, *named]) for folder in place.named)):
        yield from (folder.path / name for name in folder.settings if any(same(name, one) for one in names))


def _unnamed(place: Around, kind: str) -> Iterator[tuple[Path, bool]]:
    below = [folder for folder in place.below if not is_anothers(place, folder)]
    above = [] if place.above.zips else [place.above]
    for folder, foreign in ((place.beside, False), *((folder, True) for folder in (*below, *above))):
        yield from ((folder.path / name, foreign) for name in folder.settings if same(name, kind))


def _settings(places: Sequence[Around]) -> Iterator[tuple[Path, Zoo]]:
    """Read the settings around the zip; those of somebody else that cannot be read say nothing."""
    for path, foreign in settings_near(places):
        try:
            yield path, read_zoo(read_capped(path, YAML_CAP), str(path), foreign=foreign)
        except CheckpointRefused as error:
            if foreign:
                continue
            msg = f"{error}; --ignore-config leaves it unread"
            raise CheckpointRefused(msg) from error


def _refuse(zip_: Path, settings: Sequence[tuple[Path, Zoo]], given: Given) -> None:
    """Refuse an export that the settings around the zip contradict."""
    against = [one for path, zoo in settings for one in contradictions(zoo, str(path), given)]
    if against:
        msg = f"{zip_.name}: {'; and '.join(against)}"
        raise OptionInvalid(msg)


def _refuse_lost(zip_: Path) -> None:
    """Refuse a zip whose own texts show a VecNormalize, of which no statistics are there."""
    try:
        shown = shows_vec_normalize(read_capped(zip_))
    except CheckpointRefused:
        return  # whoever reads the policy says why
    if shown:
        msg = (
            f"{zip_.name} shows that it was trained behind VecNormalize, but no statistics of observations are found "
            "or given: say --normalisation FILE with those of its training, or --ignore-normalisation if it normalised "
            "rewards alone (norm_obs=False)"
        )
        raise OptionInvalid(msg)


def _lines(used: Path | None, does: bool, ignored: Sequence[Path]) -> Iterator[str]:
    if used is not None:
        yield f"normalisation: {used}" + ("" if does else ", which leaves observations as they are")
    elif ignored:
        yield f"normalisation: none; left out: {', '.join(map(str, ignored))}"
