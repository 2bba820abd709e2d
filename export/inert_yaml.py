"""YAML read as data: nothing that a tag names is imported, called or made."""

from dataclasses import dataclass

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from export.errors import CheckpointRefused

YAML_CAP = 256 * 1024
_DEPTH = 32
# Values of a document where every alias stands for a copy: more than a file of that size has without aliases.
_VALUES = 200_000
# What one table may merge from others: merges within merges multiply.
_MERGED = 4096


@dataclass(frozen=True, slots=True)
class Tagged:
    """What stands behind a tag that is not YAML's own, as plain values; ``tag`` names what it was to become."""

    tag: str
    value: object


class _Inert(SafeConstructor):
    """Makes plain values alone, and Tagged ones of what any other tag stands before."""

    def flatten_mapping(self, node: MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MERGED:
            problem = f"a table of {len(node.value)} entries, expected at most {_MERGED}"
            raise ConstructorError(problem=problem, problem_mark=node.start_mark)


def _tagged(loader: SafeConstructor, node: Node) -> Tagged:
    tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
    if isinstance(node, ScalarNode):
        return Tagged(tag, loader.construct_scalar(node))
    plain = loader.construct_mapping if isinstance(node, MappingNode) else loader.construct_sequence
    return Tagged(tag, plain(node, deep=True))


_Inert.add_constructor(None, _tagged)


def read_yaml(data: bytes, what: str) -> object:
    """Read one YAML document; gives plain containers, numbers, texts, dates and Tagged. ``what`` names it in messages.

    Raises CheckpointRefused where it is damaged, too long, nests too deeply or repeats itself.
    """
    if len(data) > YAML_CAP:
        msg = f"{what} has {len(data)} bytes, expected at most {YAML_CAP}"
        raise CheckpointRefused(msg)
    depth = int(np.cumsum([(byte in b"[{") - (byte in b"]}") for byte in data] or [0]).max())
    if depth > _DEPTH:
        # The reader takes the cube of this depth.
        msg = f"{what} nests brackets {depth} deep, expected at most {_DEPTH}"
        raise CheckpointRefused(msg)
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Inert
    try:
        found: object = reader.load(data)
    except Exception as error:  # a damaged file raises nearly everything there is
        msg = f"{what} cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}"
        raise CheckpointRefused(msg) from error
    if _values(found, {}) > _VALUES:
        msg = f"{what} cannot be read: it contains itself or repeats itself, expected at most {_VALUES} values"
        raise CheckpointRefused(msg)
    return found


def _values(value: object, counted: dict[int, int]) -> int:
    """Count the values in it, those of an alias each time that it stands there; what contains itself has too many."""
    if id(value) in counted:
        return counted[id(value)]
    parts: list[object] = []
    if isinstance(value, Tagged):
        parts = [value.value]
    elif isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set)):
        parts = list(value)
    else:
        return 1
    counted[id(value)] = _VALUES + 1  # stays where the count comes back here from inside
    counted[id(value)] = 1 + sum(_values(part, counted) for part in parts)
    return counted[id(value)]
