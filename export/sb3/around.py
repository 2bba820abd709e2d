"""What lies around a zip: the folders where people keep its statistics and settings, as lists of names."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from export.errors import OptionInvalid

# How VecNormalize's files end: ``env.save("vec_normalize")`` adds no ending.
_ENDINGS = frozenset({"", ".pkl", ".pickle", ".p"})
_NORMALISATION = re.compile(r"vec.*norm", re.IGNORECASE)
# The class stands at the very start of its pickle.
_CLASS, _START = b"VecNormalize", 512
# So many files of other names are looked into, and so many folders below; a folder of a run has a few.
_MOST_OPENED, _MOST_BELOW = 256, 1000


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as names: ``zips`` without their ending, ``folders``, ``statistics`` that look like VecNormalize's.

    ``settings`` are files that end in .yml. ``path`` is how the folder is opened and said.
    """

    path: Path
    zips: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Around:
    """A zip's name without its ending, and the folders around it.

    ``beside`` is the one that it is in, ``named`` those within that are named like it, ``below`` the others within, and
    ``above`` the one above, in which ``home`` is the name of the zip's own.
    """

    stem: str
    beside: Folder
    named: tuple[Folder, ...] = ()
    below: tuple[Folder, ...] = ()
    above: Folder = Folder(Path())
    home: str = ""


def around(zip_: Path) -> tuple[Around, ...]:
    """List what lies around a zip, and where it is a link also around what it leads to; raises OptionInvalid."""
    if not os.path.exists(zip_):  # noqa: PTH110 - Path raises where a folder on the way is somebody else's
        return ()  # reading the zip says so
    found = [_around(zip_)]
    try:
        real = zip_.resolve()
    except (OSError, RuntimeError):  # links that go round; reading the zip says so
        return tuple(found)
    if real != zip_.parent.resolve() / zip_.name:
        found.append(_around(real))
    return tuple(found)


def same(name: str, other: str) -> bool:
    """Say whether two names are the same but for capital letters."""
    return name.casefold() == other.casefold()


def _around(zip_: Path) -> Around:
    try:
        beside = _listed(zip_.parent)
    except OSError as error:
        msg = (
            f"the folder of {zip_} cannot be listed ({error.strerror}), so that statistics beside it cannot be seen: "
            "say --normalisation FILE, or --ignore-normalisation where there are none, and --ignore-config"
        )
        raise OptionInvalid(msg) from error
    within = [_or_nothing(zip_.parent / name) for name in beside.folders[:_MOST_BELOW]]
    home = zip_.absolute().parent
    return Around(
        stem=zip_.stem,
        beside=beside,
        named=tuple(folder for folder in within if same(folder.path.name, zip_.stem)),
        below=tuple(folder for folder in within if not same(folder.path.name, zip_.stem)),
        above=_or_nothing(_up(zip_.parent)) if home.parent != home else Folder(home),
        home=home.name,
    )


def _up(folder: Path) -> Path:
    """Give the folder above, as people would say it."""
    return folder.parent if folder.name not in ("", "..") and not folder.is_symlink() else folder / ".."


def _or_nothing(path: Path) -> Folder:
    try:
        return _listed(path)
    except OSError:  # a folder of somebody else's
        return Folder(path)


def _listed(path: Path) -> Folder:
    zips, folders, others, settings = [], [], [], []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - Path knows no ending of ".pkl"
            if _is_folder(entry):
                folders.append(entry.name)
            elif ending == ".zip":
                zips.append(Path(entry.name).stem)
            elif ending == ".yml":
                settings.append(entry.name)
            elif ending in _ENDINGS or _NORMALISATION.search(ending):
                others.append(entry.name)
    return Folder(path, tuple(zips), tuple(folders), tuple(_statistics(path, others)), tuple(settings))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _statistics(path: Path, names: Iterable[str]) -> Iterable[str]:
    """Name those that look like statistics: by their name, or with the name of the class at their start."""
    left = _MOST_OPENED
    for name in names:
        if _NORMALISATION.search(name):
            yield name
        elif "." in name and left:
            left -= 1
            if _CLASS in _start(path / name):
                yield name


def _start(path: Path) -> bytes:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(opened, _START)
    except OSError:
        return b""
    finally:
        os.close(opened)
