"""The records of a batch: one record a row, with all that it takes to decide the row again."""

from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from export.spec import ActionSpace, Box
from guards.batched import AnyRuling, Ruling
from guards.errors import PolicyUnavailable
from guards.records import Action
from guards.shield import Violation, violation
from service.decision.batch import Batch, Behaviour, Choice, Request
from service.decision.explore.explorers import GREEDY
from service.decision.sessions import SessionState
from service.log.ids import public_id_of_body
from service.log.records import (
    HEAD_LIMIT,
    Bits,
    Decision,
    DecisionSource,
    Measure,
    Numbers,
    Packed,
    Refused,
    listed_rows,
    packed_rows,
)

# Why the policy did not decide, and why a propensity is not ok.
_NOTHING: list[Violation] = []
# Why a propensity is not ok where the policy decided: it is smaller or larger than any number there is.
NOT_REPRESENTABLE = "not_representable"
# Or a half-space moved the action of whoever decided: then nobody knows how probable it is.
PROJECTED = "Projected"
# Or it may come from a draw that was refused, and how often draws are refused takes a list of all whole actions.
NOT_LISTED = "NotListed"


class _Why(NamedTuple):
    """Why the policy did not decide a row, and why its propensity is not ok."""

    reason: str | None
    lost: str | None


_NO_REASON = _Why(None, None)


class _Row(Struct, frozen=True, gc=False):
    """What there is to tell of a row, taken out of the arrays that it was decided in."""

    before: SessionState
    body: bytes
    action: Action | None
    proposed: Action | None
    propensity: float
    explored: bool
    observation: Numbers
    allowed: Bits
    head: Packed | None
    measure: Measure
    source: DecisionSource
    moved: float | None


def records_of(
    behaviour: Behaviour,
    batch: Batch,
    head: np.ndarray | PolicyUnavailable,
    ruling: AnyRuling,
    bodies: list[bytes],
    choice: Choice,
) -> list[Decision | Refused]:
    """One record a row, in the order of the rows."""
    said = _violations(behaviour, ruling, choice)
    moved, projected = _moves(ruling, choice, behaviour.schema.action)
    doubtful = bool(choice.why or choice.beyond or choice.unknown or projected)
    rows = _rows(behaviour, batch, head, ruling, bodies, choice, moved)
    records = [
        _refused(batch, i, choice, row, said.get(i, _NOTHING))
        if row.action is None
        else _decision(
            behaviour,
            batch,
            i,
            batch.requests[i],
            row,
            row.action,
            _why(choice, i, projected) if doubtful else _NO_REASON,
            said.get(i, _NOTHING) if said else _NOTHING,
        )
        for i, row in enumerate(rows)
    ]
    if batch.spread is None and batch.memory is None:
        return records
    return [_completed(batch, i, record) for i, record in enumerate(records)]


def _rows(
    behaviour: Behaviour,
    batch: Batch,
    head: np.ndarray | PolicyUnavailable,
    ruling: AnyRuling,
    bodies: list[bytes],
    choice: Choice,
    moved: list[float | None],
) -> Iterator[_Row]:
    """What there is to tell, row by row."""
    domain = behaviour.shield.domain
    heads: Sequence[Packed | None] = [None] * len(bodies)
    if isinstance(head, np.ndarray) and head.shape[1] <= HEAD_LIMIT:
        heads = packed_rows(head)
    rows = zip(
        # The batcher finds what a row continues before its batch is run: there is one for each.
        [row.entry for row in batch.requests if row.entry is not None],
        bodies,
        domain.told(choice.action),
        domain.told(choice.proposed),
        choice.propensity.tolist(),
        choice.explored.tolist(),
        listed_rows(batch.observation),
        listed_rows(ruling.allowed.reshape(len(bodies), *domain.shape)),
        heads,
        choice.measure,
        choice.source,
        moved,
        strict=True,
    )
    return starmap(_Row, rows)


def _completed(batch: Batch, i: int, record: Decision | Refused) -> Decision | Refused:
    """A record with what only some policies have: a spread, a memory."""
    if isinstance(record, Refused):
        return record
    spread = None if batch.spread is None else batch.spread[i]
    memory = None if batch.memory is None else batch.memory[i]
    return msgspec.structs.replace(record, spread=spread, memory=memory)


def _refused(batch: Batch, i: int, choice: Choice, values: _Row, violations: list[Violation]) -> Refused:
    """The record of a row that no action could be found for."""
    row = batch.requests[i]
    return Refused(
        seq=batch.seq + i,
        ms=batch.ms,
        session=row.session,
        at=row.at,
        observation=values.observation,
        reason=choice.why[i].reason,
        violations=violations,
    )


def _decision(
    behaviour: Behaviour,
    batch: Batch,
    i: int,
    row: Request,
    values: _Row,
    action: Action,
    why: _Why,
    violations: list[Violation],
) -> Decision:
    """The record of a row."""
    return Decision(
        seq=batch.seq + i,
        ms=batch.ms,
        id=behaviour.key.token(values.body),
        session=row.session,
        episode=values.before.episode or (public_id_of_body(values.body) if _begins(values.before) else None),
        step=values.before.history.step if values.before.history.known else None,
        at=row.at,
        observed_at=row.observed_at,
        previous=values.before.decision_id,
        track=batch.assignment.track,
        track_probability=batch.assignment.probability,
        version=batch.engine.label,
        digest=batch.engine.digest,
        observation=values.observation,
        facts=row.facts,
        mask=None if row.mask is None else listed_rows(np.array([row.mask]))[0],
        options=row.options,
        head=values.head,
        allowed=values.allowed,
        state=values.before.history,
        config=behaviour.config,
        explorer=behaviour.explorer.kind if batch.may_explore and row.explore else GREEDY.kind,
        key=behaviour.key.number,
        proposed=values.proposed,
        action=action,
        propensity=values.propensity,
        measure=values.measure,
        squash=behaviour.acting.squash,
        propensity_ok=why.lost is None,
        why_not_ok=why.lost,
        source=values.source,
        reason=why.reason,
        violations=violations,
        explored=values.explored,
        moved=values.moved,
        generation=batch.generation,
        durations={"wait_us": round((batch.began - row.read) * 1e6), "infer_us": batch.infer_us},
        durability=behaviour.durability,
    )


def _begins(before: SessionState) -> bool:
    """Whether an episode begins with what comes after."""
    return before.decision_id is None or before.starts


def _why(choice: Choice, i: int, projected: set[int]) -> _Why:
    """Why the policy did not decide a row, and why its propensity is not ok."""
    why = choice.why.get(i)
    lost = PROJECTED if i in projected else NOT_LISTED if i in choice.unknown else None
    if why is None:
        return _Why(None, NOT_REPRESENTABLE if i in choice.beyond else lost)
    return _Why(why.reason, lost if why.identified else why.reason)


def _moves(ruling: AnyRuling, choice: Choice, box: ActionSpace) -> tuple[list[float | None], set[int]]:
    """How far the action of each row's source was moved in a Box, and the rows in which a half-space moved it."""
    if isinstance(ruling, Ruling) or not isinstance(box, Box):
        return [None] * len(choice.source), set()
    far, projected = ruling.moved(choice.proposed, choice.action)
    # A distance may be too small for a double; of what is no action it is NaN.
    moved = np.isfinite(far) & (choice.proposed != choice.action).any(axis=1)
    moved &= np.array([source != "last_resort" for source in choice.source])
    told = [distance if is_so else None for distance, is_so in zip(far.tolist(), moved.tolist(), strict=True)]
    # What was drawn on an edge by chance is also where draws from beyond it end.
    lost = moved & projected
    if ruling.region.most.size:
        certain = (choice.propensity == 1) & np.array([measure == "mass" for measure in choice.measure])
        lost |= ~certain & ruling.edges(choice.action, box)
    return told, set(np.flatnonzero(lost).tolist())


def _violations(behaviour: Behaviour, ruling: AnyRuling, choice: Choice) -> dict[int, list[Violation]]:
    """What the constraints have to say of each row: of proposals that they masked, and of what was executed."""
    domain = behaviour.shield.domain
    masked = domain.differ(choice.proposed, choice.action)
    speak = masked
    if choice.why:
        # A last resort may be the very action that was refused: then it was executed against a constraint.
        speak = speak | np.array([source == "last_resort" for source in choice.source])
    if behaviour.shield.reports:
        speak = speak | ruling.reported(domain.columns(choice.action))
    if not np.count_nonzero(speak):
        return choice.doubted
    rows = np.flatnonzero(speak)
    said: dict[int, list[Violation]] = {i: [] for i in rows.tolist()}
    meant = masked[rows] & domain.there(choice.proposed[rows])
    for name, mode, hits in ruling.forbidding(rows, domain.columns(choice.proposed[rows])):
        if mode == "deny":
            for i in rows[hits & meant].tolist():
                said[i].append(violation(name, "prevented", mode))
    if choice.why or behaviour.shield.reports:
        done = domain.there(choice.action[rows])
        for name, mode, hits in ruling.forbidding(rows, domain.columns(choice.action[rows])):
            for i in rows[hits & done].tolist():
                said[i].append(violation(name, "executed" if mode == "deny" else "reported", mode))
    for i, doubts in choice.doubted.items():
        said[i] = doubts + [one for one in said.get(i, []) if one not in doubts]
    return said
