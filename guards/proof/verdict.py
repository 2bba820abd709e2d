"""The verdict of the proof, and how it reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from guards.proof.scenario import Scenario

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
class Answer:
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

    left: Answer
    last_resort: Answer | None = None
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
