"""What TorchScript code does beside arithmetic on tensors: with numbers, texts, lists and dictionaries of its own."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch.utils._python_dispatch import _disable_current_modes

from export.errors import CheckpointRefused

# Numbers of the code are 64 bits wide, and its lists and texts are as long as somebody would write them.
_LARGEST_NUMBER = 2**63
_LONGEST = 2**16


class HeldList(list[object]):
    """A list that belongs to the module: what the code put into it would stay there from one call to the next."""


class HeldDict(dict[object, object]):
    """A dictionary that belongs to the module."""


def _own(held: object) -> list[object]:
    """Give a list that the code may change; raises CheckpointRefused for one of the module's."""
    if isinstance(held, (HeldList, HeldDict)) or not isinstance(held, (list, dict)):
        kind = "dictionary" if isinstance(held, dict) else "list"
        msg = f"the module's code changes a {kind} of the module: it keeps a state that cannot go in and out, expected "
        msg += "tensors in buffers"
        raise CheckpointRefused(msg)
    return cast("list[object]", held)


def _append(held: object, item: object) -> object:
    _own(held).append(item)
    return held


def _set_item(held: object, at: object, item: object) -> object:
    _own(held)[cast("int", at)] = item
    return held


def _insert(held: object, at: int, item: object) -> None:
    _own(held).insert(at, item)


def _extend(held: object, items: Sequence[object]) -> None:
    _own(held).extend(items)


def _reverse(held: object) -> None:
    _own(held).reverse()


def _pop(held: object, *at: int) -> object:
    return _own(held).pop(*at)


def _clear(held: object) -> None:
    _own(held).clear()


def _sliced(held: Sequence[object], start: int | None = None, stop: int | None = None, step: int = 1) -> object:
    return held[start:stop:step]


def _list(items: Sequence[object]) -> list[object]:
    if len(items) > _LONGEST:
        msg = f"the module's code makes a list of {len(items)} things, expected at most {_LONGEST}"
        raise CheckpointRefused(msg)
    return list(items)


def _times(one: object, other: object) -> object:
    """Multiply; a list or a text times a number is one after another, and bounded before it is made."""
    for held, count in ((one, other), (other, one)):
        if isinstance(held, (list, tuple, str)) and isinstance(count, int) and len(held) * count > _LONGEST:
            msg = f"the module's code repeats a {type(held).__name__} {count} times, expected at most {_LONGEST} things"
            raise CheckpointRefused(msg)
    return operator.mul(one, other)


def _shifted(number: int, by: int) -> int:
    return number << min(by, 64)


def _format(text: str, *parts: object) -> str:
    """Put texts in place of ``{}``, which is all that TorchScript's format knows."""
    for part in parts:
        text = text.replace("{}", str(part)[:200].replace("{}", "{ }"), 1)
    return text


def _same(one: object, other: object) -> bool:
    return one is other


def _length(start: int, stop: int, step: int) -> int:
    return len(range(start, stop, step))


# On numbers, texts, lists and None; lists may hold tensors.
ON_LISTS: Mapping[str, Callable[..., object]] = {
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "_set_item": _set_item,
    "add": operator.add,
    "append": _append,
    "clear": _clear,
    "copy": lambda held: dict(held) if isinstance(held, dict) else list(held),
    "extend": _extend,
    "get": lambda held, key, other=None: held.get(key, other),
    "insert": _insert,
    "items": lambda held: list(held.items()),
    "keys": lambda held: list(held.keys()),
    "mul": _times,
    "pop": _pop,
    "reverse": _reverse,
    "slice": _sliced,
    "values": lambda held: list(held.values()),
}
# On numbers, texts and None, and lists of those.
ON_NUMBERS: Mapping[str, Callable[..., object]] = {
    **ON_LISTS,
    "__and__": operator.and_,
    "__derive_index": lambda at, start, step: start + at * step,
    "__lshift__": _shifted,
    "__not__": operator.not_,
    "__or__": operator.or_,
    "__range_length": _length,
    "__rshift__": operator.rshift,
    "__xor__": operator.xor,
    "abs": abs,
    "all": all,
    "any": any,
    "ceil": math.ceil,
    "cos": math.cos,
    "div": operator.truediv,
    "divmod": divmod,
    "eq": operator.eq,
    "exp": math.exp,
    "floor": math.floor,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "log": math.log,
    "log10": math.log10,
    "log1p": math.log1p,
    "log2": math.log2,
    "lt": operator.lt,
    "max": max,
    "min": min,
    "ne": operator.ne,
    "neg": operator.neg,
    # TorchScript gives a float, of whole numbers too.
    "pow": math.pow,
    "remainder": operator.mod,
    "round": lambda number: float(round(number)),
    "sin": math.sin,
    "sqrt": math.sqrt,
    "sub": operator.sub,
    "sum": sum,
    "tan": math.tan,
    "tanh": math.tanh,
    "trunc": int,
}
# Of anything, tensors too, without a look at their numbers.
ON_ANYTHING: Mapping[str, Callable[..., object]] = {
    "__is__": _same,
    "__isnot__": operator.is_not,
    "NumToTensor": lambda number: number,
    "_unwrap_optional": lambda value: value,
    "dict": dict,
    "format": _format,
    "len": len,
    "list": _list,
    "str": lambda value: str(value)[:200],
}


def worked_out(name: str, given: Sequence[object]) -> object:
    """Work out an operator on numbers, texts and lists; raises CheckpointRefused where that grows without end."""
    found = ON_NUMBERS[name](*given)
    if type(found) is int and abs(found) > _LARGEST_NUMBER:
        msg = f"the module's code works out a whole number beyond {_LARGEST_NUMBER} by {name}"
        raise CheckpointRefused(msg)
    if isinstance(found, (list, str)) and len(found) > _LONGEST:
        msg = f"the module's code makes a {type(found).__name__} of {len(found)} things by {name}, expected {_LONGEST}"
        raise CheckpointRefused(msg)
    return found


def plain(name: str, given: Sequence[object], named: Mapping[str, object]) -> Sequence[object] | None:
    """Give what an operator on numbers and lists is asked about; None where it is asked about tensors.

    Tracing writes sizes as tensors, and what they are added to or divided by as constants: those count as numbers.
    """
    if name not in ON_NUMBERS or not given or named not in ({}, {"alpha": 1}):
        return None
    if name in ON_LISTS and isinstance(given[0], (list, tuple, dict, str)):
        return given
    if isinstance(given[0], (int, torch.SymInt)) and all(_is_size(value) for value in given):
        return [_number(value) for value in given]
    return None if _has_tensor(given) else given


def _number(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    # A constant has its number while shapes are tried or a graph is drawn; any other tensor refuses to say it then.
    with _disable_current_modes():
        return value.item()


def _is_size(value: object) -> bool:
    whole = isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype == torch.int64
    return whole or not isinstance(value, (torch.Tensor, list, tuple))


def _has_tensor(values: Sequence[object]) -> bool:
    return any(
        isinstance(value, torch.Tensor) or (isinstance(value, (list, tuple)) and _has_tensor(value)) for value in values
    )
