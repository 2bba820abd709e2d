"""The records of a batch: one record a row, with all that it takes to decide the row again."""

from binascii import b2a_base64
from functools import cache
from typing import Any

import numpy as np

from guards.check import Violation, violation
from guards.errors import PolicyUnavailable
from guards.records import Action, Row
from service.decision.batch import Batch, Behaviour
from service.decision.explore.choice import NOT_REPRESENTABLE, Choice
from service.decision.explore.explorers import GREEDY
from service.log.ids import public_id_of_body
from service.log.records import (
    HEAD_LIMIT,
    LIST_LIMIT,
    Bits,
    Decision,
    Packed,
    Refused,
    V,
    listed,
)
from service.versions.engine import ModelOutput


class Recorder:
    """Writes down the rows of a batch one by one; ``seen`` is what was observed, as rows of plain numbers."""

    def __init__(self, behaviour: Behaviour, batch: Batch, output: ModelOutput | PolicyUnavailable) -> None:
        self.records: list[Decision | Refused] = []
        self._behaviour = behaviour
        self._batch = batch
        # What all of the batch's decisions say.
        self._same: dict[str, Any] = {
            "v": V,
            "ms": batch.ms,
            "track": batch.assignment.track,
            "track_probability": batch.assignment.probability,
            "version": batch.engine.label,
            "digest": batch.engine.digest,
            "config": behaviour.config,
            "key": behaviour.key.number,
            "squash": behaviour.acting.squash,
            "generation": batch.generation,
            "durability": behaviour.durability,
        }
        observation = batch.observation
        short = observation.ndim == 2 and observation.shape[1] <= LIST_LIMIT
        self._observations: list[Any] = observation.tolist() if short else [Packed.of(row) for row in observation]
        # Of an observation that is not one row of numbers nothing has a name.
        self.seen: list[list[float]] = self._observations
        if batch.observation.ndim > 2:
            self.seen = [[]] * len(batch.requests)
        elif self._observations and isinstance(self._observations[0], Packed):
            self.seen = batch.observation.tolist()
        self._heads: list[Packed] | None = None
        if isinstance(output, ModelOutput) and output.head.shape[1] <= HEAD_LIMIT:
            self._heads = packed_rows(output.head)

    def add(self, i: int, row: Row, left: Any, body: bytes, choice: Choice) -> None:
        """Write down a row."""
        behaviour, why, said = self._behaviour, choice.why, choice.doubted
        if why is not None or choice.proposed != choice.action or behaviour.shield.reports:
            said = _violations(behaviour, row, choice)
        if choice.action is None:
            self._refuse(i, choice, said)
            return
        if not isinstance(left, int):
            behaviour.acting.measure(choice, left)
        lost = NOT_REPRESENTABLE if choice.beyond else choice.lost
        if why is not None:
            lost = choice.lost if why.identified else why.reason
        self._decide(i, left, body, choice, choice.action, lost, said)

    def _decide(
        self, i: int, left: Any, body: bytes, choice: Choice, action: Action, lost: str | None, said: list[Violation]
    ) -> None:
        """Write down a row that has an action; ``lost`` is why nobody knows how probable it is."""
        batch, behaviour, request = self._batch, self._behaviour, self._batch.requests[i]
        before, explores = request.entry, batch.may_explore and request.explore
        assert before is not None  # noqa: S101 - the batcher finds what a row continues before its batch is run
        begins = before.decision_id is None or before.starts
        self.records.append(
            Decision(
                seq=batch.seq + i,
                id=behaviour.key.token(body),
                session=request.session,
                episode=before.episode or (public_id_of_body(body) if begins else None),
                step=before.history.step if before.history.known else None,
                at=request.at,
                observed_at=request.observed_at,
                previous=before.decision_id,
                observation=self._observations[i],
                facts=request.facts,
                mask=None if request.mask is None else _bits(request.mask),
                options=request.options,
                head=None if self._heads is None else self._heads[i],
                spread=None if batch.spread is None else batch.spread[i],
                memory=None if batch.memory is None else batch.memory[i],
                allowed=behaviour.acting.allowed(left),
                state=before.history,
                explorer=behaviour.acting.explorer.kind if explores else GREEDY.kind,
                proposed=choice.proposed,
                action=action,
                propensity=choice.propensity,
                measure=choice.measure,
                propensity_ok=lost is None,
                why_not_ok=lost,
                source=choice.source,
                reason=None if choice.why is None else choice.why.reason,
                violations=said,
                explored=choice.explored,
                moved=choice.moved,
                durations={"wait_us": round((batch.began - request.read) * 1e6), "infer_us": batch.infer_us},
                **self._same,
            )
        )

    def _refuse(self, i: int, choice: Choice, said: list[Violation]) -> None:
        """Write down a row that no action could be found for."""
        batch, why = self._batch, choice.why
        assert why is not None  # noqa: S101 - what the policy decides has an action
        request = batch.requests[i]
        self.records.append(
            Refused(
                seq=batch.seq + i,
                ms=batch.ms,
                session=request.session,
                at=request.at,
                observation=self._observations[i],
                reason=why.reason,
                violations=said,
            )
        )


def _bits(mask: list[bool]) -> Bits:
    """A request's mask, in a record."""
    told: Bits = listed(np.array(mask))  # type: ignore[assignment]  # truths as numbers are
    return told


def _violations(behaviour: Behaviour, row: Row, choice: Choice) -> list[Violation]:
    """What the constraints have to say of a row: of a proposal that they masked, and of what was executed."""
    shield, proposed, action, said = behaviour.shield, choice.proposed, choice.action, list[Violation]()
    masked = proposed != action
    if masked and proposed is not None:
        said = shield.preventing(row, proposed)
    if action is not None and (choice.why is not None or shield.reports):
        done = shield.forbidding(row, action)
        # A last resort may be the very action that was refused: then it was executed against a constraint.
        if masked or choice.source == "last_resort" or any(mode != "deny" for _, mode in done):
            said += [violation(name, "executed" if mode == "deny" else "reported", mode) for name, mode in done]
    return choice.doubted + [one for one in said if one not in choice.doubted] if choice.doubted else said


def packed_rows(array: np.ndarray) -> list[Packed]:
    """Each row of an array[N, A], packed."""
    name, little = _form(array.dtype)
    raw, shape, packed = array.astype(little, copy=False).tobytes(), array.shape[1:], list[Packed]()
    size = array[:1].nbytes
    for at in range(0, len(raw), size):
        packed.append(Packed(name, shape, b2a_base64(raw[at : at + size], newline=False).decode("ascii")))
    return packed


@cache
def _form(dtype: "np.dtype[Any]") -> "tuple[str, np.dtype[Any]]":
    """What a dtype is called, and its little-endian form: asking NumPy costs more than packing a row."""
    return dtype.name, dtype.newbyteorder("<")
