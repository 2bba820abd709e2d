"""``python -m tests.mutation``: change the guards in every small way and see whether their tests notice.

Fails where fewer than 95 % of a scope's mutants are killed, not counting those in ``equivalent.toml``, which nothing
can tell from the original; and where one that is listed there is killed after all, or is no mutant any more.
"""

import argparse
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants
from tests.mutation.runs import Outcome, outcomes, prepare, reached
from tests.test_imports import modules

LEAST = 0.95
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
Key = tuple[str, str, str, str]


def scopes() -> dict[str, dict[str, Path]]:
    """The modules of each scope, by name: what decides, with breaker and baselines, and what proves."""
    core = [module for module in modules("guards") if not module.within("guards.proof", "guards.__main__")]
    return {
        "core": {module.name: module.path for module in core},
        "proof": {module.name: module.path for module in modules("guards.proof")},
    }


def equivalents() -> dict[Key, str]:
    """Why nothing can tell a mutant from the original, for each of which that was found."""
    listed = tomllib.loads(EQUIVALENT.read_text("utf-8")).get("mutant", [])
    return {(one["module"], one["function"], one["was"], one["now"]): one["why"] for one in listed}


def told(rows: Mapping[str, Counter[str]]) -> str:
    """A line for each module and one for all."""
    kinds = ("killed", "timed out", "survived", "equivalent")
    whole = sum(rows.values(), Counter[str]())
    lines = [f"{'':32}" + "".join(f"{kind:>12}" for kind in kinds)]
    lines += [
        f"{name:32}" + "".join(f"{row[kind]:12}" for kind in kinds) + f"{share(row):9.1%}"
        for name, row in [*sorted(rows.items()), ("all", whole)]
    ]
    return "\n".join(lines)


def share(row: Counter[str]) -> float:
    """Which part was killed of those that can be."""
    killed = row["killed"] + row["timed out"]
    return killed / (killed + row["survived"]) if killed + row["survived"] else 1.0


def tally(found: Sequence[tuple[Mutant, Outcome]], listed: Mapping[Key, str]) -> dict[str, Counter[str]]:
    """How many of each module's mutants came to which end."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, outcome in found:
        rows[mutant.module]["equivalent" if outcome == "survived" and mutant.key in listed else outcome] += 1
    return rows


def main() -> int:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="only these, as guards.shield")
    parser.add_argument("--scope", choices=list(scopes()), default="core")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    begun, listed = time.monotonic(), equivalents()
    paths = {name: path for name, path in scopes()[asked.scope].items() if not asked.modules or name in asked.modules}
    prepare()
    every = [mutant for name, path in paths.items() for mutant in mutants(name, path)]
    found = []
    for mutant, outcome in outcomes(every, paths, reached(), asked.jobs):
        found.append((mutant, outcome))
        if outcome == "survived" and mutant.key not in listed:
            print(mutant, flush=True)
    ends = {mutant.key: outcome for mutant, outcome in found}
    wrong = [key for key in listed if key[0] in paths and ends.get(key) != "survived"]
    for key in wrong:
        print(f"{EQUIVALENT.name}: {' | '.join(key)}: {ends.get(key, 'is no mutant any more')}")
    rows = tally(found, listed)
    print(told(rows), f"\n{len(every)} mutants in {time.monotonic() - begun:.0f} s")
    return bool(wrong) or share(sum(rows.values(), Counter[str]())) < LEAST


if __name__ == "__main__":
    sys.exit(main())
