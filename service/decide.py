"""The path of a decision, from a batch of requests and a policy's head to records that can be recomputed.

Read this page first. It has no I/O: the turn (``turn.py``) infers before it and journals after it.

    guard     context → allowed[N, A]
    explore   head + allowed → a proposal, an action, its probability
    check     the action once more, by the shield's own test
              any failure on the way → the baseline's proposal through the same guard → else the last resort
    log       one record per decision
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import Struct

from guards.baselines import Propose
from guards.errors import CheckFailed, InvalidOutput, NoSafeAction, PolicyUnavailable
from guards.records import NO_ACTION, Booleans, Context, Floats, Integers, Schema
from guards.shield import Ruling, Shield, Violation, violation
from service.explore import GREEDY, Draw, Explorer, mixed, uniforms
from service.ids import Key, body_of, body_prefix, public_id
from service.records import (
    HEAD_LIMIT,
    Bits,
    Decision,
    DecisionSource,
    Durability,
    Numbers,
    Packed,
    Refused,
    Track,
    listed_rows,
    packed_rows,
)
from service.requests import Request
from service.sessions import Moment


@dataclass(frozen=True, slots=True)
class Plane:
    """What all decisions of a process have in common, bound once at start."""

    schema: Schema
    shield: Shield
    explorer: Explorer
    baseline: Propose
    last_resort: int | None
    key: Key
    writer: bytes
    config: str
    durability: Durability


_NOTHING: list[Violation] = []


class Flight(Struct, frozen=True, kw_only=True):
    """Requests that one version decides together, and where their records will stand in the log.

    ``observation[N, F]`` are their observations; ``departed`` (s, monotonic) is when inference began.
    """

    rows: Sequence[Request]
    observation: Floats
    version: str
    digest: str
    track: Track
    track_probability: float
    seq: int
    ms: int
    generation: int
    may_explore: bool
    departed: float
    infer_us: int

    def before(self, row: int) -> Moment:
        """What a row continues."""
        entry = self.rows[row].entry
        assert entry is not None  # noqa: S101 - the turn finds it before the flight departs
        return entry


@dataclass(slots=True)
class Choice:
    """What is chosen for each of N rows; ``why`` has the rows that the policy could not decide."""

    proposed: Integers
    action: Integers
    propensity: Floats
    explored: Booleans
    source: list[DecisionSource]
    why: dict[int, PolicyUnavailable]

    @classmethod
    def drawn(cls, draw: Draw) -> "Choice":
        """What the policy's draw chose for every row."""
        return cls(draw.proposed, draw.action, draw.propensity, draw.explored, ["policy"] * len(draw.action), {})

    @classmethod
    def nothing(cls, n: int, why: dict[int, PolicyUnavailable]) -> "Choice":
        """Nothing chosen yet."""
        none = np.full(n, NO_ACTION, dtype=np.int64)
        return cls(none, none.copy(), np.ones(n), np.zeros(n, dtype=np.bool_), ["policy"] * n, why)


def decide(plane: Plane, flight: Flight, head: np.ndarray | PolicyUnavailable) -> list[Decision | Refused]:
    """Decide a flight: ``head[N, A]`` as the network gave it, or why there is none; one record a row."""
    context = _context(plane, flight)
    ruling = plane.shield.judge(context)
    bodies = _bodies(plane, flight)
    if isinstance(head, PolicyUnavailable):
        choice = Choice.nothing(len(bodies), dict.fromkeys(range(len(bodies)), head))
    else:
        choice = _explore(plane, flight, head, context, ruling, bodies)
    if choice.why:
        _fall_back(plane, context, ruling, choice)
    return _records(plane, flight, head, ruling, bodies, choice)


def _context(plane: Plane, flight: Flight) -> Context:
    """What the guards see of the flight."""
    rows = flight.rows
    names = plane.schema.facts
    told = [[(row.facts or {}).get(name, np.nan) for name in names] for row in rows] if names else None
    mask = None
    if any(row.mask is not None for row in rows):
        everything = [True] * len(plane.schema.actions)
        mask = np.array([everything if row.mask is None else row.mask for row in rows], dtype=np.bool_)
    return Context(
        observation=flight.observation,
        facts=np.empty((len(rows), 0)) if told is None else np.array(told, dtype=np.float64),
        mask=mask,
        now=np.array([row.now for row in rows]),
        histories=[row.entry.history for row in rows if row.entry is not None],
    )


def _bodies(plane: Plane, flight: Flight) -> list[bytes]:
    """The ids' bodies, from which every draw is made."""
    prefix = body_prefix(plane.key, plane.writer)
    return [body_of(prefix, flight.ms, seq, flight.track) for seq in range(flight.seq, flight.seq + len(flight.rows))]


def _explore(
    plane: Plane, flight: Flight, head: np.ndarray, context: Context, ruling: Ruling, bodies: list[bytes]
) -> Choice:
    """Draw inside the shield for every row that the policy can decide, then check what was drawn."""
    why = _undecidable(head, ruling)
    draw = plane.key.draw
    exploring = [flight.may_explore and row.explore for row in flight.rows]
    if not why:
        uniform = uniforms(b"".join([draw(body) for body in bodies]))
        drawn = mixed(plane.explorer, exploring, head.astype(np.float64), ruling.allowed, uniform)
        choice = Choice.drawn(drawn)
        passes = plane.shield.check(context, drawn.action)
        if np.count_nonzero(passes) < len(passes):
            choice.why.update((i, CheckFailed()) for i in np.flatnonzero(~passes).tolist())
        return choice
    choice = Choice.nothing(len(bodies), why)
    left = [i for i in range(len(bodies)) if i not in why]
    if left:
        # The rows that are left are a flight of their own, whose choices are put back in place.
        part = _explore(
            plane,
            msgspec.structs.replace(flight, rows=[flight.rows[i] for i in left]),
            head[left],
            context.rows(np.array(left)),
            Ruling(allowed=ruling.allowed[left], forbidden=()),
            [bodies[i] for i in left],
        )
        choice.proposed[left], choice.action[left] = part.proposed, part.action
        choice.propensity[left], choice.explored[left] = part.propensity, part.explored
        choice.why.update((left[i], failed) for i, failed in part.why.items())
    return choice


def _undecidable(head: np.ndarray, ruling: Ruling) -> dict[int, PolicyUnavailable]:
    """Rows the policy cannot decide, and why: nothing left to choose, or numbers that are not finite."""
    why: dict[int, PolicyUnavailable] = {}
    choosable = np.logical_or.reduce(ruling.allowed, axis=1)
    if np.count_nonzero(choosable) < len(choosable):
        why.update((i, NoSafeAction()) for i in np.flatnonzero(~choosable).tolist())
    # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
    finite = np.isfinite(head)
    if np.count_nonzero(finite) < finite.size:
        why.update((i, InvalidOutput()) for i in np.flatnonzero(~finite.all(axis=1)).tolist())
    return why


def _fall_back(plane: Plane, context: Context, ruling: Ruling, choice: Choice) -> None:
    """Let the baseline propose where the policy could not decide; refused, the last resort leaves, or nothing."""
    rows = np.array(sorted(choice.why))
    there = context.rows(rows)
    proposal = plane.baseline(there)
    passes = plane.shield.check(there, proposal) & ruling.allowed[rows, np.maximum(proposal, 0)]
    choice.proposed[rows] = proposal
    choice.propensity[rows] = 1.0
    choice.explored[rows] = False
    last = NO_ACTION if plane.last_resort is None else plane.last_resort
    choice.action[rows] = np.where(passes, proposal, last)
    for i, passed in zip(rows.tolist(), passes.tolist(), strict=True):
        choice.source[i] = "baseline" if passed else "last_resort"


def _records(
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
    row, before = flight.rows[i], flight.before(i)
    history, why = before.history, choice.why.get(i)
    identified = why is None or why.identified
    return Decision(
        seq=flight.seq + i,
        ms=flight.ms,
        id=token,
        session=row.session,
        episode=before.episode or (public_id(token) if before.decision_id is None else None),
        step=history.step if history.known else None,
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
        state=history,
        config=plane.config,
        explorer=plane.explorer.kind if flight.may_explore and row.explore else GREEDY.kind,
        key=plane.key.number,
        proposed=None if proposed == NO_ACTION else proposed,
        action=action,
        propensity=propensity,
        measure="mass",
        propensity_ok=identified,
        why_not_ok=None if identified or why is None else why.reason,
        source=choice.source[i],
        reason=None if why is None else why.reason,
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
