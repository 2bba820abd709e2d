"""Explanation: for one situation each action, each constraint, and whether it is allowed or why not, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from export.spec import Discrete
from guards.constraints import Constraint, Mode
from guards.errors import GuardMisconfigured
from guards.language.walk import Scene
from guards.proof.scenario import Scenario
from guards.records import Schema
from guards.shield import Shield


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
    forbids = {name: forbids for name, _, forbids in reversed(shield.asking())}
    denied = shield.judge(row)

    def said(one: Constraint, action: int) -> Said:
        # A doubt forbids nothing.
        no = one.name in forbids and forbids[one.name](row, action)
        kind = str(type(one).model_fields["kind"].default)
        return Said(one.name, kind, one.mode, no, one.why(Scene(row, action), schema))

    explained = [
        Explained(name, not denied >> i & 1, tuple(said(one, i) for one in constraints))
        for i, name in enumerate(schema.actions)
    ]
    return Explanation(situation, tuple(explained))
