"""The stack machine that pickles are programs for, without the opcodes' effects.

It imports nothing, calls nothing and makes no objects: a class or function is only its name, a call is only a record
of what was to be called with what, and the state of an object is only kept. The opcodes are those of protocols 0 to 5,
as ``pickletools`` in Python's standard library describes them.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from export.errors import CheckpointRefused

OPCODES_CAP = 2_000_000
_KEY_DEPTH = 4
# Whole numbers above this share hashes with smaller ones, so that a crafted dict of them takes quadratic time.
_KEY_INT = 2**61 - 2
# What protocols 0 and 1 call to make an object of the class that is the first argument (in the module copyreg).
_MAKERS_OF_ARGUMENTS = frozenset({"_reconstructor", "__newobj__"})
# What an opcode pushes as it stands in the file.
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT".split()
)
_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the file names; it was not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Inert:
    """An object that the file says to make by calling ``of``; it was not made.

    ``state`` is what it was to be built with, ``items`` and ``entries`` what was to be added to it.
    """

    of: object
    args: object
    kwargs: object = None
    state: object = None
    items: list[object] = field(default_factory=list)
    entries: dict[object, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Inert {self.of if isinstance(self.of, Named) else 'result of a call'}>"


class Machine:
    """The stack machine that pickles are programs for."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def __repr__(self) -> str:
        return f"<Machine {self._what}: {len(self._stack)} on the stack, {len(self._memo)} remembered>"

    @classmethod
    def opcodes(cls) -> frozenset[str]:
        """Name the opcodes that it knows."""
        return frozenset((*_LITERALS, *_CONSTANTS, *cls._actions))

    def run(self, data: bytes) -> object:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
            if count >= OPCODES_CAP:
                self._refuse(f"has more than {OPCODES_CAP} opcodes, expected at most that")
            if opcode.name in _LITERALS:
                self._stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in self._actions:
                self._actions[opcode.name](self, argument)
            else:
                self._refuse(f"uses the opcode {opcode.name}, which reads from outside of the file")
        return self._stack.pop()

    def _refuse(self, problem: str) -> None:
        msg = f"{self._what} {problem}; nothing in it was run"
        raise CheckpointRefused(msg)

    def _proto(self, argument: object) -> None:
        if not isinstance(argument, int) or argument > 5:
            self._refuse(f"is a pickle of protocol {argument}, expected 0 to 5")

    def _ignore(self, _: object) -> None: ...

    def _mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _popped(self) -> list[object]:
        """Take everything above the last mark off the stack."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._popped()

    def _pop_mark(self, _: object) -> None:
        self._popped()

    def _dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _get(self, argument: object) -> None:
        self._stack.append(self._memo[_whole(argument)])

    def _put(self, argument: object) -> None:
        self._memo[_whole(argument)] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _list(self, _: object) -> None:
        items = self._popped()
        self._stack.append(items)

    def _tuple(self, _: object) -> None:
        items = self._popped()
        self._stack.append(tuple(items))

    def _tuple1(self, _: object) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self, _: object) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple3(self, _: object) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _frozenset(self, _: object) -> None:
        items = self._popped()
        self._stack.append(frozenset(self._key(item) for item in items))

    def _dict(self, _: object) -> None:
        items = self._popped()
        self._stack.append({})
        self._set(items)

    def _append(self, _: object) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self, _: object) -> None:
        self._extend(self._popped())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            self._refuse(f"appends to a {type(target).__name__}")

    def _additems(self, _: object) -> None:
        items = self._popped()
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.items.extend(items)
        elif isinstance(target, set):
            target.update(self._key(item) for item in items)
        else:
            self._refuse(f"adds items to a {type(target).__name__}")

    def _setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: object) -> None:
        self._set(self._popped())

    def _set(self, items: list[object]) -> None:
        target = self._stack[-1]
        entries = target.entries if isinstance(target, Inert) else target
        if not isinstance(entries, dict) or len(items) % 2:
            self._refuse(f"sets {len(items)} keys and values on a {type(target).__name__}")
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[self._key(key)] = value

    def _key(self, key: object) -> object:
        if not _hashes_cheaply(key):
            self._refuse(f"uses a {type(key).__name__} as a key, expected texts, numbers or short tuples of them")
        return key

    def _global(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(Named(module, name))

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self._refuse(f"names a class by a {type(module).__name__} and a {type(name).__name__}, expected texts")
        self._stack.append(Named(str(module), str(name)))

    def _reduce(self, _: object) -> None:
        args, of = self._stack.pop(), self._stack.pop()
        if isinstance(of, Named) and of.name in _MAKERS_OF_ARGUMENTS and isinstance(args, tuple) and args:
            of, args = args[0], args[1:]
        self._stack.append(Inert(of, args))

    def _newobj_ex(self, _: object) -> None:
        kwargs, args, of = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._stack.append(Inert(of, args, kwargs))

    def _inst(self, argument: object) -> None:
        args = self._popped()
        module, _, name = str(argument).partition(" ")
        self._stack.append(Inert(Named(module, name), tuple(args)))

    def _obj(self, _: object) -> None:
        of, *args = self._popped()
        self._stack.append(Inert(of, tuple(args)))

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if not isinstance(target, Inert):
            self._refuse(f"gives a state to a {type(target).__name__}, expected an object")
            return
        target.state = state

    # Not here, and so refused: EXT1, EXT2, EXT4, PERSID, BINPERSID, NEXT_BUFFER, READONLY_BUFFER.
    _actions: ClassVar[Mapping[str, Callable[["Machine", object], None]]] = {
        "PROTO": _proto,
        "FRAME": _ignore,
        "STOP": _ignore,
        "MARK": _mark,
        "POP": _pop,
        "POP_MARK": _pop_mark,
        "DUP": _dup,
        "GET": _get,
        "BINGET": _get,
        "LONG_BINGET": _get,
        "PUT": _put,
        "BINPUT": _put,
        "LONG_BINPUT": _put,
        "MEMOIZE": _memoize,
        "LIST": _list,
        "TUPLE": _tuple,
        "TUPLE1": _tuple1,
        "TUPLE2": _tuple2,
        "TUPLE3": _tuple3,
        "FROZENSET": _frozenset,
        "DICT": _dict,
        "APPEND": _append,
        "APPENDS": _appends,
        "ADDITEMS": _additems,
        "SETITEM": _setitem,
        "SETITEMS": _setitems,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "NEWOBJ": _reduce,
        "NEWOBJ_EX": _newobj_ex,
        "INST": _inst,
        "OBJ": _obj,
        "BUILD": _build,
    }


def _whole(argument: object) -> int:
    if not isinstance(argument, int) or not 0 <= argument < 2**32:
        raise TypeError(argument)
    return argument


def _hashes_cheaply(key: object, depth: int = 0) -> bool:
    # Hashing goes down nested tuples in C, without a limit: deep ones would end the process.
    if isinstance(key, tuple):
        return depth < _KEY_DEPTH and all(_hashes_cheaply(item, depth + 1) for item in key)
    if isinstance(key, int):
        return abs(key) <= _KEY_INT
    return key is None or isinstance(key, (str, bytes, float, Named, Inert))
