"""Driving: has a tree make the corpus, in a process whose clocks and random numbers stand still."""

import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.corpus.traffic import Traffic
from tests.corpus.worlds import World, beside, worlds

DRIVER = Path(__file__).with_name("drive.py")
SEED = 11
SAMPLE = Path(__file__).with_name("sample.jsonl.xz")
# 2,000 and more in all.
SAMPLED_ROWS = 16


def drive(tree: Path, worlds: Sequence[World], rows: int, folder: Path) -> Path:
    """The file that the tree's decisions are written to, ``rows`` of each world; raises RuntimeError."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "corpus.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    asked = folder / "steps.jsonl"
    with asked.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(one) + "\n" for one in steps(worlds, rows, folder))
    with asked.open() as file:
        command = [sys.executable, str(DRIVER), str(out)]
        ended = subprocess.run(
            command, stdin=file, stderr=subprocess.PIPE, env=environment, cwd=folder, text=True, check=False
        )
    if ended.returncode:
        msg = f"{tree}: could not be driven\n{ended.stderr[-4000:]}"
        raise RuntimeError(msg)
    return out


def steps(worlds: Sequence[World], rows: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What the driver is told: each world, what is asked of it, and where that ends."""
    for world in worlds:
        path = folder / f"{world.shape}-{world.model}.onnx"
        if not path.exists():
            path.write_bytes(world.artefact())
        config = {**world.config, "policy": str(path)}
        if config["baseline"]["kind"] == "policy":
            config["baseline"] = {**config["baseline"], "path": str(path)}
        yield {"world": world.name, "config": config}
        yield from Traffic(world, SEED).ops(rows)
        yield {}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The decisions that were written down."""
    with path.open(encoding="ascii") as file:
        yield from map(json.loads, file)


def sampled() -> list[World]:
    """The worlds of the committed sample: of each pair one variant in turn, and all that are beside the table."""
    table = [one for one in worlds() if one.variant in "ab"]
    return [*(one for i, one in enumerate(table) if i % 2 == i // 2 % 2), *beside()]


def frozen() -> Iterator[dict[str, Any]]:
    """The decisions of the committed sample."""
    yield from map(json.loads, lzma.decompress(SAMPLE.read_bytes()).splitlines())
