"""What a test needs that not every machine has: without it the test is skipped, and fails where it has to be there.

``ACTD_TESTS_NEED`` names, with commas between, what has to be there; CI sets it to what it installs.
"""

import os

import pytest


def need(name: str, *, there: bool, how: str) -> None:
    """Skip the test that calls this where ``name`` is not there, or fail it where that is no excuse; ``how`` says how
    to get it."""
    if there:
        return
    reason = f"needs {name}, which is not there: {how}"
    if name in os.environ.get("ACTD_TESTS_NEED", "").split(","):
        pytest.fail(f"{reason} (ACTD_TESTS_NEED says that it has to be)")
    pytest.skip(reason)
