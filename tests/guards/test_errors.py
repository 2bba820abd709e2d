"""The reasons for falling back, and what is wrong with a configuration."""

import re

import pytest

from guards import errors
from guards.errors import ExpressionInvalid, GuardMisconfigured, PolicyUnavailable

REASONS = PolicyUnavailable.__subclasses__()


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """People read it there: it has every class, and no other."""
    drawn = re.findall(r"^(?:[├└]── )?([A-Z]\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    classes = [thing for thing in vars(errors).values() if isinstance(thing, type)]
    defined = [thing.__name__ for thing in classes if thing.__module__ == errors.__name__]

    assert sorted(set(drawn) - {"Why"}) == sorted(defined)


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_the_name_of_its_class(reason: type[PolicyUnavailable]) -> None:
    """It is the metric's label and the log's field."""
    assert reason().reason == reason.__name__


def test_only_causes_outside_the_decision_leave_the_path_unidentified() -> None:
    """Deadlines, delays, infrastructure, breakers and failed checks are no function of what was observed."""
    unidentified = {reason.__name__ for reason in REASONS if not reason.identified}

    assert unidentified == {"BreakerOpen", "CheckFailed", "DeadlineExceeded", "InferenceFailed", "StaleObservation"}


def test_an_invalid_expression_is_a_misconfigured_guard() -> None:
    """Whoever reads configurations catches one class."""
    assert issubclass(ExpressionInvalid, GuardMisconfigured)
    assert issubclass(GuardMisconfigured, ValueError)
