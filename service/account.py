"""The account of a flight: one record a row, with all that it takes to decide the row again."""

from collections.abc import Sequence

import numpy as np

from guards.errors import PolicyUnavailable
from guards.records import NO_ACTION
from guards.shield import Ruling, Violation, violation
from service.explore import GREEDY
from service.flight import Choice, Flight, Plane
from service.ids import public_id
from service.records import HEAD_LIMIT, Bits, Decision, Numbers, Packed, Refused, listed_rows, packed_rows

_NOTHING: list[Violation] = []


def records_of(
    plane: Plane,
    flight: Flight,
    head: np.ndarray | PolicyUnavailable,
    ruling: Ruling,
    bodies: list[bytes],
    choice: Choice,
) -> list[Decision | Refused]:
    """One record a row, in the order of the rows."""
    said = _violations(plane, ruling, choice)
    heads: Sequence[Packed | None] = [None] * len(bodies)
    if isinstance(head, np.ndarray) and head.shape[1] <= HEAD_LIMIT:
        heads = packed_rows(head)
    rows = zip(
        choice.action.tolist(),
        choice.proposed.tolist(),
        choice.propensity.tolist(),
        choice.explored.tolist(),
        listed_rows(flight.observation),
        listed_rows(ruling.allowed),
        heads,
        strict=True,
    )
    token = plane.key.token
    return [
        _refused(flight, i, choice, seen, said.get(i, _NOTHING))
        if done == NO_ACTION
        else _decision(
            plane,
            flight,
            i,
            choice,
            token(bodies[i]),
            done,
            meant,
            chance,
            other,
            seen,
            open_,
            scores,
            said.get(i, _NOTHING),
        )
        for i, (done, meant, chance, other, seen, open_, scores) in enumerate(rows)
    ]


def _refused(flight: Flight, i: int, choice: Choice, observation: Numbers, violations: list[Violation]) -> Refused:
    """The record of a row that no action could be found for."""
    row = flight.rows[i]
    return Refused(
        seq=flight.seq + i,
        ms=flight.ms,
        session=row.session,
        at=row.at,
        observation=observation,
        reason=choice.why[i].reason,
        violations=violations,
    )


def _decision(
    plane: Plane,
    flight: Flight,
    i: int,
    choice: Choice,
    token: str,
    action: int,
    proposed: int,
    propensity: float,
    explored: bool,
    observation: Numbers,
    allowed: Bits,
    head: Packed | None,
    violations: list[Violation],
) -> Decision:
    """The record of a row."""
    row, before, why = flight.rows[i], flight.before(i), choice.why.get(i)
    reason, lost = (None, None) if why is None else (why.reason, None if why.identified else why.reason)
    return Decision(
        seq=flight.seq + i,
        ms=flight.ms,
        id=token,
        session=row.session,
        episode=before.episode or (public_id(token) if before.decision_id is None else None),
        step=before.history.step if before.history.known else None,
        at=row.at,
        observed_at=row.observed_at,
        previous=before.decision_id,
        track=flight.track,
        track_probability=flight.track_probability,
        version=flight.version,
        digest=flight.digest,
        observation=observation,
        facts=row.facts,
        mask=None if row.mask is None else listed_rows(np.array([row.mask]))[0],
        options=row.options,
        head=head,
        allowed=allowed,
        state=before.history,
        config=plane.config,
        explorer=plane.explorer.kind if flight.may_explore and row.explore else GREEDY.kind,
        key=plane.key.number,
        proposed=None if proposed == NO_ACTION else proposed,
        action=action,
        propensity=propensity,
        measure="mass",
        propensity_ok=lost is None,
        why_not_ok=lost,
        source=choice.source[i],
        reason=reason,
        violations=violations,
        explored=explored,
        generation=flight.generation,
        durations={"wait_us": round((flight.departed - row.arrived) * 1e6), "infer_us": flight.infer_us},
        durability=plane.durability,
    )


def _violations(plane: Plane, ruling: Ruling, choice: Choice) -> dict[int, list[Violation]]:
    """What the constraints have to say of each row: of proposals that they masked, and of what was executed."""
    masked = choice.proposed != choice.action
    speak = masked
    if choice.why:
        # A last resort may be the very action that was refused: then it was executed against a constraint.
        speak = speak | np.array([source == "last_resort" for source in choice.source])
    if plane.shield.reports:
        speak = speak | ruling.reported(np.maximum(choice.action, 0))
    if not np.count_nonzero(speak):
        return {}
    rows = np.flatnonzero(speak)
    said: dict[int, list[Violation]] = {i: [] for i in rows.tolist()}
    meant = masked[rows] & (choice.proposed[rows] != NO_ACTION)
    for name, mode, hits in ruling.forbidding(rows, np.maximum(choice.proposed[rows], 0)):
        if mode == "deny":
            for i in rows[hits & meant].tolist():
                said[i].append(violation(name, "prevented", mode))
    if choice.why or plane.shield.reports:
        done = choice.action[rows] != NO_ACTION
        for name, mode, hits in ruling.forbidding(rows, np.maximum(choice.action[rows], 0)):
            for i in rows[hits & done].tolist():
                said[i].append(violation(name, "executed" if mode == "deny" else "reported", mode))
    return said
