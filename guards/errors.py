"""Why a policy was not used, and what is wrong with a guard's configuration.

PolicyUnavailable            the policy cannot be trusted with this decision: the baseline answers
├── BreakerOpen              its breaker is open
├── CheckFailed              the drawn action did not pass the shield's own check
├── DeadlineExceeded         its answer would come too late
├── Disagreement             the members of its ensemble do not agree
├── HistoryUnknown           it needs a memory that is not here
├── InferenceFailed          it raised instead of answering
├── InvalidOutput            its numbers are not finite
├── KillSwitch               an operator turned it off
├── LowConfidence            it hardly prefers its choice
├── MaskMissing              the request does not say what is allowed, where it has to
├── NoSafeAction             the constraints leave it nothing to choose
├── OutOfDistribution        it was not trained on observations like this one
└── StaleObservation         what it would answer to is no longer so

GuardMisconfigured           a guard cannot be built as it is written
└── ExpressionInvalid        a rule's expression cannot be used

EvaluationFailed             a term has no value for a row and an action
ProofUnavailable             the proof cannot be attempted: what it needs is not installed
Untranslatable               a part of the configuration has no translation for the proof
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class PolicyUnavailable(Exception):
    """The policy cannot be trusted with this decision: the baseline answers, and the class's name says why.

    ``identified`` tells whether the path is a known function of observation, mask, history and version: only then
    is the propensity of what the baseline does known (and 1).
    """

    identified: ClassVar[bool] = True

    def __init_subclass__(cls, *, identified: bool = True) -> None:
        cls.identified = identified

    @property
    def reason(self) -> str:
        return type(self).__name__


class BreakerOpen(PolicyUnavailable, identified=False):
    """The version's breaker is open."""


class CheckFailed(PolicyUnavailable, identified=False):
    """The drawn action did not pass the shield's own independent check."""


class DeadlineExceeded(PolicyUnavailable, identified=False):
    """The policy's answer would come after the request's deadline."""


class Disagreement(PolicyUnavailable):
    """The members of the policy's ensemble do not agree."""


class HistoryUnknown(PolicyUnavailable):
    """The policy needs a memory of the session that is not here."""


class InferenceFailed(PolicyUnavailable, identified=False):
    """The policy raised instead of answering."""


class InvalidOutput(PolicyUnavailable):
    """The policy answered with numbers that are not finite."""


class KillSwitch(PolicyUnavailable):
    """An operator turned the policy off."""


class LowConfidence(PolicyUnavailable):
    """The policy hardly prefers its choice to the next one."""


class MaskMissing(PolicyUnavailable):
    """The request has no mask of its own, where the configuration wants one."""


class NoSafeAction(PolicyUnavailable):
    """The constraints leave the policy no action to choose."""


class OutOfDistribution(PolicyUnavailable):
    """The policy was not trained on observations like this one."""


class StaleObservation(PolicyUnavailable, identified=False):
    """The observation is older than it may be, or nobody knows how old: clocks and delays say so, not what it says."""


class GuardMisconfigured(ValueError):
    """A guard cannot be built as it is written."""


class ExpressionInvalid(GuardMisconfigured):
    """A rule's expression cannot be used; the message points at the column."""


class EvaluationFailed(ArithmeticError):
    """A term has no value for a row and an action; the message says what failed, as a clause."""


class ProofUnavailable(RuntimeError):
    """The proof cannot be attempted: what it needs is not installed."""


class Untranslatable(Exception):
    """A part of the configuration has no translation for the proof; the message says which, as a clause."""


@contextmanager
def setting(name: str) -> Iterator[None]:
    """Say which setting it is that a guard cannot be built with."""
    try:
        yield
    except GuardMisconfigured as error:
        msg = f"{name}: {error}"
        raise type(error)(msg) from error
