"""The sample of the corpus that is committed: this tree decides what was decided when it was frozen."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.compare import Comparison, compared
from tests.corpus.driving import SAMPLED_ROWS, drive, frozen, lines, sampled
from tests.corpus.table import HISTORIES, PATHS, cells, cells_of
from tests.corpus.worlds import World, worlds

ROOT = Path(__file__).resolve().parents[2]
MEANT = """
Other decisions than before, or records of another form. Where that is meant, say in a decision record what changed and
why, compare the whole corpus (`python -m tests.corpus --tree <before> --tree .`), and freeze the sample anew:
`python -m tests.corpus --freeze`."""
KNOWN = {one.name: one for one in worlds()}


def test_the_sample_is_decided_as_before(tmp_path: Path) -> None:
    """Masks, proposals, actions, probabilities, violations, reasons and histories, over HTTP and from the journal."""
    made = drive(ROOT, sampled(), SAMPLED_ROWS, tmp_path)

    comparison = compared(frozen(), lines(made), KNOWN)

    assert comparison.lines >= 2000
    assert not comparison.wrong, f"{comparison.report()}\n{MEANT}"


def test_the_sample_is_spread_over_the_table() -> None:
    """Every world of the table, every path and history, every reason but the one that wants many failures."""
    found = {cell for line in frozen() for cell in cells_of(line, KNOWN[line["world"]])}
    of_worlds = [cell for cell in cells() if cell[0] not in ("reason", "verdict")]

    assert {cell[:3] for cell in of_worlds} <= {cell[:3] for cell in found}
    assert {(cell[1], cell[3]) for cell in of_worlds} <= {(cell[1], cell[3]) for cell in found if len(cell) == 5}
    assert {cell[4] for cell in found if len(cell) == 5} == set(HISTORIES)
    assert {cell[3] for cell in found if len(cell) == 5} == set(PATHS)
    assert {cell[1] for cell in cells() if cell[0] == "reason"} == {cell[1] for cell in found if cell[0] == "reason"}


class TestComparing:
    """What counts as a difference."""

    @staticmethod
    def told(name: str, where: tuple[str, ...], value: Any) -> Comparison:
        """A line of a world beside the same with one value changed."""
        line = {
            "world": name,
            "n": 0,
            "record": {"propensity": 0.25, "action": [0.5], "state": {"kept": {}, "step": 1}},
        }
        other = copy.deepcopy(line)
        there: Any = other
        for part in where[:-1]:
            there = there[part]
        there[where[-1]] = value
        comparison = Comparison()
        comparison.add(line, other, KNOWN[name])
        return comparison

    @pytest.mark.parametrize(
        ("name", "where", "value", "wrong"),
        [
            ("rule/discrete/softmax/a", ("record", "propensity"), 0.25, False),
            ("rule/discrete/softmax/a", ("record", "propensity"), 0.25 * (1 + 2**-52), False),
            ("rule/discrete/softmax/a", ("record", "propensity"), 0.25 * (1 + 1e-11), True),
            ("rule/discrete/epsilon_greedy/a", ("record", "propensity"), 0.25 * (1 + 2**-52), True),
            ("rule/discrete/softmax/a", ("record", "state", "step"), 1.0, True),
            ("rule/box/gaussian/a", ("record", "action"), [0.5 * (1 + 2**-52)], False),
            ("rule/box/gaussian/a", ("record", "action"), [0.5, 0.5], True),
            ("rule/box/gaussian/a", ("record", "reason"), "NoSafeAction", True),
        ],
    )
    def test_last_bits_may_differ_where_it_is_said(
        self, name: str, where: tuple[str, ...], value: object, wrong: bool
    ) -> None:
        """Of softmax the probability, of a Box its numbers; everything else is the same or it is wrong."""
        assert bool(self.told(name, where, value).wrong) == wrong

    def test_a_line_that_is_missing_is_wrong(self) -> None:
        """Also the last one."""
        line = {"world": "rule/box/greedy/a", "n": 0, "record": {}}

        assert compared([line, line], [line], KNOWN).wrong

    def test_every_world_has_a_name_of_its_own(self) -> None:
        """So that a line says which one it is of."""
        every: list[World] = list(worlds())

        assert len(KNOWN) == len(every)
