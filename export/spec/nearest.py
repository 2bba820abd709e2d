"""What an unknown name may have been meant to be: the nearest known ones, for messages that people can read."""

from collections.abc import Iterable
from difflib import SequenceMatcher

FEW = 5
DOZEN = 12
_NEAREST = 3
_LONGEST = 200


def one_of(name: object, known: Iterable[str], few: int = FEW) -> str:
    """Say ``one of a, b, c``: all known names up to ``few``, else the three nearest to ``name`` and how many there are.

    Nearness is difflib's, whatever the case; of dotted names the last part counts as much as the whole. A ``name`` that
    is no text is near to none: then the first dozen is said.
    """
    names = list(dict.fromkeys(known))
    if len(names) <= few:
        return f"one of {', '.join(names)}"
    if isinstance(name, str):
        return f"one of {', '.join(nearest(name, names))} (the nearest of {len(names)})"
    more = f" and {len(names) - DOZEN} more" if len(names) > DOZEN else ""
    return f"one of {', '.join(names[:DOZEN])}{more}"


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Give the three known names that are nearest to ``name``, the nearest first; of equally near ones the earlier."""
    whole, last = (SequenceMatcher(autojunk=False, b=text[:_LONGEST].lower()) for text in (name, _last(name)))

    def distance(other: str) -> float:
        whole.set_seq1(other.lower())
        last.set_seq1(_last(other).lower())
        return -(whole.ratio() + last.ratio())

    return tuple(sorted(known, key=distance)[:_NEAREST])


def _last(name: str) -> str:
    return name.rpartition(".")[2]
