"""The path of a decision, from a batch of requests and a policy's head to records that can be recomputed.

Read this page first. It has no I/O: the turn (``turn.py``) infers before it and journals after it.

    guard     context → allowed[N, W]: a truth for every choice there is; doubts about the policy's answer
    explore   head + allowed → a proposal, an action, its probability
    check     the action once more, by the shield's own test
              any failure on the way → the baseline's proposal through the same guard → else the last resort
    log       one record per decision
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from guards.abstention import Answer
from guards.batched import AnyRuling, Asked, BoxRuling, Context
from guards.errors import CheckFailed, InvalidOutput, MaskMissing, NoSafeAction, PolicyUnavailable
from guards.projection import EXACT, some
from guards.records import Actions, Booleans, Integers
from guards.shield import Violation, violation
from service.account import records_of
from service.explore import GREEDY, uniforms
from service.flight import Choice, Flight, Plane
from service.ids import body_of, body_prefix
from service.records import Decision, Refused
from service.requests import Request


def decide(plane: Plane, flight: Flight, head: np.ndarray | PolicyUnavailable) -> list[Decision | Refused]:
    """Decide a flight: ``head[N, H]`` as the network gave it, or why there is none; one record a row."""
    context = context_of(plane, flight.rows, flight.observation)
    ruling = plane.shield.judge(context)
    bodies = _bodies(plane, flight)
    if isinstance(head, np.ndarray) and head.shape != (len(bodies), plane.acting.width):
        head = InvalidOutput()
    if isinstance(head, PolicyUnavailable):
        choice = Choice.nothing(len(bodies), plane.shield.domain.nothing, dict.fromkeys(range(len(bodies)), head))
    else:
        why = _undecidable(plane, flight, head, ruling)
        doubted = {} if plane.acting.ranks else _overruled(plane, head, ruling, why)
        if plane.doubts.bound:
            doubted |= _doubted(plane, flight, head, context, why)
        choice = _explore(plane, flight, head, context, ruling, bodies, why)
        choice.doubted = doubted
        if ruling.unlisted is not None and plane.shield.refuses:
            _refuse(plane, context, ruling, ruling.unlisted, choice)
    if choice.why:
        _fall_back(plane, context, ruling, choice)
    return records_of(plane, flight, head, ruling, bodies, choice)


def context_of(plane: Plane, rows: Sequence[Request], observation: np.ndarray) -> Context:
    """What the guards see of requests and their observation[N, ...]."""
    names = plane.schema.facts
    told = [[(row.facts or {}).get(name, np.nan) for name in names] for row in rows] if names else None
    mask = None
    if any(row.mask is not None for row in rows):
        everything = [True] * plane.shield.domain.width
        mask = np.array([everything if row.mask is None else row.mask for row in rows], dtype=np.bool_)
    return Context(
        observation=observation,
        facts=np.empty((len(rows), 0)) if told is None else np.array(told, dtype=np.float64),
        mask=mask,
        now=np.array([row.now for row in rows]),
        histories=[row.entry.history for row in rows if row.entry is not None],
    )


def _bodies(plane: Plane, flight: Flight) -> list[bytes]:
    """The ids' bodies, from which every draw is made."""
    prefix = body_prefix(plane.key, plane.writer)
    places = range(flight.seq, flight.seq + len(flight.rows))
    return [body_of(prefix, flight.ms, seq, flight.track, unlogged=flight.unlogged) for seq in places]


def _explore(
    plane: Plane,
    flight: Flight,
    head: np.ndarray,
    context: Context,
    ruling: AnyRuling,
    bodies: list[bytes],
    why: dict[int, PolicyUnavailable],
) -> Choice:
    """Draw inside the shield for every row that the policy can decide, then check what was drawn."""
    acting = plane.acting
    draw, blocks = plane.key.draw, acting.blocks
    exploring = [flight.may_explore and row.explore for row in flight.rows]
    if not why:
        uniform = uniforms(b"".join([draw(body, blocks) for body in bodies]), blocks)
        numbers = head.astype(np.float64)
        choice = Choice.drawn(acting.draw(exploring, numbers, ruling.leaves, uniform))
        _move(plane, ruling, choice, lambda: acting.greedy(numbers, ruling.leaves, uniform).proposed, exploring)
        passes = plane.shield.check(context, choice.action)
        if np.count_nonzero(passes) < len(passes):
            there = plane.shield.domain.there
            nowhere = there(choice.proposed) & ~there(choice.action)
            failed = np.flatnonzero(~passes).tolist()
            choice.why.update((i, NoSafeAction() if nowhere[i] else CheckFailed()) for i in failed)
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
            ruling.rows(np.array(left)),
            [bodies[i] for i in left],
            {},
        )
        choice.put(left, part)
    return choice


def _move(
    plane: Plane, ruling: AnyRuling, choice: Choice, best: Callable[[], Actions], exploring: Sequence[bool]
) -> None:
    """Move what was drawn to where it is allowed.

    Of half-spaces a draw knows nothing: they may move it and the best to one point, or apart, so whether it explores is
    seen after both were moved. Together, because that costs less than one by one.
    """
    explores = any(exploring) and plane.explorer.kind != GREEDY.kind
    if not (explores and isinstance(ruling, BoxRuling) and ruling.region.most.size):
        choice.action = ruling.nearest(choice.proposed, choice.action)
        return
    twice = np.tile(np.arange(len(exploring)), 2)
    both = ruling.region.rows(twice).nearest(np.concatenate([choice.proposed, best()]), ruling.scale)
    choice.action, there = np.split(both, 2)
    choice.explored = exploring & some(np.abs(choice.action - there) > EXACT * ruling.scale)


def _undecidable(plane: Plane, flight: Flight, head: np.ndarray, ruling: AnyRuling) -> dict[int, PolicyUnavailable]:
    """Rows the policy cannot decide, and why: nothing left to choose, or numbers that nothing can be drawn from."""
    why: dict[int, PolicyUnavailable] = {}
    choosable = plane.shield.domain.choosable(ruling.leaves)
    if np.count_nonzero(choosable) < len(choosable):
        why.update((i, NoSafeAction()) for i in np.flatnonzero(~choosable).tolist())
    # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
    sound = plane.acting.sound(head)
    if np.count_nonzero(sound) < sound.size:
        why.update((i, InvalidOutput()) for i in np.flatnonzero(~sound.all(axis=1)).tolist())
    if plane.mask_required:
        why.update((i, MaskMissing()) for i, row in enumerate(flight.rows) if row.mask is None)
    return why


def _overruled(
    plane: Plane, head: np.ndarray, ruling: AnyRuling, why: dict[int, PolicyUnavailable]
) -> dict[int, list[Violation]]:
    """Put the rows whose one chosen action is forbidden beside those that the policy cannot decide; what forbids it.

    The head has no scores: there is no second best, and an arg-max over what is left would do the first of all actions.
    No coin is tossed for such a row. That the baseline decides it is a function of what was seen then, and what it does
    has probability 1, whether others explore or not.
    """
    left = np.array([i for i in range(len(head)) if i not in why], dtype=np.int64)
    if not left.size:
        return {}
    numbers = head[left].astype(np.float64)
    chosen = plane.acting.greedy(numbers, ruling.leaves[left], np.empty((len(left), 0))).proposed
    said: dict[int, list[Violation]] = {}
    for name, mode, hits in ruling.forbidding(left, plane.shield.domain.columns(chosen)):
        if mode == "deny":
            for i in left[np.broadcast_to(hits, left.shape)].tolist():
                said.setdefault(i, []).append(violation(name, "prevented", mode))
                why[i] = NoSafeAction()
    return said


def _doubted(
    plane: Plane, flight: Flight, head: np.ndarray, context: Context, why: dict[int, PolicyUnavailable]
) -> dict[int, list[Violation]]:
    """Put the rows that a doubt denies the policy beside those it cannot decide; what all doubts say of each row."""
    spread = None if flight.spread is None else np.array(flight.spread, dtype=np.float64)
    said: dict[int, list[Violation]] = {}
    denied: dict[int, PolicyUnavailable] = {}
    for doubt, hits in plane.doubts.about(Answer(context, head.astype(np.float64), spread, _ages(flight))):
        for i in np.flatnonzero(hits).tolist():
            if i not in why:
                verdict = "prevented" if doubt.mode == "deny" else "reported"
                said.setdefault(i, []).append(violation(doubt.name, verdict, doubt.mode))
                if doubt.mode == "deny":
                    denied.setdefault(i, doubt.reason())
    why.update(denied)
    return said


def _ages(flight: Flight) -> np.ndarray:
    """How old each observation is now, by the clock that stamped the request and the time it took since: all logged."""
    taken = [round((flight.departed - row.read) * 1e6) + flight.infer_us for row in flight.rows]
    told = zip(flight.rows, taken, strict=True)
    return np.array([np.nan if row.observed_at is None else row.at - row.observed_at + us / 1e6 for row, us in told])


def _refuse(plane: Plane, context: Context, ruling: AnyRuling, unlisted: Asked, choice: Choice) -> None:
    """Put the rows whose draw is refused by constraints of which no mask and no region was made beside those left
    nothing to choose.

    How often a draw is refused nobody works out. So it is not known how probable that is which is done then, whether it
    is done for this or drawn. Where the draw is certain, everything is.
    """
    domain = plane.shield.domain
    rows = np.array([i for i in range(len(context)) if isinstance(choice.why.get(i, CheckFailed()), CheckFailed)])
    if not rows.size:
        return
    refused = np.zeros(len(rows), dtype=np.bool_)
    for name, mode, hits in unlisted.forbidding(rows, domain.columns(choice.action[rows])):
        if mode == "deny":
            refused |= hits
            for i in rows[np.broadcast_to(hits, rows.shape)].tolist():
                choice.doubted.setdefault(i, []).append(violation(name, "prevented", mode))
    choice.why.update((i, NoSafeAction()) for i in rows[refused].tolist())
    chancy = (choice.propensity[rows] < 1) | np.array([choice.measure[i] != "mass" for i in rows])
    if np.count_nonzero(chancy):
        left = rows[chancy]
        _, action, passes = advised(plane, context.rows(left), ruling, left)
        otherwise = np.where(
            passes[:, None], action, domain.nothing if plane.last_resort is None else plane.last_resort
        )
        same = ~domain.differ(otherwise, choice.action[left])
        choice.unknown.update(left[refused[chancy] | same].tolist())


def _fall_back(plane: Plane, context: Context, ruling: AnyRuling, choice: Choice) -> None:
    """Let the baseline propose where the policy could not decide; refused, the last resort leaves, or nothing."""
    rows = np.array(sorted(choice.why))
    there = context.rows(rows)
    domain = plane.shield.domain
    proposal, action, passes = advised(plane, there, ruling, rows)
    # A draw may have proposed and done the same array.
    choice.proposed = choice.proposed.copy()
    choice.proposed[rows], choice.action[rows] = proposal, action
    choice.action[rows[~passes]] = domain.nothing if plane.last_resort is None else plane.last_resort
    choice.propensity[rows] = 1.0
    choice.explored[rows] = False
    choice.beyond.difference_update(choice.why)
    for i, passed in zip(rows.tolist(), passes.tolist(), strict=True):
        choice.measure[i] = "mass"
        choice.source[i] = "baseline" if passed else "last_resort"


def advised(plane: Plane, there: Context, ruling: AnyRuling, rows: Integers) -> tuple[Actions, Actions, Booleans]:
    """What the baseline proposes for some rows[M] of a ruling, ``there`` being theirs; what comes of it, and whether
    that passes."""
    proposal = plane.baseline(there)
    action = ruling.rows(rows).nearest(proposal, proposal)
    permitted = ruling.permits(rows, plane.shield.domain.columns(action))
    return proposal, action, plane.shield.check(there, action) & permitted


def weights_of(plane: Plane, flight: Flight, records: Sequence[Decision | Refused]) -> dict[int, list[float]]:
    """What each executed action counts for, by row, for the constraints that keep count."""
    done = {i: record.action for i, record in enumerate(records) if isinstance(record, Decision)}
    if not done:
        return {}
    there = context_of(plane, flight.rows, flight.observation)
    if len(done) < len(flight.rows):
        there = there.rows(np.array(list(done)))
    return dict(zip(done, plane.shield.weights(there, np.array(list(done.values()))), strict=True))
