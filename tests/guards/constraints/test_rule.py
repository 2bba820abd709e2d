"""Rules: expressions that forbid."""

from typing import Any

import numpy as np
import pytest

from guards.constraints import Mode, Rule
from guards.errors import ExpressionInvalid
from tests.fakes import SCHEMA, context_of
from tests.guards.asked import Compiled
from tests.guards.batched import Shield
from tests.guards.constraints.loop import forbidden


class TestRule:
    """An expression that forbids."""

    def test_it_forbids_the_actions_for_which_it_is_true(self) -> None:
        """Row by row, action by action."""
        rule = Rule(name="r", forbid="action == 'up' and load > 1")

        assert forbidden(rule, context_of([[2, 0, 0], [1, 0, 0]])) == [["up"], []]

    def test_it_forbids_where_it_cannot_be_evaluated(self) -> None:
        """What cannot be said to be safe is not done."""
        rule = Rule(name="r", forbid="action in ('up', 'jump') and budget < 1")
        context = context_of([[0, 0, 0]] * 2, facts=[[np.nan, 0], [5, 0]])

        assert forbidden(rule, context) == [["up", "jump"], []]

    def test_it_may_let_pass_what_cannot_be_evaluated(self) -> None:
        """Then it forbids only where it is true, and says which actions it could not judge."""
        rule = Rule(name="r", forbid="action in ('up', 'jump') and budget < 1", on_error="allow")
        context = context_of([[0, 0, 0]] * 3, facts=[[np.nan, 0], [5, 0], [0, 0]])
        excused = rule.excuses(SCHEMA)

        assert forbidden(rule, context) == [[], [], ["up", "jump"]]
        assert excused is not None
        cells, _ = Compiled("", SCHEMA, excused).evaluate(context, None)
        assert [[SCHEMA.actions[i] for i in np.flatnonzero(row)] for row in cells] == [["up", "jump"], [], []]
        assert not Compiled("", SCHEMA, excused).evaluate(context_of([[0, 0, 0]], facts=[[1, 1]]), None)[0].any()

    @pytest.mark.parametrize(("mode", "told"), [("deny", "warn"), ("warn", "warn"), ("audit", "audit")])
    def test_what_it_let_pass_is_reported(self, mode: Any, told: Mode) -> None:
        """Under its name, also where it would deny."""
        rule = Rule(name="r", mode=mode, forbid="budget < 1", on_error="allow")
        shield = Shield([rule], SCHEMA)
        ruling = shield.judge(context_of([[0, 0, 0]] * 2, facts=[[np.nan, 0], [5, 0]]))

        against = ruling.forbidding(np.arange(2), np.array([1, 1]))
        assert shield.reports
        assert ruling.allowed.all()
        assert [(name, mode, hits.tolist()) for name, mode, hits in against] == [
            ("r", mode, [False, False]),
            ("r", told, [True, False]),
        ]

    def test_nothing_is_reported_where_all_can_be_evaluated(self) -> None:
        """In a batch of any size."""
        rule = Rule(name="r", forbid="budget < 1", on_error="allow")
        ruling = Shield([rule], SCHEMA).judge(context_of([[0, 0, 0]] * 3, facts=[[5, 0]] * 3))

        assert not ruling.reported(np.array([0, 1, 2])).any()

    def test_it_needs_no_history_of_uses(self) -> None:
        """Nothing has to be remembered for it."""
        assert Rule(name="r", forbid="True").tracks(SCHEMA) == frozenset()

    def test_an_invalid_expression_is_refused_when_it_is_bound(self) -> None:
        """The schema is known only then, and still before the first request."""
        with pytest.raises(ExpressionInvalid, match="column 1: the name 'cpu' is not known"):
            Rule(name="r", forbid="cpu > 1").term(SCHEMA)
