"""Pickles read as data: nothing that a file says is imported, called or made.

Python's own unpickler runs what a file says. Here calls and objects are only recorded (see ``pickle_machine``).
"""

from export.errors import CheckpointRefused
from export.pickle_machine import Inert as Inert
from export.pickle_machine import Machine
from export.pickle_machine import Named as Named

BYTES_CAP = 256 * 1024 * 1024
DEPTH_CAP = 64


def read_inert(data: bytes, what: str) -> object:
    """Read a pickle; gives plain containers, numbers and texts, Named and Inert. ``what`` names it in messages.

    Raises CheckpointRefused where it is damaged, contains itself, nests too deeply, is too long, or needs something
    from outside (persistent ids, extension codes, buffers).
    """
    if len(data) > BYTES_CAP:
        msg = f"{what} has {len(data)} bytes, expected at most {BYTES_CAP}"
        raise CheckpointRefused(msg)
    try:
        value = Machine(what).run(data)
    except CheckpointRefused:
        raise
    except Exception as error:  # a damaged pickle raises nearly everything there is
        msg = f"{what} cannot be read as a pickle ({type(error).__name__})"
        raise CheckpointRefused(msg) from error
    _refuse_deep(value, what)
    return value


def _refuse_deep(root: object, what: str) -> None:
    """Refuse containers that contain themselves or nest deeper than a cap: all later reading may then recurse.

    Depth counts within plain containers; what an Inert holds is counted anew, because nothing recurses through one.
    """
    heights: dict[int, int] = {}
    seen: set[int] = set()
    roots = [root]
    while roots:
        top = roots.pop()
        if isinstance(top, Inert):
            if id(top) not in seen:
                seen.add(id(top))
                roots += [top.of, top.args, top.kwargs, top.state, top.items, top.entries]
        elif _height(top, 0, heights, roots) > DEPTH_CAP:
            msg = f"{what} contains itself or nests deeper than {DEPTH_CAP}, expected neither"
            raise CheckpointRefused(msg)


def _height(value: object, level: int, heights: dict[int, int], found: list[object]) -> int:
    """Give how deep a container nests, more than the cap where it contains itself; collects the Inerts in ``found``."""
    if isinstance(value, Inert):
        found.append(value)
        return 0
    if not isinstance(value, (list, tuple, dict, set, frozenset)):
        return 0
    if id(value) not in heights:
        if level > DEPTH_CAP:
            return DEPTH_CAP + 1
        heights[id(value)] = DEPTH_CAP + 1  # stays where the walk comes back here from inside
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        heights[id(value)] = 1 + max((_height(part, level + 1, heights, found) for part in parts), default=0)
    return heights[id(value)]
