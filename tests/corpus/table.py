"""The table: which cells the corpus has to cover, how often at least, and in which cell a decision stands.

    world     kind, space, explorer (``worlds.KINDS``, ``worlds.EXPLORERS``)
    path      how its action came about
    history   what was known of the session
    reason    why the policy did not decide; by space
    verdict   in which modes its constraints spoke: deny, warn, audit; by kind and space

``CheckFailed`` and ``KillSwitch`` are no reasons that a request can bring about: the check fails where judge and check
differ, which is a fault, and nothing kills yet.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.corpus.worlds import KINDS, World, explorers

PATHS = ("policy", "redrawn", "explore false", "expired lease", "fallback", "last resort", "refused")
HISTORIES = ("new", "known", "unknown", "other", "ended", "gap")
# Why the policy did not decide, and the spaces in which that has to be met.
_EVERY = tuple(KINDS)
REASONS = {
    "InvalidOutput": _EVERY,
    "InferenceFailed": _EVERY,
    "NoSafeAction": _EVERY,
    "DeadlineExceeded": _EVERY,
    "Disagreement": _EVERY,
    "OutOfDistribution": _EVERY,
    "StaleObservation": _EVERY,
    "LowConfidence": tuple(space for space in KINDS if space != "box"),
    "MaskMissing": tuple(space for space in KINDS if space != "box"),
    "HistoryUnknown": ("discrete",),
    "BreakerOpen": ("discrete",),
}
MODES = ("deny", "warn", "audit")
# A request's own mask is no constraint that says something.
_SILENT = ("mask",)
Cell = tuple[str, ...]
CELL = ("kind", "space", "explorer", "path", "history")
# So many decisions at least are in every cell of the whole corpus: a world's, and one of reasons or verdicts.
LEAST = 3
LEAST_OF_MARGINS = 20
MOST_SHOWN = 40


def cells() -> dict[Cell, int]:
    """Every cell, and how many decisions have to be in it at least."""
    found: dict[Cell, int] = {}
    for space, kinds in KINDS.items():
        for kind in kinds:
            for explorer in explorers(space):
                for path in PATHS:
                    found |= {(kind, space, explorer, path, history): LEAST for history in HISTORIES}
    for reason, spaces in REASONS.items():
        found |= {("reason", reason, space): LEAST_OF_MARGINS for space in spaces}
    for space, kinds in KINDS.items():
        for kind in kinds:
            if kind not in _SILENT:
                found |= {("verdict", kind, space, mode): LEAST_OF_MARGINS for mode in MODES}
    return found


def cells_of(line: Mapping[str, Any], world: World) -> Iterable[Cell]:
    """The cells that a line of the corpus stands in; none where it was answered by an error without a record."""
    record = line.get("record")
    if record is None:
        return []
    path, reason = path_of(line, record), record.get("reason")
    own: list[Cell] = [(world.kind, world.space, world.explorer, path, history_of(line, record))]
    if reason is not None:
        own.append(("reason", reason, world.space))
    said = {one["mode"] for one in record.get("violations", ()) if not one["constraint"].startswith("0:")}
    own += [("verdict", world.kind, world.space, mode) for mode in said]
    return own


def path_of(line: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """How an action came about."""
    if record["kind"] == "refused":
        return "refused"
    if record["source"] != "policy":
        return "fallback" if record["source"] == "baseline" else "last resort"
    if not line["explore"]:
        return "explore false"
    if not line["lease"]:
        return "expired lease"
    return "policy" if record["proposed"] == record["action"] else "redrawn"


def history_of(line: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """What was known of the session; of what was refused the record does not say, but the caller knows what it did."""
    state = record.get("state")
    if state is None:
        mode: str = line["mode"]
        return mode
    if not state["known"]:
        return "unknown"
    if state.get("other") is not None:
        return "other"
    if not state["step"]:
        return "new" if record.get("previous") is None else "ended"
    return "gap" if line["mode"] == "gap" else "known"


def report(counts: Counter[Cell], least: Mapping[Cell, int]) -> tuple[str, list[Cell]]:
    """The table for people, a line for each world, and the cells that have too few."""
    few = sorted(cell for cell, needed in least.items() if counts[cell] < needed)
    told = [
        f"{'kind / space / explorer':42}" + "".join(f"{path:>15}" for path in PATHS) + "   (all, fewest of a history)"
    ]
    for one in sorted({cell[:3] for cell in least if len(cell) == len(CELL)}):
        row = f"{' / '.join(one):42}"
        for path in PATHS:
            found = [counts[(*one, path, history)] for history in HISTORIES if (*one, path, history) in least]
            row += f"{sum(found):>10}{min(found, default=0):>5}"
        told.append(row)
    told += [f"{' / '.join(cell):42}{counts[cell]:>10}" for cell in sorted(least) if len(cell) != len(CELL)]
    covered = sum(counts[cell] for cell in least if len(cell) == len(CELL))
    told.append(f"{covered} decisions in {len(least)} cells; {len(few)} cells have too few")
    told += [f"  too few: {' / '.join(cell)}: {counts[cell]} of {least[cell]}" for cell in few[:MOST_SHOWN]]
    return "\n".join(told) + "\n", few
