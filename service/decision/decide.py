"""The path of a decision, from a batch of requests and a policy's head to records that can be recomputed.

Read this page first. It has no I/O: ``batcher.py`` infers before it and ``commit.py`` journals after it.

    guard     context → allowed[N, W]: a truth for every choice there is; doubts about the policy's answer
    explore   head + allowed → a proposal, an action, its probability
    check     the action once more, by the shield's own test
              any failure on the way → the baseline's proposal through the same guard → else the last resort
    log       one record per decision
"""

from collections.abc import Callable, Sequence

import numpy as np

from guards.abstention import Answer
from guards.batched import AnyRuling, Asked, BoxRuling, Context
from guards.errors import CheckFailed, InvalidOutput, MaskMissing, NoSafeAction, PolicyUnavailable
from guards.projection import EXACT, some
from guards.records import Actions, Booleans, Integers
from guards.shield import Violation, violation
from service.decision.batch import Batch, Behaviour, Choice, Request
from service.decision.explore.explorers import GREEDY, uniforms
from service.decision.record import records_of
from service.log.ids import body_of, body_prefix
from service.log.records import Decision
from service.versions.engine import ModelOutput


def decide(behaviour: Behaviour, batch: Batch) -> None:
    """Decide a batch, from the head[N, H] that the network gave it, or why there is none: one record a row."""
    head = batch.output.head if isinstance(batch.output, ModelOutput) else batch.output
    context = context_of(behaviour, batch.requests, batch.observation)
    ruling = behaviour.shield.judge(context)
    bodies = _bodies(behaviour, batch)
    if isinstance(head, np.ndarray) and head.shape != (len(bodies), behaviour.acting.width):
        head = InvalidOutput()
    if isinstance(head, PolicyUnavailable):
        choice = Choice.nothing(len(bodies), behaviour.shield.domain.nothing, dict.fromkeys(range(len(bodies)), head))
    else:
        why = _undecidable(behaviour, batch, head, ruling)
        doubted = {} if behaviour.acting.ranks else _overruled(behaviour, head, ruling, why)
        if behaviour.doubts.bound:
            doubted |= _doubted(behaviour, batch, head, context, why)
        choice = _explore(behaviour, batch, head, context, ruling, bodies, why)
        choice.doubted = doubted
        if ruling.unlisted is not None and behaviour.shield.refuses:
            _refuse(behaviour, context, ruling, ruling.unlisted, choice)
    if choice.why:
        _fall_back(behaviour, context, ruling, choice)
    batch.records = records_of(behaviour, batch, head, ruling, bodies, choice)


def context_of(behaviour: Behaviour, rows: Sequence[Request], observation: np.ndarray) -> Context:
    """What the guards see of requests and their observation[N, ...]."""
    names = behaviour.schema.facts
    told = [[(row.facts or {}).get(name, np.nan) for name in names] for row in rows] if names else None
    mask = None
    if any(row.mask is not None for row in rows):
        everything = [True] * behaviour.shield.domain.width
        mask = np.array([everything if row.mask is None else row.mask for row in rows], dtype=np.bool_)
    return Context(
        observation=observation,
        facts=np.empty((len(rows), 0)) if told is None else np.array(told, dtype=np.float64),
        mask=mask,
        now=np.array([row.now for row in rows]),
        histories=[row.entry.history for row in rows if row.entry is not None],
    )


def _bodies(behaviour: Behaviour, batch: Batch) -> list[bytes]:
    """The ids' bodies, from which every draw is made."""
    prefix = body_prefix(behaviour.key, behaviour.writer)
    places = range(batch.seq, batch.seq + len(batch.requests))
    return [body_of(prefix, batch.ms, seq, batch.assignment.track, unlogged=batch.unlogged) for seq in places]


def _explore(
    behaviour: Behaviour,
    batch: Batch,
    head: np.ndarray,
    context: Context,
    ruling: AnyRuling,
    bodies: list[bytes],
    why: dict[int, PolicyUnavailable],
) -> Choice:
    """Draw inside the shield for every row that the policy can decide, then check what was drawn."""
    acting = behaviour.acting
    draw, blocks = behaviour.key.draw, acting.blocks
    exploring = [batch.may_explore and row.explore for row in batch.requests]
    if not why:
        uniform = uniforms(b"".join([draw(body, blocks) for body in bodies]), blocks)
        numbers = head.astype(np.float64)
        choice = Choice.drawn(acting.draw(exploring, numbers, ruling.leaves, uniform))
        _move(behaviour, ruling, choice, lambda: acting.greedy(numbers, ruling.leaves, uniform).proposed, exploring)
        passes = behaviour.shield.check(context, choice.action)
        if np.count_nonzero(passes) < len(passes):
            there = behaviour.shield.domain.there
            nowhere = there(choice.proposed) & ~there(choice.action)
            failed = np.flatnonzero(~passes).tolist()
            choice.why.update((i, NoSafeAction() if nowhere[i] else CheckFailed()) for i in failed)
        return choice
    choice = Choice.nothing(len(bodies), behaviour.shield.domain.nothing, why)
    left = [i for i in range(len(bodies)) if i not in why]
    if left:
        # The rows that are left are a batch of their own, whose choices are put back in place.
        part = _explore(
            behaviour,
            batch.part(left),
            head[left],
            context.rows(np.array(left)),
            ruling.rows(np.array(left)),
            [bodies[i] for i in left],
            {},
        )
        choice.put(left, part)
    return choice


def _move(
    behaviour: Behaviour, ruling: AnyRuling, choice: Choice, best: Callable[[], Actions], exploring: Sequence[bool]
) -> None:
    """Move what was drawn to where it is allowed.

    Of half-spaces a draw knows nothing: they may move it and the best to one point, or apart, so whether it explores is
    seen after both were moved. Together, because that costs less than one by one.
    """
    explores = any(exploring) and behaviour.explorer.kind != GREEDY.kind
    if not (explores and isinstance(ruling, BoxRuling) and ruling.region.most.size):
        choice.action = ruling.nearest(choice.proposed, choice.action)
        return
    twice = np.tile(np.arange(len(exploring)), 2)
    both = ruling.region.rows(twice).nearest(np.concatenate([choice.proposed, best()]), ruling.scale)
    choice.action, there = np.split(both, 2)
    choice.explored = exploring & some(np.abs(choice.action - there) > EXACT * ruling.scale)


def _undecidable(
    behaviour: Behaviour, batch: Batch, head: np.ndarray, ruling: AnyRuling
) -> dict[int, PolicyUnavailable]:
    """Rows the policy cannot decide, and why: nothing left to choose, or numbers that nothing can be drawn from."""
    why: dict[int, PolicyUnavailable] = {}
    choosable = behaviour.shield.domain.choosable(ruling.leaves)
    if np.count_nonzero(choosable) < len(choosable):
        why.update((i, NoSafeAction()) for i in np.flatnonzero(~choosable).tolist())
    # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
    sound = behaviour.acting.sound(head)
    if np.count_nonzero(sound) < sound.size:
        why.update((i, InvalidOutput()) for i in np.flatnonzero(~sound.all(axis=1)).tolist())
    if behaviour.mask_required:
        why.update((i, MaskMissing()) for i, row in enumerate(batch.requests) if row.mask is None)
    return why


def _overruled(
    behaviour: Behaviour, head: np.ndarray, ruling: AnyRuling, why: dict[int, PolicyUnavailable]
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
    chosen = behaviour.acting.greedy(numbers, ruling.leaves[left], np.empty((len(left), 0))).proposed
    said: dict[int, list[Violation]] = {}
    for name, mode, hits in ruling.forbidding(left, behaviour.shield.domain.columns(chosen)):
        if mode == "deny":
            for i in left[np.broadcast_to(hits, left.shape)].tolist():
                said.setdefault(i, []).append(violation(name, "prevented", mode))
                why[i] = NoSafeAction()
    return said


def _doubted(
    behaviour: Behaviour, batch: Batch, head: np.ndarray, context: Context, why: dict[int, PolicyUnavailable]
) -> dict[int, list[Violation]]:
    """Put the rows that a doubt denies the policy beside those it cannot decide; what all doubts say of each row."""
    spread = None if batch.spread is None else np.array(batch.spread, dtype=np.float64)
    said: dict[int, list[Violation]] = {}
    denied: dict[int, PolicyUnavailable] = {}
    for doubt, hits in behaviour.doubts.about(Answer(context, head.astype(np.float64), spread, _ages(batch))):
        for i in np.flatnonzero(hits).tolist():
            if i not in why:
                verdict = "prevented" if doubt.mode == "deny" else "reported"
                said.setdefault(i, []).append(violation(doubt.name, verdict, doubt.mode))
                if doubt.mode == "deny":
                    denied.setdefault(i, doubt.reason())
    why.update(denied)
    return said


def _ages(batch: Batch) -> np.ndarray:
    """How old each observation is now, by the clock that stamped the request and the time it took since: all logged."""
    taken = [round((batch.began - row.read) * 1e6) + batch.infer_us for row in batch.requests]
    told = zip(batch.requests, taken, strict=True)
    return np.array([np.nan if row.observed_at is None else row.at - row.observed_at + us / 1e6 for row, us in told])


def _refuse(behaviour: Behaviour, context: Context, ruling: AnyRuling, unlisted: Asked, choice: Choice) -> None:
    """Put the rows whose draw is refused by constraints of which no mask and no region was made beside those left
    nothing to choose.

    How often a draw is refused nobody works out. So it is not known how probable that is which is done then, whether it
    is done for this or drawn. Where the draw is certain, everything is.
    """
    domain = behaviour.shield.domain
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
        _, action, passes = advised(behaviour, context.rows(left), ruling, left)
        otherwise = np.where(
            passes[:, None], action, domain.nothing if behaviour.last_resort is None else behaviour.last_resort
        )
        same = ~domain.differ(otherwise, choice.action[left])
        choice.unknown.update(left[refused[chancy] | same].tolist())


def _fall_back(behaviour: Behaviour, context: Context, ruling: AnyRuling, choice: Choice) -> None:
    """Let the baseline propose where the policy could not decide; refused, the last resort leaves, or nothing."""
    rows = np.array(sorted(choice.why))
    there = context.rows(rows)
    domain = behaviour.shield.domain
    proposal, action, passes = advised(behaviour, there, ruling, rows)
    # A draw may have proposed and done the same array.
    choice.proposed = choice.proposed.copy()
    choice.proposed[rows], choice.action[rows] = proposal, action
    choice.action[rows[~passes]] = domain.nothing if behaviour.last_resort is None else behaviour.last_resort
    choice.propensity[rows] = 1.0
    choice.explored[rows] = False
    choice.beyond.difference_update(choice.why)
    for i, passed in zip(rows.tolist(), passes.tolist(), strict=True):
        choice.measure[i] = "mass"
        choice.source[i] = "baseline" if passed else "last_resort"


def advised(
    behaviour: Behaviour, there: Context, ruling: AnyRuling, rows: Integers
) -> tuple[Actions, Actions, Booleans]:
    """What the baseline proposes for some rows[M] of a ruling, ``there`` being theirs; what comes of it, and whether
    that passes."""
    proposal = behaviour.baseline(there)
    action = ruling.rows(rows).nearest(proposal, proposal)
    permitted = ruling.permits(rows, behaviour.shield.domain.columns(action))
    return proposal, action, behaviour.shield.check(there, action) & permitted


def weights_of(behaviour: Behaviour, batch: Batch) -> dict[int, list[float]]:
    """What each executed action counts for, by row, for the constraints that keep count."""
    done = {i: record.action for i, record in enumerate(batch.records) if isinstance(record, Decision)}
    if not done:
        return {}
    there = context_of(behaviour, batch.requests, batch.observation)
    if len(done) < len(batch.requests):
        there = there.rows(np.array(list(done)))
    return dict(zip(done, behaviour.shield.weights(there, np.array(list(done.values()))), strict=True))
