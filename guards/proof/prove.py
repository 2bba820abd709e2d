"""The proof that a shield's configuration always leaves something to do, or a situation in which it does not.

What is proved, and what is not, stands in ``docs/proof.md``. The expressions are translated to exact real arithmetic,
and an SMT solver (z3) is asked for a state in which for all actions something denies: one action of a list, one whole
action of several factors, or one point of a Box. What cannot be translated (``%`` of numbers that need not be whole, a
kind of constraint unknown here) may have any value, so what is proved is true all the same. A counterexample is one
only after the real shield, in doubles, was seen to leave nothing in it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from export.spec import Box
from guards.actions import Written, read
from guards.constraints import Constraint
from guards.proof.scenario import WHOLE, ranges, shown, written
from guards.proof.verdict import Closed, Counterexample, Statement, Verdict
from guards.proof.witness import Witness
from guards.records import Schema

if TYPE_CHECKING:  # z3 is an extra, and takes its time to load
    from guards.proof.solving import Formula, Model, Solving

_LEFT = "for every observation within the declared ranges, at least one action is allowed"
_KNOWN = " wherever the session's history is known"


@np.errstate(over="ignore", invalid="ignore")  # what is too large for a double has an answer here
def prove(
    schema: Schema,
    constraints: Sequence[Constraint],
    last_resort: Written | None,
    *,
    seconds: float = 2.0,
    known_history: bool = False,
    notes: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Prove that something is always left, or find a situation in which nothing is; each question within ``seconds``.

    With ``known_history`` nothing is said of sessions whose history is not here; without ``notes`` nothing is found out
    beside the answers. Raises GuardMisconfigured for constraints or a last resort that do not bind to the schema, and
    ProofUnavailable where z3 is not installed, or cannot be loaded.
    """
    witness = Witness(schema, constraints)
    last = () if last_resort is None else read(last_resort, schema.action)
    # Needs z3.
    from guards.proof.findings import findings  # noqa: PLC0415
    from guards.proof.solving import Solving  # noqa: PLC0415

    solving = Solving(schema, constraints, last, seconds=seconds, clock=clock, known_history=known_history)
    left = _answer(solving, witness, _LEFT + _KNOWN * known_history)
    found = tuple(findings(solving, witness, left, last_resort, last)) if notes else ()
    if last_resort is None:
        return Verdict(left=left, findings=found)
    # Wherever nothing else is allowed the last resort is, exactly if something always is.
    why = {"proved": "", "counterexample": "not there either", "undecided": "for the same reason"}[left.outcome]
    claim = f"the last resort {written(last_resort)} is allowed wherever nothing else is"
    return Verdict(left=left, last_resort=Statement(claim, left.outcome, why), findings=found)


def _answer(solving: "Solving", witness: Witness, claim: str) -> Statement:
    """Whether something is always left."""
    formula, until = solving.nothing_allowed(), solving.until()
    reply = solving.ask(formula, until)
    if reply.impossible:
        return Statement(claim, "proved", _nothing_observed(solving.schema))
    gaps = "; ".join(dict.fromkeys(solving.symbols.gaps))
    if reply.model is None:
        return Statement(claim, "undecided", f"{reply.why}; {gaps}" if gaps else reply.why)
    found = _confirmed(solving, witness, formula, reply.model, until)
    if found is not None:
        return Statement(claim, "counterexample", counterexample=found)
    return Statement(claim, "undecided", gaps or "what closes every action over exact reals does not in doubles")


def _nothing_observed(schema: Schema) -> str:
    """Why there is nothing to prove, where the declared ranges leave no observation."""
    for name, (field, dtype) in ranges(schema).items():
        low, high = -math.inf if field.low is None else field.low, math.inf if field.high is None else field.high
        least, most = WHOLE.get(dtype, (-math.inf, math.inf))
        if dtype in WHOLE and not math.ceil(max(low, least)) <= min(high, most):
            within = f"{'any' if field.low is None else shown(low)} to {'any' if field.high is None else shown(high)}"
            return f"but there is none: {name} is {dtype}, which has no number within its range, {within}"
    return ""


def _confirmed(
    solving: "Solving", witness: Witness, formula: "Formula", model: "Model", until: float
) -> Counterexample | None:
    """The best situation for people in which the real shield leaves nothing."""
    for one in solving.models(formula, model, until):
        found = witness.closing(solving.situation(one))
        if found is not None and found.tried:
            found = _searched(solving, witness, found, until)
        if found is not None:
            return found
    return None


def _searched(solving: "Solving", witness: Witness, found: Counterexample, until: float) -> Counterexample | None:
    """A counterexample of which not every action was tried, if the solver does not find one that passes either."""
    way_out = solving.way_out(found.situation, until)
    if way_out is not None and witness.passes(found.situation, way_out):
        return None
    every = "every action" if isinstance(solving.schema.action, Box) else "every whole action"
    return replace(found, closed=(Closed(every, solving.causes(found.situation, until)),))
