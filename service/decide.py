"""The path of a decision, from a batch of requests and a policy's head to records that can be recomputed.

Read this page first. It has no I/O: the turn (``turn.py``) infers before it and journals after it.

    guard     context → allowed[N, W]: a truth for every choice there is
    explore   head + allowed → a proposal, an action, its probability
    check     the action once more, by the shield's own test
              any failure on the way → the baseline's proposal through the same guard → else the last resort
    log       one record per decision
"""

import msgspec
import numpy as np

from guards.errors import CheckFailed, InvalidOutput, NoSafeAction, PolicyUnavailable
from guards.records import Context
from guards.shield import Ruling
from service.account import records_of
from service.explore import uniforms
from service.flight import Choice, Flight, Plane
from service.ids import body_of, body_prefix
from service.records import Decision, Refused


def decide(plane: Plane, flight: Flight, head: np.ndarray | PolicyUnavailable) -> list[Decision | Refused]:
    """Decide a flight: ``head[N, H]`` as the network gave it, or why there is none; one record a row."""
    context = _context(plane, flight)
    ruling = plane.shield.judge(context)
    bodies = _bodies(plane, flight)
    if isinstance(head, PolicyUnavailable):
        choice = Choice.nothing(len(bodies), plane.shield.domain.nothing, dict.fromkeys(range(len(bodies)), head))
    else:
        choice = _explore(plane, flight, head, context, ruling, bodies)
    if choice.why:
        _fall_back(plane, context, ruling, choice)
    return records_of(plane, flight, head, ruling, bodies, choice)


def _context(plane: Plane, flight: Flight) -> Context:
    """What the guards see of the flight."""
    rows = flight.rows
    names = plane.schema.facts
    told = [[(row.facts or {}).get(name, np.nan) for name in names] for row in rows] if names else None
    mask = None
    if any(row.mask is not None for row in rows):
        everything = [True] * plane.shield.domain.width
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
    acting = plane.acting
    why = _undecidable(plane, head, ruling)
    draw, blocks = plane.key.draw, acting.blocks
    exploring = [flight.may_explore and row.explore for row in flight.rows]
    if not why:
        uniform = uniforms(b"".join([draw(body, blocks) for body in bodies]), blocks)
        choice = Choice.drawn(acting.draw(exploring, head.astype(np.float64), ruling.allowed, uniform))
        passes = plane.shield.check(context, choice.action)
        if np.count_nonzero(passes) < len(passes):
            choice.why.update((i, CheckFailed()) for i in np.flatnonzero(~passes).tolist())
        return choice
    choice = Choice.nothing(len(bodies), plane.shield.domain.nothing, why)
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
        choice.put(left, part)
    return choice


def _undecidable(plane: Plane, head: np.ndarray, ruling: Ruling) -> dict[int, PolicyUnavailable]:
    """Rows the policy cannot decide, and why: nothing left to choose, or numbers that nothing can be drawn from."""
    why: dict[int, PolicyUnavailable] = {}
    choosable = plane.shield.domain.choosable(ruling.allowed)
    if np.count_nonzero(choosable) < len(choosable):
        why.update((i, NoSafeAction()) for i in np.flatnonzero(~choosable).tolist())
    # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
    sound = plane.acting.sound(head)
    if np.count_nonzero(sound) < sound.size:
        why.update((i, InvalidOutput()) for i in np.flatnonzero(~sound.all(axis=1)).tolist())
    return why


def _fall_back(plane: Plane, context: Context, ruling: Ruling, choice: Choice) -> None:
    """Let the baseline propose where the policy could not decide; refused, the last resort leaves, or nothing."""
    rows = np.array(sorted(choice.why))
    there = context.rows(rows)
    domain = plane.shield.domain
    proposal = plane.baseline(there)
    passes = plane.shield.check(there, proposal) & ruling.permits(rows, domain.columns(proposal))
    # A draw may have proposed and done the same array.
    choice.proposed = choice.proposed.copy()
    choice.proposed[rows] = choice.action[rows] = proposal
    choice.action[rows[~passes]] = domain.nothing if plane.last_resort is None else plane.last_resort
    choice.propensity[rows] = 1.0
    choice.explored[rows] = False
    choice.beyond.difference_update(choice.why)
    for i, passed in zip(rows.tolist(), passes.tolist(), strict=True):
        choice.measure[i] = "mass"
        choice.source[i] = "baseline" if passed else "last_resort"
