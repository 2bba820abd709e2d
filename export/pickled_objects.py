"""The objects that a pickled file would make if it were unpickled: their classes are read as names, none is made."""

import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from export.pickle_machine import Inert, Machine, Named

_CAP = 64 * 1024 * 1024
_VISITED_CAP = 100_000
_MOST = 8
# What torch's own reader makes: tensors, and the dicts that state dicts are.
_TENSORS = ("torch._utils.", "torch.FloatStorage", "torch.storage.", "torch.Size", "torch.device")
_DICTS = frozenset(("collections.OrderedDict", "collections.defaultdict", "collections.Counter"))
# torch.save wrote a magic number, its version and the system's sizes before the object, until it wrote zips.
_MAGIC = 0x1950A86A20F9469CFC6C
_BEFORE = 3


@dataclass(frozen=True, slots=True)
class Pickled:
    """An object that is not made: where it lies in the file, its class, and whether it is a torch module."""

    place: str
    kind: str
    module: bool


class _TorchMachine(Machine):
    """Reads what ``torch.save`` pickles: tensors' bytes lie elsewhere in the file, and are only referred to."""

    def _persistent(self, _: object) -> None:
        # The old form keeps modules' classes with their source, as ("module", class, file, source).
        match self._stack.pop():
            case ("module", found, *_):
                self._stack.append(found)
            case _:
                self._stack.append(Inert(Named("torch.storage", "bytes"), ()))

    _actions: ClassVar = {
        **Machine._actions,  # noqa: SLF001 - of the class that this one adds an opcode to
        "BINPERSID": _persistent,  # type: ignore[dict-item]  # which only its own instances get
    }


def objects_in(data: bytes) -> tuple[Pickled, ...]:
    """Name the objects of other classes than tensors and dicts in a file of ``torch.save``, or in a plain pickle.

    Nothing where it cannot be read so far.
    """
    try:
        return tuple(_objects(_root(data)))
    except Exception:  # noqa: BLE001 - a damaged pickle or zip raises nearly everything there is
        return ()


def _root(data: bytes) -> object:
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as member:
                return _TorchMachine("the file").run(member.read(_CAP))
    stream = io.BytesIO(data[:_CAP])
    first = _next(stream)
    if first != _MAGIC:
        return first
    return [_next(stream) for _ in range(_BEFORE)][-1]


def _next(stream: io.BytesIO) -> object:
    """Read one pickle of several that stand one after another."""
    start = stream.tell()
    for _ in pickletools.genops(stream):
        pass
    end = stream.tell()
    return _TorchMachine("the file").run(stream.getvalue()[start:end])


def _objects(root: object) -> Iterator[Pickled]:
    seen: set[int] = set()
    left: list[tuple[str, object]] = [("", root)]
    found = 0
    while left and found < _MOST and len(seen) < _VISITED_CAP:
        place, value = left.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        parts = _inside(value)
        if parts is not None:
            left += [(f"{place}.{key}" if place else str(key), part) for key, part in parts]
        elif isinstance(value, Inert) and not str(value.of).startswith(_TENSORS):
            found += 1
            state = value.state
            is_module = isinstance(state, dict) and {"_modules", "_parameters"} <= state.keys()
            yield Pickled(_plain(place), _plain(_kind(value)), is_module)


def _inside(value: object) -> list[tuple[object, object]] | None:
    """Give what lies in a container; nothing for what is none."""
    if isinstance(value, Inert) and str(value.of) in _DICTS:
        return list(value.entries.items())
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else None


def _kind(value: Inert) -> str:
    return str(value.of) if isinstance(value.of, Named) else "what a call gives"


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:100])


def advice(objects: Sequence[Pickled]) -> str:
    """Say what a file holds that torch's safe reader does not take, and how its policy comes out all the same."""
    root = objects[0]
    if root.place == "" and root.module:
        return (
            f"It is a whole module that was pickled, of the class {root.kind}: save module.state_dict() instead and "
            "declare its layers with --declare, or torch.jit.script(module).save(FILE), or say --trust (with "
            "--declare) if you know who made it"
        )
    listed = ", ".join(f"{one.place or 'the whole'} is an object of {one.kind}" for one in objects[:4])
    return (
        f"In it {listed}: save state dicts, tensors, numbers and lists of them alone, or say --trust (with --declare) "
        "if you know who made it"
    )


def held_by(data: bytes) -> str:
    """Say what kind of thing a file was pickled from."""
    objects = objects_in(data)
    if objects and objects[0].place == "":
        what = "a pickled module" if objects[0].module else "a pickled object"
        return f"{what} of the class {objects[0].kind}"
    return "a pickle"
