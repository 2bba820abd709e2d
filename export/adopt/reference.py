"""The answers of the file itself, run as it was found, row by row: what the adopted graph is compared with."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from export.adopt.forms import served
from export.adopt.graph import Plan
from export.adopt.layout import exposed
from export.adopt.preparation import HISTORY, STARTED
from export.adopt.trial import Trial
from export.meaning import Arrays
from export.questions import sizes_of
from export.spec import MASK, Box, Discrete
from export.spec.manifest import MASKED


class Reference:
    """The file, asked with our inputs and answering by our names; nothing in it was changed but what it shows."""

    def __init__(self, plan: Plan) -> None:
        """Load the file once more, with the tensors that the head is made of among its outputs."""
        self._plan = plan
        self._trial = Trial(exposed(plan.original, plan.reading.wanted))

    def __repr__(self) -> str:
        return f"<Reference {self._plan.reading.dialect} {self._plan.original!r}>"

    def __call__(self, inputs: Arrays) -> Arrays:
        """Give head, memory and action for our inputs, each ``[N, ...]``."""
        return self._named(inputs, self.raw(inputs, self._plan.reading.wanted))

    def echoed(self, inputs: Arrays) -> Arrays:
        """Give the action that the file itself says without drawing."""
        port = self._plan.meaning.action.port
        found = self.raw(inputs, (self._plan.reading.echo,))[self._plan.reading.echo]
        return {"action": found.reshape(len(found), *port.shape).astype(port.dtype)}

    def raw(self, inputs: Arrays, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Give tensors of the file by its own names, ``[N, ...]``, asked with as few rows at once as it takes."""
        given = self._given(inputs)
        count, size = len(next(iter(given.values()))), self._plan.layout.at_once or 1
        asked = [
            {name: self._feed(name, _filled(a[at : at + size], size)) for name, a in given.items()}
            for at in range(0, count, size)
        ]
        told = self._trial.runs(asked, names)
        return {name: np.concatenate([self._rows(name, one[name], size) for one in told])[:count] for name in names}

    def _feed(self, name: str, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        return self._plan.layout.slots[name].feed(rows)

    def _rows(self, name: str, found: NDArray[np.generic], size: int) -> NDArray[np.generic]:
        source = next((one.source for one in self._plan.reading.memory if one.result == name), None)
        if source is not None:
            return self._plan.layout.slots[source].rows(found)
        # A std that is the same for all rows comes once; a head that is one number a row may lie on one axis.
        single = found.ndim == 1 and self._plan.layout.widths.get(name) == 1
        flat = found.reshape(size if (found.ndim > 1 or single) and found.shape[0] == size else 1, -1)
        return np.repeat(flat, size, axis=0) if len(flat) != size else flat

    def _given(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Turn our inputs into the file's; what it takes and nothing needs is zeros."""
        plan, reading = self._plan, self._plan.reading
        count = len(next(iter(inputs.values())))
        given: dict[str, NDArray[np.generic]] = {
            name: np.zeros((count, *slot.shape), slot.dtype) for name, slot in plan.layout.slots.items()
        }
        for name in reading.observations:
            rows = inputs[plan.port_of(name)]
            given[name] = rows if plan.preparation is None else plan.preparation.answer(rows, inputs)
        if reading.mask:
            allowed = inputs[MASK].astype(np.float32)
            given[reading.mask] = allowed if plan.allows == 1.0 else 1.0 - allowed
        for one in reading.memory:
            given[one.source] = inputs[f"memory.{one.name}.in"]
        return given

    def _named(self, inputs: Arrays, found: Mapping[str, NDArray[np.generic]]) -> Arrays:
        reading, plan = self._plan.reading, self._plan
        outputs: dict[str, NDArray[np.generic]] = {}
        for ours, pieces in reading.heads.items():
            if not pieces.names:
                outputs[ours] = np.zeros_like(outputs["mean"])
                continue
            if pieces.form == "choices":
                numbers = np.concatenate([found[name].astype(np.float64) for name in pieces.names], axis=1)
                outputs[ours] = served(numbers, pieces.form, sizes_of(plan.meaning))
                continue
            value = np.concatenate([found[name].astype(np.float32) for name in pieces.names], axis=1)
            if pieces.half is not None:
                value = np.split(value, 2, axis=1)[pieces.half]
            if pieces.exp:
                # Beyond what a float32 holds is infinite, and refused as such.
                with np.errstate(over="ignore"):
                    value = np.exp(value)
            moved = value * np.asarray(pieces.scale, np.float32) + np.asarray(pieces.offset, np.float32)
            outputs[ours] = served(moved.astype(np.float32), pieces.form, sizes_of(plan.meaning))
        if reading.mask and reading.scores:
            outputs[plan.meaning.head] = np.where(inputs[MASK], outputs[plan.meaning.head], np.float32(MASKED))
        for one in reading.memory:
            outputs[f"memory.{one.name}.out"] = found[one.result].astype(np.float32)
        if plan.preparation is not None:
            memory = {name: array for name, array in inputs.items() if name.startswith((HISTORY, STARTED))}
            outputs |= plan.preparation.remember(inputs["obs"], memory)
        outputs["action"] = self._action(outputs)
        return outputs

    def _action(self, outputs: Arrays) -> NDArray[np.generic]:
        meaning = self._plan.meaning
        space = meaning.action
        if isinstance(space, Box):
            low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
            mean = outputs["mean"]
            executed = np.clip(mean, low, high)
            if meaning.squash == "tanh":
                executed = low + (np.tanh(mean) + 1) / 2 * (high - low)
            return executed.reshape(len(mean), *space.form).astype(np.float32)
        head = outputs[meaning.head]
        if isinstance(space, Discrete):
            return np.asarray(head.argmax(axis=1))
        ends = np.cumsum(space.sizes)[:-1]
        return np.stack([part.argmax(axis=1) for part in np.split(head, ends, axis=1)], axis=1)


def _filled(rows: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """Repeat the last row until there are as many as the file takes."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)]) if len(rows) < size else rows
