"""Defaults of defaultdicts: read where the file says them in plain words, and never worked out by running anything."""

import collections
import functools
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from export.inert import read_inert
from export.tables.defaults import default_of


def own() -> list[float]:
    """A default of somebody's own."""
    return [0.0, 0.0]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (float, [0.0]),
        (int, [0.0]),
        (functools.partial(np.zeros, 4), [0.0]),
        (functools.partial(np.ones, 4), [1.0]),
        (functools.partial(np.full, 4, 0.5), [0.5]),
        (functools.partial(np.full, 4, fill_value=np.float64(2)), [2.0]),
        (functools.partial(float, 10), [10.0]),
        (functools.partial(list, [1.0, 2.0]), [1.0, 2.0]),
        (own, None),
        (dict, None),
        (list, None),
        (functools.partial(own), None),
        (functools.partial(np.full, 4, "much"), None),
        (None, None),
    ],
)
def test_a_default_is_what_the_file_says(
    factory: Callable[[], object] | None, expected: list[float] | None, protocol: int
) -> None:
    """Zeros, ones and lists by the functions that everybody uses; what a function of one's own gives stays unknown."""
    table: dict[int, object] = collections.defaultdict(factory, {0: [1.0]})

    found = default_of(read_inert(pickle.dumps(table, protocol), "q.pkl"))

    assert (None if found is None else found.tolist()) == expected


@pytest.mark.parametrize("value", [{0: [1.0]}, [1.0], collections.OrderedDict({0: [1.0]})])
def test_other_things_have_no_default(value: object) -> None:
    """A plain dict has nothing for a state that it does not have."""
    assert default_of(read_inert(pickle.dumps(value), "q.pkl")) is None
