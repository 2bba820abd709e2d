"""The path of a decision, row by row, from what a policy answered to a record that can be recomputed.

Read this page first. It has no I/O: ``batcher.py`` infers before it and ``commit.py`` journals after it.

    judge     the row → what the constraints leave of all that may be chosen
    explore   head + what is left → a proposal, an action, its probability; doubts about the policy's answer
    check     the action once more, by the shield's own test
              any failure on the way → the baseline's proposal through the same guard → else the last resort
    record    all that it takes to make the decision again

A row is plain numbers; arrays are for what is wide: the head of a large action space, the numbers of a Box.
"""

from typing import Any

import numpy as np

from guards.abstention import PolicyAnswer
from guards.check import violation
from guards.errors import CheckFailed, InvalidOutput, MaskMissing, NoSafeAction, PolicyUnavailable
from guards.records import Action, Row
from service.decision.batch import Batch, Behaviour, Request
from service.decision.explore.choice import NOT_LISTED, Choice
from service.decision.record import Recorder
from service.log.ids import body_of
from service.versions.engine import ModelOutput


def decide(behaviour: Behaviour, batch: Batch) -> None:
    """Decide a batch, from the head[N, H] that the network gave it, or why there is none: one record a row."""
    output = batch.output
    if isinstance(output, ModelOutput) and output.head.shape != (len(batch.requests), behaviour.acting.width):
        output = InvalidOutput()
    recorder = Recorder(behaviour, batch, output)
    batch.rows = []
    for i, request in enumerate(batch.requests):
        row = row_of(behaviour, request, recorder.seen[i], batch.observation[i])
        batch.rows.append(row)
        left = behaviour.judge(row)
        body = body_of(behaviour.prefix, batch.ms, batch.seq + i, batch.assignment.track, unlogged=batch.unlogged)
        choice = Choice()
        try:
            if isinstance(output, PolicyUnavailable):
                raise output
            choice = _explore(behaviour, batch, i, left, body, choice, output.head[i])
        except PolicyUnavailable as why:
            _fall_back(behaviour, batch, i, left, choice, why)
        recorder.add(i, row, left, body, choice)
    batch.records = recorder.records


def row_of(behaviour: Behaviour, request: Request, observation: list[float], raw: np.ndarray) -> Row:
    """What the guards see of a request, and of its observation[...] as it came."""
    entry, told, mask = request.entry, request.facts or {}, None
    assert entry is not None  # noqa: S101 - the batcher finds what a row continues before its batch is run
    names = behaviour.schema.facts
    if request.mask is not None:
        mask = int.from_bytes(np.packbits(request.mask, bitorder="little").tobytes(), "little")
    facts = [told.get(name, np.nan) for name in names] if names else []
    return Row(observation, facts, mask, request.now, entry.history, raw)


def _explore(
    behaviour: Behaviour, batch: Batch, i: int, left: Any, body: bytes, failed: Choice, numbers: np.ndarray
) -> Choice:
    """Draw inside what is left, then check what was drawn; raises PolicyUnavailable, with what is to be said of the
    answer in ``failed``."""
    acting, shield, row = behaviour.acting, behaviour.shield, batch.rows[i]
    if behaviour.mask_required and row.mask is None:
        raise MaskMissing
    head = acting.read(numbers)
    if not acting.choosable(left):
        raise NoSafeAction
    if not acting.ranks:
        _overrule(behaviour, row, failed, acting.choose(head, left, b"", explores=False).proposed)
    if behaviour.doubts.bound:
        _doubt(behaviour, batch, i, numbers, failed)
    explores = batch.may_explore and batch.requests[i].explore
    choice = acting.choose(head, left, behaviour.key.draw(body, acting.blocks), explores=explores)
    choice.doubted = failed.doubted
    if choice.action is None:
        raise CheckFailed if choice.proposed is None else NoSafeAction
    passes = shield.check(row, choice.action)
    if shield.refuses:
        _refuse(behaviour, batch, i, left, choice, failed)
    if not passes:
        raise CheckFailed
    return choice


def _overrule(behaviour: Behaviour, row: Row, failed: Choice, chosen: Action | None) -> None:
    """Refuse a policy without scores whose one chosen action is forbidden: raises NoSafeAction.

    There is no second best, and an arg-max over what is left would do the first of all actions. No coin is tossed for
    such a row. That the baseline decides it is a function of what was seen then, and what it does has probability 1,
    whether others explore or not.
    """
    assert chosen is not None  # noqa: S101 - an arg-max is an action
    failed.doubted = behaviour.shield.preventing(row, chosen)
    if failed.doubted:
        raise NoSafeAction


def _doubt(behaviour: Behaviour, batch: Batch, i: int, head: np.ndarray, failed: Choice) -> None:
    """Note what all doubts say of the policy's answer; raises what the first of them that denies it is called."""
    request, spread, age = batch.requests[i], None if batch.spread is None else batch.spread[i], np.nan
    if request.observed_at is not None:
        # How old it is now, by the clock that stamped the request and the time it took since: all of it is logged.
        taken = round((batch.began - request.read) * 1e6) + batch.infer_us
        age = request.at - request.observed_at + taken / 1e6
    doubting = behaviour.doubts.about(PolicyAnswer(batch.rows[i], head.astype(np.float64), spread, age))
    for doubt in doubting:
        failed.doubted.append(violation(doubt.name, "prevented" if doubt.mode == "deny" else "reported", doubt.mode))
    for doubt in doubting:
        if doubt.mode == "deny":
            raise doubt.reason


def _refuse(behaviour: Behaviour, batch: Batch, i: int, left: Any, choice: Choice, failed: Choice) -> None:
    """Refuse a draw that constraints forbid of which nothing is left before: raises NoSafeAction.

    How often a draw is refused nobody works out. So it is not known how probable that is which is done then, whether it
    is done for this or drawn. Where the draw is certain, everything is.
    """
    assert choice.action is not None  # noqa: S101 - or it would not be asked about
    against = behaviour.shield.refusing(batch.rows[i], choice.action)
    if choice.propensity < 1 or choice.measure != "mass":
        _, otherwise = advised(behaviour, batch, i, left)
        same = (behaviour.last_resort if otherwise is None else otherwise) == choice.action
        choice.lost = failed.lost = NOT_LISTED if against or same else None
    if against:
        failed.doubted += against
        raise NoSafeAction


def _fall_back(behaviour: Behaviour, batch: Batch, i: int, left: Any, choice: Choice, why: PolicyUnavailable) -> None:
    """Let the baseline propose where the policy could not decide; refused, the last resort leaves, or nothing."""
    choice.why = why
    choice.proposed, action = advised(behaviour, batch, i, left)
    choice.source = "last_resort" if action is None else "baseline"
    choice.action = behaviour.last_resort if action is None else action


def advised(behaviour: Behaviour, batch: Batch, i: int, left: Any) -> tuple[Action | None, Action | None]:
    """What the baseline proposes for a row, and what comes of that where it passes."""
    proposed = behaviour.baseline(batch.rows[i])
    action = None if proposed is None else behaviour.acting.placed(proposed, left)
    passes = action is not None and behaviour.shield.check(batch.rows[i], action)
    return proposed, action if passes else None
