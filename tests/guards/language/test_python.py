"""Terms as Python: names that functions share, and functions that fail as the walk does."""

from guards.language.python import Source, fails
from guards.language.terms import Fixed, compare, number, operation
from guards.records import Row
from tests.fakes import NOW, SCHEMA
from tests.guards.test_actions import FRESH

ROW = Row((0.5, 0.0, 3.0), (2.0, 1.0), None, NOW, FRESH)


def test_the_same_constant_has_one_name() -> None:
    """And a number is no truth, though Python takes them for equal."""
    source = Source(SCHEMA.action)

    assert source.name((1.0, 2.0)) == source.name((1.0, 2.0))
    assert source.name(frozenset({1})) != source.name((1,))


def test_a_condition_that_fails_is_true() -> None:
    """It forbids."""
    source = Source(SCHEMA.action)
    fails = compare(operation("/", number(1), number(0)), ">", number(3))

    against = source.against([fails, Fixed(value=False), Fixed(value=True)])

    assert against(ROW, 0) == [0, 2]


def test_what_fails_is_known() -> None:
    """Whatever arithmetic raises."""
    assert fails(lambda: 1 / 0)
    assert not fails(lambda: 1 / 2)
