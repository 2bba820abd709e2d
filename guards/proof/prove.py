"""The proof that a shield's configuration always leaves something to do, or a situation in which it does not.

What is proved: for every observation whose named numbers are within the ranges that the artefact declares (unbounded
where it declares none; whole where they are integers), for every choice of facts given and not given, and for every
state that the session's history can be in, known or not, at least one action is denied by no constraint; and so the
last resort is allowed wherever nothing else is.

How it is proved: the expressions are translated to exact real arithmetic and an SMT solver (z3) finds that no such
state exists in which every action is denied.

* Exact reals are not doubles. A double's sum may be rounded across a limit, and a product too large for a double is an
  evaluation error (which denies) that has no counterpart among the reals: neither is covered. Constants are the very
  doubles that the shield compares with.
* The request's own mask is taken to allow everything.
* A constraint with a history is taken at its worst: it may forbid all that it can, at any time after something was
  executed. A proof holds whatever the history is; a counterexample may have one that is hard to reach.
* What cannot be translated (``%`` of numbers that need not be whole, a kind of constraint unknown here) may have any
  value: what is proved is true all the same.
* A counterexample is one only after the real shield, in doubles, was seen to leave nothing in it.
* Only constraints that ``deny`` close anything; a doubt about the policy's answer closes nothing.

Nothing is said of actions that are not one of a list, except where nothing denies.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from export.spec import Discrete
from guards.constraints import Constraint, action_index
from guards.doubts import Doubt
from guards.proof.situation import Situation
from guards.proof.verdict import Answer, Closed, Counterexample, Finding, Verdict
from guards.records import Schema
from guards.shield import Ruling, Shield

if TYPE_CHECKING:  # z3 is an extra, and takes its time to load
    from guards.proof.solving import Formula, Model, Solving

_LEFT = "for every observation within the declared ranges, at least one action is allowed"
# A situation that people can read is worth this share of a question's time.
_PATIENCE = 0.1
# Which of the actions a situation has to close, to be a counterexample.
_Closes = Callable[[Counterexample], bool]


def prove(
    schema: Schema,
    constraints: Sequence[Constraint],
    last_resort: str | None,
    *,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Prove that something is always left, or find a situation in which nothing is; each question within ``seconds``.

    Raises GuardMisconfigured for constraints or a last resort that do not bind to the schema, and ProofUnavailable
    where z3 is not installed.
    """
    shield = Shield(constraints, schema)
    denying = any(constraint.mode == "deny" and not isinstance(constraint, Doubt) for constraint in constraints)
    if not isinstance(schema.action, Discrete):
        return _elsewhere(schema, last_resort, denying=denying)
    if last_resort is not None:
        action_index(last_resort, schema)
    # Needs z3.
    from guards.proof.findings import findings  # noqa: PLC0415
    from guards.proof.solving import Solving  # noqa: PLC0415

    solving = Solving(schema, constraints, last_resort, seconds=seconds, clock=clock)
    left = _answer(solving, shield)
    found = list(findings(solving))
    if last_resort is None:
        return Verdict(left=left, findings=tuple(found))
    if left.outcome == "proved":
        found += _where_forbidden(solving, shield, last_resort)
    return Verdict(left=left, last_resort=_last_resort(left, last_resort), findings=tuple(found))


def _elsewhere(schema: Schema, last_resort: str | None, *, denying: bool) -> Verdict:
    """The verdict over actions that are not one of a list."""
    kind = schema.action.kind
    why = f"the action space is {kind}, expected discrete" if denying else "no constraint denies anything"
    left = Answer(_LEFT, "undecided" if denying else "proved", why)
    return Verdict(left=left, last_resort=None if last_resort is None else _last_resort(left, last_resort))


def _last_resort(left: Answer, last_resort: str) -> Answer:
    """Wherever nothing else is allowed the last resort is, exactly if something always is."""
    claim = f"the last resort {last_resort!r} is allowed wherever nothing else is"
    why = {"proved": "", "counterexample": "not there either", "undecided": "for the same reason"}[left.outcome]
    return Answer(claim, left.outcome, why)


def _answer(solving: "Solving", shield: Shield) -> Answer:
    """Whether something is always left."""
    formula, until = solving.nothing_allowed(), solving.until()
    reply = solving.ask(formula, until)
    if reply.impossible:
        return Answer(_LEFT, "proved")
    if reply.model is None:
        return Answer(_LEFT, "undecided", reply.why)

    def nothing_left(found: Counterexample) -> bool:
        return len(found.closed) == len(solving.schema.actions)

    found = _confirmed(solving, shield, formula, reply.model, until, nothing_left)
    if found is not None:
        return Answer(_LEFT, "counterexample", counterexample=found)
    gaps = "; ".join(dict.fromkeys(solving.symbols.gaps))
    return Answer(_LEFT, "undecided", gaps or "what closes every action over exact reals does not in doubles")


def _where_forbidden(solving: "Solving", shield: Shield, last_resort: str) -> list[Finding]:
    """Where the last resort is itself forbidden, although something else is allowed."""
    assert solving.last is not None  # noqa: S101 - it is declared
    formula, until = solving.at(solving.denied(), solving.last), solving.until()
    reply = solving.ask(formula, until)
    if reply.model is None:
        return []

    def closes(found: Counterexample) -> bool:
        return any(one.action == last_resort for one in found.closed)

    found = _confirmed(solving, shield, formula, reply.model, until, closes)
    if found is None:
        return []
    by = next(one.constraints for one in found.closed if one.action == last_resort)
    text = (
        f"the last resort {last_resort!r} is itself forbidden in some situations, and where the baseline's proposal is "
        f"too it leaves as an executed violation: by {' and '.join(map(repr, by))} with "
    )
    return [Finding("last_resort", by, text + "; ".join(found.situation.lines()))]


def _confirmed(
    solving: "Solving", shield: Shield, formula: "Formula", model: "Model", until: float, closes: _Closes
) -> Counterexample | None:
    """The best situation for people that the real shield closes as the formula says."""
    for wish in solving.wishes():
        wished = solving.ask(solving.both(formula, wish), min(until, solving.until(_PATIENCE))).model
        if wished is not None:
            found = closed_by(shield, solving.schema, solving.situation(wished))
            if closes(found):
                return found
    found = closed_by(shield, solving.schema, solving.situation(model))
    return found if closes(found) else None


def closed_by(shield: Shield, schema: Schema, situation: Situation) -> Counterexample:
    """What the real shield denies in a situation, and which constraints are behind it."""
    ruling = shield.judge(situation.context(schema))
    assert isinstance(ruling, Ruling)  # noqa: S101 - the space is Discrete
    denials = [
        (name, np.broadcast_to(cells, ruling.allowed.shape)[0])
        for name, mode, cells in ruling.forbidden
        if mode == "deny"
    ]
    closed = [
        Closed(action, tuple(name for name, cells in denials if cells[i]))
        for i, action in enumerate(schema.actions)
        if not ruling.allowed[0, i]
    ]
    return Counterexample(situation, tuple(closed))
