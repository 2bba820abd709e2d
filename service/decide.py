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

import numpy as np

from guards.baselines import Propose
from guards.errors import CheckFailed, InvalidOutput, NoSafeAction, PolicyUnavailable
from guards.records import NO_ACTION, Context, Floats, Integers, Schema
from guards.shield import Ruling, Shield, Violation
from service.explore import GREEDY, Explorer, mixed, uniforms
from service.ids import Key, body_of, body_prefix, public_id
from service.records import (
    HEAD_LIMIT,
    Bits,
    Decision,
    DecisionSource,
    Durability,
    Packed,
    Refused,
    Track,
    listed,
    listed_rows,
    packed_rows,
)
from service.requests import Request
from service.sessions import Entry


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


@dataclass(frozen=True, slots=True)
class Flight:
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

    def entry(self, row: int) -> Entry:
        """What a row continues."""
        entry = self.rows[row].entry
        assert entry is not None  # noqa: S101 - the turn finds it before the flight departs
        return entry


class Choice:
    """What is being chosen for each of N rows, filled in on the way."""

    __slots__ = ("action", "explored", "propensity", "proposed", "source", "why")

    def __init__(self, n: int) -> None:
        self.proposed: Integers = np.full(n, NO_ACTION, dtype=np.int64)
        self.action: Integers = np.full(n, NO_ACTION, dtype=np.int64)
        self.propensity: Floats = np.ones(n)
        self.explored = np.zeros(n, dtype=np.bool_)
        self.source: list[DecisionSource] = ["policy"] * n
        self.why: dict[int, PolicyUnavailable] = {}


def decide(plane: Plane, flight: Flight, head: np.ndarray | PolicyUnavailable) -> list[Decision | Refused]:
    """Decide a flight: ``head[N, A]`` as the network gave it, or why there is none; one record a row."""
    context = _context(plane, flight)
    ruling = plane.shield.judge(context)
    choice = Choice(len(flight.rows))
    bodies = _bodies(plane, flight)

    choice.why.update(_unavailable(head, ruling))
    if len(choice.why) < len(flight.rows):
        assert isinstance(head, np.ndarray)  # noqa: S101 - a flight without a head has no row left here
        _explore(plane, flight, head, context, ruling, bodies, choice)
    if choice.why:
        _fall_back(plane, context, ruling, choice)
    return _records(plane, flight, head, ruling, bodies, choice)


def _context(plane: Plane, flight: Flight) -> Context:
    """What the guards see of the flight."""
    rows = flight.rows
    names = plane.schema.facts
    told = [[(row.facts or {}).get(name, np.nan) for name in names] for row in rows] if names else []
    mask = None
    if any(row.mask is not None for row in rows):
        everything = [True] * len(plane.schema.actions)
        mask = np.array([everything if row.mask is None else row.mask for row in rows], dtype=np.bool_)
    return Context(
        observation=flight.observation,
        facts=np.array(told, dtype=np.float64).reshape(len(rows), len(names)),
        mask=mask,
        now=np.array([row.now for row in rows]),
        histories=[flight.entry(i).history for i in range(len(rows))],
    )


def _bodies(plane: Plane, flight: Flight) -> list[bytes]:
    """The ids' bodies, from which every draw is made."""
    prefix = body_prefix(plane.key, plane.writer)
    return [body_of(prefix, flight.ms, flight.seq + i, flight.track) for i in range(len(flight.rows))]


def _unavailable(head: np.ndarray | PolicyUnavailable, ruling: Ruling) -> dict[int, PolicyUnavailable]:
    """Rows the policy cannot decide, and why: no head, numbers that are not finite, nothing left to choose."""
    if isinstance(head, PolicyUnavailable):
        return dict.fromkeys(range(len(ruling.allowed)), head)
    why: dict[int, PolicyUnavailable] = {}
    choosable = ruling.allowed.any(axis=1)
    if not choosable.all():
        why.update((int(i), NoSafeAction()) for i in np.flatnonzero(~choosable))
    # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
    finite = np.isfinite(head)
    if not finite.all():
        why.update((int(i), InvalidOutput()) for i in np.flatnonzero(~finite.all(axis=1)))
    return why


def _explore(
    plane: Plane,
    flight: Flight,
    head: np.ndarray,
    context: Context,
    ruling: Ruling,
    bodies: list[bytes],
    choice: Choice,
) -> None:
    """Draw inside the shield for every row that the policy can decide, then check what was drawn."""
    rows = np.array([i for i in range(len(bodies)) if i not in choice.why])
    draw = plane.key.draw
    uniform = uniforms(b"".join([draw(bodies[i]) for i in rows]))
    exploring = np.array([flight.may_explore and flight.rows[i].explore for i in rows])
    drawn = mixed(plane.explorer, exploring, head[rows].astype(np.float64), ruling.allowed[rows], uniform)
    choice.proposed[rows] = drawn.proposed
    choice.action[rows] = drawn.action
    choice.propensity[rows] = drawn.propensity
    choice.explored[rows] = drawn.explored
    whole = len(rows) == len(context)
    passes = plane.shield.check(context if whole else context.rows(rows), drawn.action)
    if not passes.all():
        choice.why.update((int(i), CheckFailed()) for i in rows[~passes])


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
    heads = packed_rows(head) if isinstance(head, np.ndarray) and head.shape[1] <= HEAD_LIMIT else None
    allowed = listed_rows(ruling.allowed)
    drawn = zip(
        choice.proposed.tolist(),
        choice.action.tolist(),
        choice.propensity.tolist(),
        choice.explored.tolist(),
        strict=True,
    )
    return [
        _refused(flight, i, choice, said)
        if action == NO_ACTION
        else _decision(
            plane,
            flight,
            i,
            choice,
            token=plane.key.token(bodies[i]),
            head=None if heads is None else heads[i],
            allowed=allowed[i],
            proposed=None if proposed == NO_ACTION else proposed,
            action=action,
            propensity=propensity,
            explored=explored,
            violations=said.get(i, []),
        )
        for i, (proposed, action, propensity, explored) in enumerate(drawn)
    ]


def _refused(flight: Flight, i: int, choice: Choice, said: dict[int, list[Violation]]) -> Refused:
    """The record of a row that no action could be found for."""
    row = flight.rows[i]
    return Refused(
        seq=flight.seq + i,
        ms=flight.ms,
        session=row.session,
        at=row.at,
        observation=listed(flight.observation[i]),
        reason=choice.why[i].reason,
        violations=said.get(i, []),
    )


def _decision(
    plane: Plane,
    flight: Flight,
    i: int,
    choice: Choice,
    *,
    token: str,
    head: Packed | None,
    allowed: Bits,
    proposed: int | None,
    action: int,
    propensity: float,
    explored: bool,
    violations: list[Violation],
) -> Decision:
    """The record of a row."""
    row, entry = flight.rows[i], flight.entry(i)
    history, why = entry.history, choice.why.get(i)
    identified = why is None or why.identified
    return Decision(
        seq=flight.seq + i,
        ms=flight.ms,
        id=token,
        session=row.session,
        episode=entry.episode or (public_id(token) if entry.previous is None else None),
        step=history.step if history.known else None,
        at=row.at,
        observed_at=row.observed_at,
        previous=entry.previous,
        track=flight.track,
        track_probability=flight.track_probability,
        version=flight.version,
        digest=flight.digest,
        observation=listed(flight.observation[i]),
        facts=row.facts,
        mask=row.mask if row.mask is None else listed_rows(np.array([row.mask]))[0],
        options=row.options,
        head=head,
        allowed=allowed,
        state=history,
        config=plane.config,
        explorer=plane.explorer.kind if flight.may_explore and row.explore else GREEDY.kind,
        key=plane.key.number,
        proposed=proposed,
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
    speak = choice.proposed != choice.action
    if choice.why:
        # A last resort may be the very action that was refused: then it was executed against a constraint.
        speak |= np.array([source == "last_resort" for source in choice.source])
    if plane.shield.reports:
        speak |= ruling.reported(np.maximum(choice.action, 0))
    said: dict[int, list[Violation]] = {}
    for i in np.flatnonzero(speak).tolist():
        proposed, action = int(choice.proposed[i]), int(choice.action[i])
        spoken = []
        if proposed not in (action, NO_ACTION):
            spoken += [Violation(n, "prevented", m) for n, m in ruling.against(i, proposed) if m == "deny"]
        if action != NO_ACTION:
            spoken += [Violation(n, "executed" if m == "deny" else "reported", m) for n, m in ruling.against(i, action)]
        said[i] = spoken
    return said
