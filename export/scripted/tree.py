"""A loaded TorchScript module's tree, copied: its classes' names, its numbers, and its tensors in one list."""

import io
import zipfile
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch

from export.archive import load_tensors_only, tensors_of
from export.scripted.archive import Code
from export.scripted.module import At, Scope, Scripted


class Part(Protocol):
    """A part of a loaded module, as torch's own reader gives it."""

    def getattr(self, name: str) -> object: ...
    def setattr(self, name: str, value: object) -> None: ...
    def hasattr(self, name: str) -> bool: ...
    def _type(self) -> torch._C.ClassType: ...


class Held(NamedTuple):
    """Where a loaded module has one of its tensors: in what part of it, and the path to it for people.

    ``within`` says that it lies in a list or a dictionary there; ``memory`` is the address of its numbers, which others
    may share, and ``also`` are the other names of the very same tensor.
    """

    owner: Part
    path: str
    within: bool
    memory: int
    also: list[str]

    @property
    def tensor(self) -> torch.Tensor:
        return cast("torch.Tensor", self.owner.getattr(self.path.rpartition(".")[2]))

    def put(self, tensor: torch.Tensor) -> None:
        """Set the loaded module's own tensor."""
        self.owner.setattr(self.path.rpartition(".")[2], tensor)


def copied(code: Code, script: torch.jit.ScriptModule, name: str) -> tuple[Scripted, list[Held]]:
    """Copy a loaded module's tree; gives it with the place of each of its tensors. Raises CheckpointRefused."""
    tensors: list[torch.Tensor] = []
    owners: list[Held] = []

    def held(value: object, owner: Part, path: str, *, within: bool = False) -> object:
        if isinstance(value, torch.ScriptModule):
            return scope(cast("Part", value), path)
        if isinstance(value, torch.Tensor):
            for place, known in enumerate(tensors):
                if known is value or (_same(known, value)):
                    owners[place].also.append(path)
                    return At(place)
            tensors.append(value)
            owners.append(Held(owner, path, within, value.untyped_storage().data_ptr(), []))
            return At(len(tensors) - 1)
        if isinstance(value, (list, tuple)):
            return [held(item, owner, path, within=True) for item in value]
        if isinstance(value, dict):
            return {key: held(item, owner, path, within=True) for key, item in value.items()}
        return value

    def scope(module: Part, path: str) -> Scope:
        kind = module._type().qualified_name()  # noqa: SLF001 - its only name
        names = [attribute for attribute in code.attributes.get(kind, ()) if module.hasattr(attribute)]
        found = {at: held(module.getattr(at), module, f"{path}.{at}".removeprefix(".")) for at in names}
        return Scope(kind, path, found)

    root = scope(cast("Part", script._c), "")  # noqa: SLF001 - what torch's own reader gave
    tensors_of({held.path: tensor for tensor, held in zip(tensors, owners, strict=True)}, name)
    copies = [tensor.detach().clone() for tensor in tensors]
    return Scripted(code, root, copies, _constants(code, name)), owners


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _constants(code: Code, name: str) -> Sequence[object]:
    """Read the tensors that the code names CONSTANTS: they are stored as torch.save stores them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("c/data.pkl", code.members.get("constants.pkl", b"\x80\x02)."))
        for path in code.members:
            if path.startswith("constants/"):
                archive.writestr(f"c/data/{path.removeprefix('constants/')}", code.members[path])
        archive.writestr("c/byteorder", code.members.get("byteorder", b"little"))
        # It stands in one of two places, by torch's version.
        archive.writestr("c/version", code.members.get("version", code.members.get(".data/version", b"3\n")))
    found = load_tensors_only(stream.getvalue(), f"{name}: constants")
    return found if isinstance(found, (list, tuple)) else [found]
