"""A TorchScript module as an ordinary torch module that works its code out step by step, with its state in and out."""

import ast
import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.scripted.archive import Code, dotted
from export.scripted.lists import HeldDict, HeldList
from export.scripted.operators import INSTEAD, call, writes
from export.scripted.rows import carried, given_by, stored

_MOST_STEPS = 20_000
_ALONE = "its forward has to take the observation alone, its parts one by one, and to keep its state in buffers"
_NAMES = {"inf": float("inf"), "nan": float("nan")}


@dataclass(frozen=True, slots=True)
class At:
    """A tensor of the module, by its place among all of them."""

    place: int


@dataclass(frozen=True, slots=True)
class Scope:
    """A module within the module: the qualified name of its class, and its attributes."""

    kind: str
    path: str
    values: Mapping[str, object]


@dataclass(slots=True)
class _Run:
    """One call of forward: the tensors as they are now, which of them were set anew, and how far it has come."""

    tensors: list[torch.Tensor]
    changed: set[int]
    steps: int = 0


class Scripted(nn.Module):
    """Takes the module's inputs and its states (``memory``, tensors by place), gives its outputs and its states anew.

    Its control flow must not depend on tensors. Raises CheckpointRefused for what it cannot work out.
    """

    def __init__(self, code: Code, root: Scope, tensors: Sequence[torch.Tensor], constants: Sequence[object]) -> None:
        super().__init__()
        self.code, self.tuples = code.functions, code.tuples
        self.root, self.constants = root, tuple(constants)
        self.count = len(tensors)
        for place, tensor in enumerate(tensors):
            self.register_buffer(f"tensor_{place}", tensor)
        # The states, and the axis of each along which rows of a batch lie.
        self.memory: tuple[tuple[int, int], ...] = ()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        split = len(inputs) - len(self.memory)
        states = [stored(tensor, self.shape(place), axis) for tensor, (place, axis) in self._paired(inputs[split:])]
        found, kept, changed = self.run("forward", inputs[:split], [place for place, _ in self.memory], states)
        lost = changed - {place for place, _ in self.memory}
        if lost:
            msg = f"the module changes {', '.join(map(str, sorted(lost)))} beside its states"
            raise CheckpointRefused(msg)
        outputs = given_by(found)
        return (*outputs, *(carried(state, axis) for state, (_, axis) in zip(kept, self.memory, strict=True)))

    def _paired(self, states: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, tuple[int, int]]]:
        return list(zip(states, self.memory, strict=True))

    def shape(self, place: int) -> tuple[int, ...]:
        """The shape of one of the module's own tensors."""
        return tuple(self.get_buffer(f"tensor_{place}").shape)

    def run(
        self, method: str, given: Sequence[object], places: Sequence[int], states: Sequence[torch.Tensor]
    ) -> tuple[object, list[torch.Tensor], set[int]]:
        """Call a method with some tensors replaced; gives its answer, those tensors anew, and all that changed."""
        run = _Run([self.get_buffer(f"tensor_{place}") for place in range(self.count)], set())
        for place, state in zip(places, states, strict=True):
            run.tensors[place] = state.clone()
        begun = [(tensor, tensor._version) for tensor in (*run.tensors, *self._fixed())]  # noqa: SLF001 - its only name
        found = self._called(f"{self.root.kind}.{method}", [self.root, *given], {}, run)
        # However it was written into, as itself or as a view of it, torch has counted that.
        written = {at for at, (tensor, version) in enumerate(begun) if tensor._version != version}  # noqa: SLF001
        if any(at >= self.count for at in written):
            msg = f"the module's code writes into one of its constants, whose numbers would stay changed: {INSTEAD}"
            raise CheckpointRefused(msg)
        return found, [run.tensors[place] for place in places], run.changed | written

    def _fixed(self) -> list[torch.Tensor]:
        return [constant for constant in self.constants if isinstance(constant, torch.Tensor)]

    def _called(self, name: str, given: Sequence[object], named: Mapping[str, object], run: _Run) -> object:
        if (fields := self.tuples.get(name)) is not None:
            kind = collections.namedtuple("Named", fields, rename=True)  # type: ignore[misc]  # fields as the code has them
            return kind(*given, **named)
        function = self.code.get(name)
        if function is None:
            msg = f"the module's code calls {name}, which it does not have"
            raise CheckpointRefused(msg)
        names = [argument.arg for argument in function.args.args]
        defaults = function.args.defaults
        scope: dict[str, object] = {}
        for argument, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
            scope[argument] = self._value(default, {}, run)
        scope |= dict(zip(names, given, strict=False)) | dict(named)
        if len(given) > len(names) or not scope.keys() >= set(names):
            wanted = ", ".join(names[1:]) or "nothing"
            msg = f"the module's {name.rpartition('.')[2]} takes {wanted}, found {len(given) - 1} of them: {_ALONE}"
            raise CheckpointRefused(msg)
        return self._block(function.body, scope, run)[1]

    def _block(self, body: Sequence[ast.stmt], scope: dict[str, object], run: _Run) -> tuple[bool, object]:
        """Work out statements; says whether they returned, and what."""
        for statement in body:
            run.steps += 1
            if run.steps > _MOST_STEPS:
                msg = f"the module's code takes more than {_MOST_STEPS} steps"
                raise CheckpointRefused(msg)
            if isinstance(statement, ast.Return):
                return True, None if statement.value is None else self._value(statement.value, scope, run)
            done, value = self._statement(statement, scope, run)
            if done:
                return done, value
        return False, None

    def _statement(self, statement: ast.stmt, scope: dict[str, object], run: _Run) -> tuple[bool, object]:
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._value(value, scope, run), scope, run)
            case ast.AnnAssign(target=target, value=ast.expr() as given):
                self._assign(target, self._value(given, scope, run), scope, run)
            case ast.Expr(value=value):
                self._value(value, scope, run)
            case ast.If(test=test, body=body, orelse=otherwise):
                return self._block(body if _sure(self._value(test, scope, run)) else otherwise, scope, run)
            case ast.For(target=target, iter=over, body=body):
                for item in _items(self._value(over, scope, run)):
                    self._assign(target, item, scope, run)
                    done, found = self._block(body, scope, run)
                    if done:
                        return done, found
            case ast.Pass():
                pass
            case _:
                _refuse(statement)
        return False, None

    def _assign(self, target: ast.expr, value: object, scope: dict[str, object], run: _Run) -> None:
        match target:
            case ast.Name(id=name):
                scope[name] = value
            case ast.Tuple(elts=parts):
                for part, item in zip(parts, _items(value), strict=True):
                    self._assign(part, item, scope, run)
            case ast.Attribute(value=owner, attr=name):
                self._set(self._value(owner, scope, run), name, value, run)
            case _:
                _refuse(target)

    def _set(self, owner: object, name: str, value: object, run: _Run) -> None:
        held = owner.values.get(name) if isinstance(owner, Scope) else None
        if not isinstance(held, At) or not isinstance(value, torch.Tensor):
            msg = f"the module's code sets {name!r}, which is no tensor: it keeps a state that cannot go in and out"
            raise CheckpointRefused(msg)
        run.tensors[held.place] = value
        run.changed.add(held.place)

    def _value(self, node: ast.expr, scope: dict[str, object], run: _Run) -> object:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name in scope:
                return scope[name]
            case ast.Name(id=name) if name in _NAMES:
                return _NAMES[name]
            case ast.Tuple(elts=parts):
                return tuple(self._value(part, scope, run) for part in parts)
            case ast.List(elts=parts):
                return [self._value(part, scope, run) for part in parts]
            case ast.Dict(keys=keys, values=values):
                found = [self._value(key, scope, run) for key in keys if key is not None]
                return dict(zip(found, (self._value(value, scope, run) for value in values), strict=True))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self._value(operand, scope, run)
                return call("neg", [number], {})
            case ast.Subscript(value=held, slice=at):
                return _item(self._value(held, scope, run), self._value(at, scope, run))
            case ast.Attribute(value=ast.Name(id="CONSTANTS"), attr=name):
                return self.constants[int(name.removeprefix("c"))]
            case ast.Attribute(value=owner, attr=name):
                return dotted(node) or self._attribute(self._value(owner, scope, run), name, run)
            case ast.Call():
                return self._call(node, scope, run)
        return _refuse(node)

    def _attribute(self, owner: object, name: str, run: _Run) -> object:
        if isinstance(owner, tuple) and name in getattr(owner, "_fields", ()):
            return getattr(owner, name)
        if not isinstance(owner, Scope) or name not in owner.values:
            msg = f"the module's code reads {name!r} of a {type(owner).__name__}, which it does not have"
            raise CheckpointRefused(msg)
        return _resolved(owner.values[name], run)

    def _call(self, node: ast.Call, scope: dict[str, object], run: _Run) -> object:
        if isinstance(node.func, ast.Name) and node.func.id not in scope:
            return self._builtin(node.func.id, node.args, scope, run)
        given = [self._value(argument, scope, run) for argument in node.args]
        named = {part.arg: self._value(part.value, scope, run) for part in node.keywords if part.arg is not None}
        if isinstance(node.func, ast.Attribute) and dotted(node.func) is None:
            owner = self._value(node.func.value, scope, run)
            if not isinstance(owner, Scope):
                _refuse(node.func)
            else:
                return self._called(f"{owner.kind}.{node.func.attr}", [owner, *given], named, run)
        path = self._value(node.func, scope, run)
        if not isinstance(path, str):
            return _refuse(node.func)
        if path.startswith("__torch__."):
            return self._called(path, given, named, run)
        name = path.partition(".")[2].removeprefix("prim.").removeprefix("aten.")
        if writes(name) and given:
            _note_change(given[0], run)
        _note_change(named.get("out"), run)
        return call(name, given, named)

    def _builtin(self, name: str, arguments: Sequence[ast.expr], scope: dict[str, object], run: _Run) -> object:
        if name in ("annotate", "unchecked_cast"):
            return self._value(arguments[1], scope, run)
        if name == "uninitialized":
            return None
        given = [self._value(argument, scope, run) for argument in arguments]
        if name == "getattr" and isinstance(given[1], str):
            return self._attribute(given[0], given[1], run)
        if name == "range":
            return range(*(_whole(number) for number in given))
        if name in ("int", "float", "bool", "str") and not isinstance(given[0], torch.Tensor):
            # A size that is not known yet stays one.
            kinds = {"int": int, "float": float, "bool": bool, "str": str}
            return given[0] if isinstance(given[0], torch.SymInt) else kinds[name](given[0])
        msg = f"the module's code calls {name} on a {type(given[0]).__name__}: its way must not depend on its numbers"
        raise CheckpointRefused(msg)


def _resolved(value: object, run: _Run) -> object:
    if isinstance(value, At):
        return run.tensors[value.place]
    if isinstance(value, dict):
        return HeldDict({key: _resolved(item, run) for key, item in value.items()})
    return HeldList(_resolved(item, run) for item in value) if isinstance(value, list) else value


def _note_change(tensor: object, run: _Run) -> None:
    """Note which of the module's tensors an operator in place changes: one, or one that it is a view of."""
    whole = tensor._base if isinstance(tensor, torch.Tensor) else None  # noqa: SLF001 - torch's only word for it
    for place, own in enumerate(run.tensors):
        if own is tensor or own is whole:
            run.changed.add(place)


def _sure(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        msg = "the module's code decides by a tensor's numbers which way it goes, which a graph cannot do"
        raise CheckpointRefused(msg)
    return bool(value)


def _item(held: object, at: object) -> object:
    if isinstance(held, dict):
        return held[at]
    return _items(held)[_whole(at)]


def _items(value: object) -> Sequence[object]:
    if isinstance(value, (list, tuple, range)):
        return value
    msg = f"the module's code takes a {type(value).__name__} apart, expected a list or a tuple"
    raise CheckpointRefused(msg)


def _whole(value: object) -> int:
    if isinstance(value, (int, torch.SymInt)):
        # A size that is not known yet counts as a whole number.
        return cast("int", value)
    msg = f"the module's code counts with a {type(value).__name__}, expected a whole number"
    raise CheckpointRefused(msg)


def _refuse(node: ast.AST) -> object:
    msg = f"the module's code has {ast.unparse(node)[:80]!r}, expected arithmetic on tensors alone"
    raise CheckpointRefused(msg)
