"""The order in which logs are read is nobody's business."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from service.agent.stores import Position
from service.config import Rewards
from service.log.records import Decision
from tests.service.agent.desks import EVENTS, NOW, Desk, written


class TestAnyInterleaving:
    """The order in which logs are read is nobody's business."""

    @settings(max_examples=300, deadline=None)
    @given(
        EVENTS,
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), max_size=60),
        st.sampled_from(["first", "sum", "last"]),
    )
    def test_gives_the_same_transitions(self, events: Any, steps: Any, aggregation: Any) -> None:
        """Whatever writer is read how far and when, each decision closes in the same way."""
        rewards = Rewards(wait_seconds=10.0, aggregation=aggregation)
        pens = written(events)
        at_once = Desk(*pens, rewards=rewards)
        at_once.join()
        piecemeal = Desk(*pens, rewards=rewards)
        for pen in pens:
            piecemeal.joiner.order.knows(pen.name, Position(0, 0), Position(pen.records[-1].ms, len(pen.records)), NOW)
        for who, count in steps:
            fed = piecemeal._fed[pens[who].name]
            upto = pens[who].records[min(fed + count, len(pens[who].records)) - 1].ms
            piecemeal.join(pens[who], upto=upto)
        piecemeal.join()

        for pen in pens:
            expected = [t for t in at_once.made if t.writer == pen.name]
            assert [t for t in piecemeal.made if t.writer == pen.name] == expected
            assert [t.seq for t in expected] == sorted({t.seq for t in expected})
        # How far the position has moved past records that are no decisions is a matter of when it was looked at.
        ledgers = [msgspec.structs.replace(desk.joiner.ledger(), records=0) for desk in (piecemeal, at_once)]
        assert ledgers[0] == ledgers[1]
        decisions = sum(isinstance(record, Decision) for pen in pens for record in pen.records)
        told = at_once.joiner.ledger()
        assert sum(told.transitions.values()) + sum(told.not_exported.values()) == decisions
        assert (told.waiting, len(at_once.joiner._held), len(at_once.joiner._sessions)) == (0, 0, 0)
