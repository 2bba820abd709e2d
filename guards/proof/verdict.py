"""What is answered, and how it reads: the verdict of the proof, and the explanation of one situation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from export.spec import Discrete
from guards.constraints import Constraint, Mode
from guards.errors import GuardMisconfigured
from guards.language.walk import Scene
from guards.proof.scenario import Scenario
from guards.records import Schema
from guards.shield import Shield

Outcome = Literal["proved", "counterexample", "undecided"]
Kind = Literal["never", "always", "implies", "same", "last_resort", "history", "overflow", "undecided"]
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Closed:
    """An action, or many in words, that a counterexample leaves no way to, and the constraints that deny it there."""

    action: str
    constraints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A situation, checked with the real shield, and what is closed in it by which constraints.

    ``tried`` says what was checked, where that was not every action.
    """

    situation: Scenario
    closed: tuple[Closed, ...]
    tried: str = ""

    def lines(self) -> Iterator[str]:
        """It in words; actions that the same constraints close share a line."""
        yield from self.situation.lines()
        together: dict[tuple[str, ...], list[str]] = {}
        for one in self.closed:
            together.setdefault(one.constraints, []).append(one.action)
        for names, actions in together.items():
            yield f"{', '.join(actions)}: closed by {' and '.join(map(repr, names))}"
        if self.tried:
            yield self.tried


@dataclass(frozen=True, slots=True)
class Statement:
    """What came of one question; ``why`` says what keeps it undecided, or why there was nothing to prove."""

    claim: str
    outcome: Outcome
    why: str = ""
    counterexample: Counterexample | None = None

    def lines(self) -> Iterator[str]:
        """It in words."""
        yield f"{self.outcome}: {self.claim}" + (f" ({self.why})" if self.why else "")
        if self.counterexample is not None:
            yield from (_INDENT + line for line in self.counterexample.lines())


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about constraints that nobody may have meant; it does not change the outcome."""

    kind: Kind
    constraints: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the proof says of a shield's configuration.

    ``left``: at least one action is always allowed. ``last_resort``, if one is declared: it is allowed wherever nothing
    else is.
    """

    left: Statement
    last_resort: Statement | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of the answers."""
        outcomes = [answer.outcome for answer in (self.left, self.last_resort) if answer is not None]
        return next((one for one in ("counterexample", "undecided") if one in outcomes), "proved")

    def lines(self) -> Iterator[str]:
        """It in words."""
        yield from self.left.lines()
        if self.last_resort is not None:
            yield from self.last_resort.lines()
        yield from (f"note: {finding.text}" for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join(self.lines())


@dataclass(frozen=True, slots=True)
class Said:
    """What one constraint says of one action, and why."""

    constraint: str
    kind: str
    mode: Mode
    forbids: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Whether an action is allowed, and what every constraint says of it."""

    action: str
    allowed: bool
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A situation and what it leaves."""

    situation: Scenario
    actions: tuple[Explained, ...]

    def lines(self) -> Iterator[str]:
        """It in words."""
        yield from self.situation.lines()
        for one in self.actions:
            yield f"{one.action}: {'allowed' if one.allowed else 'not allowed'}"
            for said in one.said:
                does = "forbids" if said.forbids else "allows"
                only = "" if said.mode == "deny" else ", only reports"
                yield f"  {does} {said.constraint!r} ({said.kind}{only}): {said.why}"


def explain(schema: Schema, constraints: Sequence[Constraint], situation: Scenario) -> Explanation:
    """Explain what the shield leaves in a situation that names every field.

    What is allowed is the shield's own answer; the reasons are each constraint's, by a walk over its terms. Raises
    GuardMisconfigured for constraints that do not bind to the schema, and for actions that are not one of a list.
    """
    if not isinstance(schema.action, Discrete):
        msg = f"the action space is {schema.action.kind}, expected discrete: only then there is a list of actions"
        raise GuardMisconfigured(msg)
    past = situation.past
    row = replace(situation, past=replace(past, kept=past.remembered(constraints))).row(schema)
    shield = Shield(constraints, schema)
    # What a rule lets pass although it cannot be evaluated stands after what it forbids.
    places = {one.name: i for i, one in reversed(list(enumerate(shield.bound)))}
    denied = shield.judge(row)

    def said(one: Constraint, action: int) -> Said:
        # A doubt forbids nothing.
        no = places.get(one.name) in shield.against(row, action)
        kind = str(type(one).model_fields["kind"].default)
        return Said(one.name, kind, one.mode, no, one.why(Scene(row, action), schema))

    explained = [
        Explained(name, not denied >> i & 1, tuple(said(one, i) for one in constraints))
        for i, name in enumerate(schema.actions)
    ]
    return Explanation(situation, tuple(explained))
