"""What all tests have in common."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def what_is_here_stays() -> None:
    """Have the garbage collector leave alone what tests before have left: a run that remembers a million objects would
    look through them all again and again, and what a test measures would be that."""
    gc.collect()
    gc.freeze()
