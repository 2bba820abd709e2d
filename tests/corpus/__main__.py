"""``python -m tests.corpus``: what trees decide, as a corpus that covers a table; two trees are compared.

python -m tests.corpus --tree .                       make the corpus here, and count its cells
python -m tests.corpus --tree ../before --tree .      ... in two trees, and compare bit for bit
python -m tests.corpus --freeze                       make the sample that is committed anew
"""

import argparse
import lzma
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.corpus.compare import compared
from tests.corpus.driving import SAMPLE, SAMPLED_ROWS, drive, lines, sampled
from tests.corpus.table import Cell, cells, cells_of, report
from tests.corpus.worlds import worlds

ROOT = Path(__file__).resolve().parents[2]
# Of each of the worlds so many decisions: far more than 200,000 in all, so that the rarest cell has enough.
ROWS = 1500


def main() -> int:
    """Run the command; 1 where a cell has too few decisions, or trees differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", type=Path, action="append", default=[], help="a worktree: once, or twice to compare")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"decisions of each world (default: {ROWS})")
    parser.add_argument("--keep", type=Path, help="a folder to leave what was decided in")
    parser.add_argument("--freeze", action="store_true", help=f"write {SAMPLE.name} anew from this tree")
    options = parser.parse_args()
    if options.freeze:
        return freeze()
    with tempfile.TemporaryDirectory() as scratch:
        return run(options.tree or [ROOT], options.rows, options.keep or Path(scratch))


def run(trees: list[Path], rows: int, folder: Path) -> int:
    """Make the corpus in each tree, count the cells of the first, and compare the first with the others."""
    known = {one.name: one for one in worlds()}
    made = []
    for number, tree in enumerate(trees):
        made.append(drive(tree.resolve(), list(known.values()), rows, folder / f"{number}"))
        sys.stdout.write(f"{tree}: {sum(1 for _ in lines(made[-1]))} decisions in {made[-1]}\n")
    counts: Counter[Cell] = Counter()
    for line in lines(made[0]):
        counts.update(cells_of(line, known[line["world"]]))
    told, few = report(counts, cells())
    sys.stdout.write(told)
    failed = bool(few)
    for other in made[1:]:
        comparison = compared(lines(made[0]), lines(other), known)
        sys.stdout.write(comparison.report() + "\n")
        failed |= bool(comparison.wrong)
    return int(failed)


def freeze() -> int:
    """Write the sample anew from this tree."""
    with tempfile.TemporaryDirectory() as scratch:
        made = drive(ROOT, sampled(), SAMPLED_ROWS, Path(scratch)).read_bytes()
    SAMPLE.write_bytes(lzma.compress(made, preset=9 | lzma.PRESET_EXTREME))
    sys.stdout.write(f"{SAMPLE}: {len(made.splitlines())} decisions, {SAMPLE.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
