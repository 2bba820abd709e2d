"""The account of a flight: one record a row, with all that it takes to decide the row again."""

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
from service.explore import GREEDY
from service.flight import Choice, Flight, Plane
from service.ids import public_id_of_body
from service.records import (
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
from service.requests import Request
from service.sessions import Moment

# Why the policy did not decide, and why a propensity is not ok.
_NOTHING: list[Violation] = []
# Why a propensity is not ok where the policy decided: it is smaller or larger than any number there is.
NOT_REPRESENTABLE = "not_representable"
# Or a half-space moved the action of whoever decided: then nobody knows how probable it is.
PROJECTED = "Projected"
# Or it may come from a draw that was refused, and how often draws are refused takes a list of all whole actions.
NOT_LISTED = "NotListed"


class Doubts(NamedTuple):
    """Why the policy did not decide a row, and why its propensity is not ok."""

    reason: str | None
    lost: str | None


_NO_DOUBTS = Doubts(None, None)


class _Told(Struct, frozen=True, gc=False):
    """What there is to tell of a row, taken out of the arrays that it was decided in."""

    before: Moment
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
    plane: Plane,
    flight: Flight,
    head: np.ndarray | PolicyUnavailable,
    ruling: AnyRuling,
    bodies: list[bytes],
    choice: Choice,
) -> list[Decision | Refused]:
    """One record a row, in the order of the rows."""
    said = _violations(plane, ruling, choice)
    moved, projected = _moves(ruling, choice, plane.schema.action)
    doubtful = bool(choice.why or choice.beyond or choice.unknown or projected)
    rows = _told(plane, flight, head, ruling, bodies, choice, moved)
    records = [
        _refused(flight, i, choice, row, said.get(i, _NOTHING))
        if row.action is None
        else _decision(
            plane,
            flight,
            i,
            flight.rows[i],
            row,
            row.action,
            _doubts(choice, i, projected) if doubtful else _NO_DOUBTS,
            said.get(i, _NOTHING) if said else _NOTHING,
        )
        for i, row in enumerate(rows)
    ]
    if flight.spread is None and flight.memory is None:
        return records
    return [_completed(flight, i, record) for i, record in enumerate(records)]


def _told(
    plane: Plane,
    flight: Flight,
    head: np.ndarray | PolicyUnavailable,
    ruling: AnyRuling,
    bodies: list[bytes],
    choice: Choice,
    moved: list[float | None],
) -> Iterator[_Told]:
    """What there is to tell, row by row."""
    domain = plane.shield.domain
    heads: Sequence[Packed | None] = [None] * len(bodies)
    if isinstance(head, np.ndarray) and head.shape[1] <= HEAD_LIMIT:
        heads = packed_rows(head)
    rows = zip(
        # The turn finds what a row continues before the flight departs: there is one for each.
        [row.entry for row in flight.rows if row.entry is not None],
        bodies,
        domain.told(choice.action),
        domain.told(choice.proposed),
        choice.propensity.tolist(),
        choice.explored.tolist(),
        listed_rows(flight.observation),
        listed_rows(ruling.allowed.reshape(len(bodies), *domain.shape)),
        heads,
        choice.measure,
        choice.source,
        moved,
        strict=True,
    )
    return starmap(_Told, rows)


def _completed(flight: Flight, i: int, record: Decision | Refused) -> Decision | Refused:
    """A record with what only some policies have: a spread, a memory."""
    if isinstance(record, Refused):
        return record
    spread = None if flight.spread is None else flight.spread[i]
    memory = None if flight.memory is None else flight.memory[i]
    return msgspec.structs.replace(record, spread=spread, memory=memory)


def _refused(flight: Flight, i: int, choice: Choice, told: _Told, violations: list[Violation]) -> Refused:
    """The record of a row that no action could be found for."""
    row = flight.rows[i]
    return Refused(
        seq=flight.seq + i,
        ms=flight.ms,
        session=row.session,
        at=row.at,
        observation=told.observation,
        reason=choice.why[i].reason,
        violations=violations,
    )


def _decision(
    plane: Plane,
    flight: Flight,
    i: int,
    row: Request,
    told: _Told,
    action: Action,
    doubts: Doubts,
    violations: list[Violation],
) -> Decision:
    """The record of a row."""
    return Decision(
        seq=flight.seq + i,
        ms=flight.ms,
        id=plane.key.token(told.body),
        session=row.session,
        episode=told.before.episode or (public_id_of_body(told.body) if _begins(told.before) else None),
        step=told.before.history.step if told.before.history.known else None,
        at=row.at,
        observed_at=row.observed_at,
        previous=told.before.decision_id,
        track=flight.track,
        track_probability=flight.track_probability,
        version=flight.version,
        digest=flight.digest,
        observation=told.observation,
        facts=row.facts,
        mask=None if row.mask is None else listed_rows(np.array([row.mask]))[0],
        options=row.options,
        head=told.head,
        allowed=told.allowed,
        state=told.before.history,
        config=plane.config,
        explorer=plane.explorer.kind if flight.may_explore and row.explore else GREEDY.kind,
        key=plane.key.number,
        proposed=told.proposed,
        action=action,
        propensity=told.propensity,
        measure=told.measure,
        squash=plane.acting.squash,
        propensity_ok=doubts.lost is None,
        why_not_ok=doubts.lost,
        source=told.source,
        reason=doubts.reason,
        violations=violations,
        explored=told.explored,
        moved=told.moved,
        generation=flight.generation,
        durations={"wait_us": round((flight.departed - row.read) * 1e6), "infer_us": flight.infer_us},
        durability=plane.durability,
    )


def _begins(before: Moment) -> bool:
    """Whether an episode begins with what comes after."""
    return before.decision_id is None or before.starts


def _doubts(choice: Choice, i: int, projected: set[int]) -> Doubts:
    """Why the policy did not decide a row, and why its propensity is not ok."""
    why = choice.why.get(i)
    lost = PROJECTED if i in projected else NOT_LISTED if i in choice.unknown else None
    if why is None:
        return Doubts(None, NOT_REPRESENTABLE if i in choice.beyond else lost)
    return Doubts(why.reason, lost if why.identified else why.reason)


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


def _violations(plane: Plane, ruling: AnyRuling, choice: Choice) -> dict[int, list[Violation]]:
    """What the constraints have to say of each row: of proposals that they masked, and of what was executed."""
    domain = plane.shield.domain
    masked = domain.differ(choice.proposed, choice.action)
    speak = masked
    if choice.why:
        # A last resort may be the very action that was refused: then it was executed against a constraint.
        speak = speak | np.array([source == "last_resort" for source in choice.source])
    if plane.shield.reports:
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
    if choice.why or plane.shield.reports:
        done = domain.there(choice.action[rows])
        for name, mode, hits in ruling.forbidding(rows, domain.columns(choice.action[rows])):
            for i in rows[hits & done].tolist():
                said[i].append(violation(name, "executed" if mode == "deny" else "reported", mode))
    for i, doubts in choice.doubted.items():
        said[i] = doubts + [one for one in said.get(i, []) if one not in doubts]
    return said
