"""Histories: how those of a flight's sessions go on, once its decisions are in the journal."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from guards.baselines import KEPT, Remember
from guards.batched import Context
from guards.records import History
from service.decide import context_of, weights_of
from service.flight import Flight, Plane
from service.records import Decision, Refused


def advanced(plane: Plane, flight: Flight, records: Sequence[Decision | Refused]) -> dict[int, History]:
    """The history after each decision, by row; ``records`` are of the flight's first rows."""
    shield, histories = plane.shield, dict[int, History]()
    weights = weights_of(plane, flight, records) if shield.weighs else {}
    for i, (row, record) in enumerate(zip(flight.rows, records, strict=False)):
        if isinstance(record, Decision) and row.entry is not None:
            histories[i] = shield.advanced(row.entry.history, record.action, row.now, weights.get(i))
    if plane.remember is not None:
        made = {i: record for i, record in enumerate(records) if isinstance(record, Decision)}
        for i, kept in _kept(plane.remember, plane, flight, made).items():
            histories[i] = replace(histories[i], kept={**histories[i].kept, KEPT: kept})
    return histories


def continued(plane: Plane, there: Context, decisions: Sequence[Decision]) -> list[History]:
    """The history after each decision, ``there`` being what the guards saw of them: as it was when they were made."""
    shield, remember = plane.shield, plane.remember
    actions, nows = np.array([one.action for one in decisions]), there.now.tolist()
    weights: Sequence[Sequence[float] | None] = shield.weights(there, actions) if shield.weighs else [None] * len(nows)
    rows = zip(there.histories, decisions, nows, weights, strict=True)
    histories = [shield.advanced(history, one.action, now, weight) for history, one, now, weight in rows]
    if remember is None:
        return histories
    both = zip(
        histories, remember(there, actions, np.array([one.source == "baseline" for one in decisions])), strict=True
    )
    return [replace(history, kept={**history.kept, KEPT: kept}) if kept else history for history, kept in both]


def _kept(remember: Remember, plane: Plane, flight: Flight, made: dict[int, Decision]) -> dict[int, tuple[float, ...]]:
    """What the baseline remembers of each decision, by row, where there is something."""
    if not made:
        return {}
    there = context_of(plane, flight.rows, flight.observation).rows(np.array(list(made)))
    actions = np.array([record.action for record in made.values()])
    own = np.array([record.source == "baseline" for record in made.values()])
    told = zip(made, remember(there, actions, own), strict=True)
    return {i: kept for i, kept in told if kept}
