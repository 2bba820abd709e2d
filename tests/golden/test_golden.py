"""The golden files: journals of before can be read, and what is seen of the service from outside is what it was."""

import asyncio
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from export.__main__ import main as export
from export.spec.artefact import open_artefact
from service.log.lines import CHAIN_START, chain_of, read_segment, sealed
from service.log.records import AnyRecord, encode_record
from tests.export.translations import made_once
from tests.golden.surface import (
    EXPORTS,
    JOURNAL,
    MISTAKES,
    PAGE,
    ROOT,
    SHARED,
    SURFACE,
    exit_code,
    exported,
    made,
    seen,
)

GOLDEN: dict[str, Any] = json.loads(SURFACE.read_text("utf-8"))
MEANT = """
This is what callers, operators, dashboards or readers of logs rely on, and it is not what it was. Where that is meant,
say so in CHANGELOG.md, and write the golden files anew: `python -m tests.golden`"""
LINE_MEANT = """
Journals that were written before have to be read as they are, and copied as they are: change the reader so that it
takes both forms. The golden journal is never written anew; a record of a new type or form is added to it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configurations, right ones and wrong ones."""
    place = tmp_path_factory.mktemp("mistakes")
    made(place)
    return place


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """The OpenAPI document of the demo, digests of those of others, and the metrics."""
    return asyncio.run(seen(tmp_path_factory.mktemp("surface")))


class TestJournal:
    """Lines that services of every kind wrote before: every type of record, over every action space."""

    def test_every_line_is_read_and_written_as_it_stands(self) -> None:
        """Number by number, and with its checksum and chain."""
        data, chain = JOURNAL.read_bytes(), CHAIN_START
        lines = list(read_segment(data))

        assert len(lines) == data.count(b"\n")
        for number, (line, raw) in enumerate(zip(lines, data.splitlines(keepends=True), strict=True), start=1):
            assert line.record is not None, f"{JOURNAL.name}:{number} is not read: {line.damage}{LINE_MEANT}"
            assert encode_record(line.record) == line.text, f"{JOURNAL.name}:{number} is written otherwise{LINE_MEANT}"
            assert sealed(chain + b" " + line.text) == raw, f"{JOURNAL.name}:{number} has another frame{LINE_MEANT}"
            chain = chain_of(raw)

    def test_every_type_of_record_is_there(self) -> None:
        """Also one that is added later, whose first line belongs there."""
        kinds = {type(line.record) for line in read_segment(JOURNAL.read_bytes())}

        assert kinds == set(get_args(AnyRecord)), f"{kinds}{LINE_MEANT}"

    def test_every_field_of_a_decision_is_there(self) -> None:
        """No field that a decision may have is left out by all of them but what no service of today writes."""
        decisions = [json.loads(line.text) for line in read_segment(JOURNAL.read_bytes())]
        names = {name for one in decisions if one["kind"] == "decision" for name in one}
        (decision,) = (one for one in get_args(AnyRecord) if one.__name__ == "Decision")

        assert set(decision.__struct_fields__) - names == set(), (
            f"{set(decision.__struct_fields__) - names}{LINE_MEANT}"
        )


def test_the_openapi_page_is_what_it_was(surface: tuple[Any, dict[str, Any]]) -> None:
    """The whole document for the demo; for other action spaces its digest."""
    page, told = surface

    assert page == json.loads(PAGE.read_text("utf-8")), f"the OpenAPI document{MEANT}"
    assert told["openapi"] == GOLDEN["openapi"], f"the OpenAPI documents of other action spaces{MEANT}"


def test_the_metrics_are_what_they_were(surface: tuple[Any, dict[str, Any]]) -> None:
    """Names, types and labels, one by one."""
    now, before = surface[1]["metrics"], GOLDEN["metrics"]

    for name in sorted({*now, *before}):
        assert now.get(name) == before.get(name), f"the metric {name}{MEANT}"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_command_ends_with_the_code_that_it_ended_with(name: str, folder: Path) -> None:
    """What scripts and supervisors go by, for mistakes that people make."""
    assert exit_code(folder, MISTAKES[name]) == GOLDEN["exit codes"][name], f"{name}{MEANT}"


def test_the_bundled_policies_have_the_digests_that_they_had() -> None:
    """They are named by them in every log."""
    found = {path.name: open_artefact(path.read_bytes()).digest for path in (ROOT / "policies").glob("*.onnx")}

    assert found == GOLDEN["policies"], f"policies/{MEANT}"


@pytest.mark.parametrize("name", EXPORTS)
def test_a_policy_of_others_is_exported_to_the_digest_that_it_had(name: str, tmp_path: Path) -> None:
    """Whoever exports a checkpoint again gets the same artefact."""
    if not (SHARED / name).exists():
        pytest.skip(f"the trained policy of others is not here: expected it in {SHARED / name}")
    made_once()

    assert exported(name, tmp_path, export) == GOLDEN["shared policies"][name], f"{name}{MEANT}"
