"""Abstention: doubts about a policy's answer and not an action: a row in doubt is the baseline's, for this reason."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import isnan
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from export.spec import Box, Fields, Manifest
from guards import errors
from guards.constraints import Constraint, OverActions
from guards.errors import GuardMisconfigured
from guards.language.terms import FALSE, Term
from guards.language.walk import Scene
from guards.records import Floats, Row, Schema


class PolicyAnswer(NamedTuple):
    """A policy's head[H] in doubles, its spread if it has one, and the observation's age (s), NaN if not told."""

    row: Row
    head: Floats
    spread: float | None
    age: float


InDoubt = Callable[[PolicyAnswer], bool]


class Doubt(Constraint):
    """What every doubt has beside a name and a mode: its reason, and how it is bound to an artefact as well."""

    judges = "answers"
    reason: ClassVar[type[errors.PolicyUnavailable]]

    def term(self, schema: Schema) -> Term:  # noqa: ARG002 - it forbids no action
        return FALSE

    def why(self, scene: Scene, schema: Schema) -> str:  # noqa: ARG002 - whatever the action is
        return "is about the policy's answer, and forbids no action"

    @abstractmethod
    def about(self, schema: Schema, manifest: Manifest) -> InDoubt:
        """What it doubts of the answers of an artefact; raises GuardMisconfigured."""


class Quorum(Doubt):
    """Doubts where the members of an ensemble disagree: their spread is above ``at_most``.

    Of ``q_values`` that is a share of the artefact's scale, of ``logits`` a probability, of numbers the means' unit.
    """

    kind: Literal["quorum"] = "quorum"
    at_most: Annotated[float, Field(ge=0)]
    reason = errors.Disagreement

    def about(self, schema: Schema, manifest: Manifest) -> InDoubt:  # noqa: ARG002 - actions are no matter
        if not manifest.spread:
            raise GuardMisconfigured("the artefact has no spread, expected one of an ensemble")
        limit = self.at_most * _scale(manifest)
        # Not the other way round: a spread that is no number is in doubt.
        return lambda answer: answer.spread is None or not answer.spread <= limit


class Confidence(Doubt):
    """Doubts where the policy hardly prefers its best choice to its second best, whatever the constraints allow.

    ``at_least`` is the gap between them: of ``q_values`` as a share of the artefact's scale, of ``logits`` as a
    difference of probabilities; of several factors the least of all counts.
    """

    kind: Literal["confidence"] = "confidence"
    at_least: Annotated[float, Field(gt=0, le=1)]
    reason = errors.LowConfidence

    def about(self, schema: Schema, manifest: Manifest) -> InDoubt:
        if isinstance(schema.action, Box):
            raise GuardMisconfigured("is for choices, which can be compared, and not for a Box action")
        if not manifest.scores:
            raise GuardMisconfigured("compares scores, and the artefact has none, expected more than a chosen action")
        sizes = schema.action.sizes
        parts = [slice(end - n, end) for end, n in zip(accumulate(sizes), sizes, strict=True) if n > 1]
        if not parts:
            raise GuardMisconfigured("is for choices between two or more, and there is one")
        limit, chances = self.at_least * _scale(manifest), manifest.head == "logits"
        return lambda answer: not all(_gap(answer.head[part], chances) >= limit for part in parts)


class Novelty(Doubt):
    """Doubts observations that score (``Statistics.scoring``) as only ``false_alarms`` of the training's did."""

    kind: Literal["novelty"] = "novelty"
    false_alarms: Annotated[float, Field(gt=0, le=0.1)] = 0.001
    reason = errors.OutOfDistribution

    def about(self, schema: Schema, manifest: Manifest) -> InDoubt:
        taken = manifest.statistics
        if taken is None:
            raise GuardMisconfigured(
                "the artefact has no training statistics, expected it exported with --observations"
            )
        threshold, score = taken.threshold(self.false_alarms), taken.scoring()
        named = isinstance(manifest.observation, Fields)
        columns = [schema.columns[name] for name in manifest.fields] if named else slice(None)

        def is_novel(answer: PolicyAnswer) -> bool:
            seen = np.asarray(answer.row.raw).reshape(1, -1)[:, columns]
            return bool(score(seen.astype(np.float64, copy=False))[0] > threshold)

        return is_novel


class Fresh(Doubt):
    """Doubts observations that are older than ``max_age_seconds``, or as far ahead, or ``missing`` their time."""

    kind: Literal["fresh"] = "fresh"
    max_age_seconds: Annotated[float, Field(gt=0, le=86400 * 365)]
    missing: Literal["allow", "deny"] = "deny"
    reason = errors.StaleObservation

    def about(self, schema: Schema, manifest: Manifest) -> InDoubt:  # noqa: ARG002 - a clock is all it needs
        most, untold = self.max_age_seconds, self.missing == "deny"
        return lambda answer: abs(answer.age) > most or (untold and isnan(answer.age))


# Every constraint that a configuration may have.
AnyConstraint = Annotated[OverActions | Quorum | Confidence | Novelty | Fresh, Field(discriminator="kind")]


class Doubts(NamedTuple):
    """All doubts of a configuration about the answers of an artefact, in their order."""

    bound: tuple[tuple[Doubt, InDoubt], ...] = ()

    @classmethod
    def of(cls, constraints: Sequence[Constraint], schema: Schema, manifest: Manifest) -> "Doubts":
        """Bind those of the constraints that are doubts; raises GuardMisconfigured."""
        bound: list[tuple[Doubt, InDoubt]] = []
        for i, one in enumerate(constraints):
            try:
                bound += [(one, one.about(schema, manifest))] if isinstance(one, Doubt) else ()
            except ValueError as error:
                msg = f"{i}, {one.name!r}: {error}"
                raise GuardMisconfigured(msg) from error
        return cls(tuple(bound))

    def about(self, answer: PolicyAnswer) -> list[Doubt]:
        """Those that doubt it; of a head that is no number it is no matter: that is refused."""
        with np.errstate(invalid="ignore", over="ignore"):
            return [doubt for doubt, in_doubt in self.bound if in_doubt(answer)]


def _gap(part: Floats, chances: bool) -> float:
    """Between the two best choices of part[M]."""
    if chances:
        part = np.exp(part - part.max())
        part /= part.sum()
    second, best = np.partition(part, -2)[-2:]
    return float(best - second)


def _scale(manifest: Manifest) -> float:
    """How large an artefact's values are; what has a unit of its own is not scaled."""
    return manifest.parity.scale if manifest.head == "q_values" else 1.0
