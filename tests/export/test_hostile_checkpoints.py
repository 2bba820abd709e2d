"""Behaviour of the export towards checkpoints that mean harm: each is refused by name, and nothing else happens."""

import resource
import sys
from pathlib import Path

import pytest

from export.__main__ import main
from export.declaration import read_declaration
from export.errors import ExportError
from export.rllib import of_rllib, read_rllib
from export.sources import Asked, read
from export.tensorfile import tensor_file
from tests.export.hostile import file, members, plain, rllib, running, statistics
from tests.export.hostile_table import HOSTILE, STATISTICS

MEMORY_KB = 400 * 1024


def export(words: list[str], out: Path) -> int:
    """Run the command; gives its exit code."""
    path = Path(words[0])
    try:
        if path.name == "checkpoint":
            of_rllib(read_rllib(path))
        if path.suffix == ".safetensors":
            tensor_file(path.read_bytes(), path.name, read_declaration(Path(words[2])))
    except ExportError as error:
        print(f"actd-export: {error}", file=sys.stderr)  # noqa: T201 - as the command does
        return 1
    return main([*words, "-o", str(out)])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with a message of one line, nothing ran, nothing was written, and memory stayed small."""
    given, canary, out = tmp_path / "given", tmp_path / "canary", tmp_path / "policy-1.onnx"
    given.mkdir()
    expected, make = HOSTILE[name]
    words = make(given, str(canary))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    code = export(words, out)

    said = capsys.readouterr().err
    assert code in (1, 2)
    assert said.startswith("actd-export: ")
    assert expected in said
    assert len(said.splitlines()) == 1
    assert len(said) < 1000
    assert {path.name for path in tmp_path.iterdir()} == {"given"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KB


def test_the_files_they_were_made_of_are_good(tmp_path: Path) -> None:
    """Without the harm, the same makers' files are read: what is refused above is refused for its harm."""
    for name in ("zip", "pt", "statistics"):
        (tmp_path / name).mkdir()
    path, _, declaration = file("net.pt", lambda _: plain({}))(tmp_path / "pt", "")
    zipped = Path(members(lambda *_: None)(tmp_path / "zip", "")[0])
    statistics(lambda _: running(*STATISTICS))(tmp_path / "statistics", "")
    normalisation = (tmp_path / "statistics" / "model.vecnormalize.pkl").read_bytes()

    assert read(Asked(Path(path), read_declaration(Path(declaration)))).head == "q_values"
    assert read(Asked(zipped)).head == "q_values"
    assert read(Asked(zipped, normalisation=normalisation)).head == "q_values"
    assert of_rllib(read_rllib(Path(rllib(lambda *_: None)(tmp_path, "")[0]))).head == "logits"
