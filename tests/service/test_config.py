"""The configuration: one file, and every mistake in it is a sentence with its place, what it was, what was expected."""

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from guards.breaker import Breaker
from service import server
from service.application import assemble
from service.config import Config, ConfigInvalid
from service.processes import MISCONFIGURED
from tests import artefacts

LEAST = 'name = "demo"\npolicy = "demo.onnx"\n[baseline]\nkind = "constant"\naction = "hold"\n'
WHOLE = """
name = "autoscaler"
policy = "policies/demo.onnx"
facts = ["price"]
durability = "disk"
guard_clock = "observed_at"

[explore]
kind = "epsilon_greedy"
epsilon = 0.02

[[constraints]]
kind = "rule"
name = "keep two replicas"
forbid = "action == 'scale_down' and replicas <= 2"
mode = "warn"

[[constraints]]
kind = "cooldown"
name = "scale-down cooldown"
actions = ["scale_down"]
seconds = 60

[[constraints]]
kind = "bounds"
name = "pods"
of = "replicas"
effect = { scale_up = 1 }
high = 20

[baseline]
kind = "rules"
rules = [{ when = "cpu > 0.8", action = "scale_up" }, { when = "cpu < 0.3", action = "scale_down" }]
otherwise = "hold"
last_resort = "hold"

[breaker]
consecutive = 3
jitter = 0

[limits]
deadline_ms = 25
stale_seconds = 30
body_bytes = 2048
batch_bytes = 4096
batch_rows = 10
sessions = 5

[rewards]
wait_seconds = 30
default = -1
aggregation = "sum"

[retention]
journal_seconds = 60
journal_bytes = 1073741824
stream_hours = 48
stream_bytes = 33554432

[proof]
at_start = "refuse"
seconds = 5
history = "known"
"""


def read(folder: Path, text: str) -> Config:
    """Read a configuration from this text."""
    path = folder / "policy.toml"
    path.write_text(text, "utf-8")
    return Config.read(path)


def refused(folder: Path, text: str) -> str:
    """Why a text is no configuration; the file is named first."""
    with pytest.raises(ConfigInvalid) as error:
        read(folder, text)
    told = str(error.value)
    assert told.startswith(f"{folder / 'policy.toml'}: ")
    assert "\n" not in told
    return told.removeprefix(f"{folder / 'policy.toml'}: ")


def test_the_least_is_a_policy_and_a_baseline(tmp_path: Path) -> None:
    """Everything else has a default: greedy, no constraints, the journal in the page cache."""
    config = read(tmp_path, LEAST)

    assert (config.name, config.policy) == ("demo", tmp_path / "demo.onnx")
    assert (config.explore.kind, config.constraints, config.durability) == ("greedy", (), "journal")
    assert (config.limits.deadline_ms, config.limits.body_bytes, config.limits.batch_bytes) == (25, 2**18, 2**22)
    assert (config.breaker, config.limits.stale_seconds) == (Breaker(), 60)


def test_everything_can_be_said(tmp_path: Path) -> None:
    """Each setting is read to its place, and the policy's path is from the file's own folder."""
    config = read(tmp_path, WHOLE)

    assert config.policy == tmp_path / "policies" / "demo.onnx"
    assert [constraint.name for constraint in config.constraints] == [
        "keep two replicas",
        "scale-down cooldown",
        "pods",
    ]
    assert [constraint.mode for constraint in config.constraints] == ["warn", "deny", "deny"]
    assert (config.limits.batch_rows, config.rewards.aggregation, config.facts) == (10, "sum", ("price",))
    assert (config.durability, config.guard_clock) == ("disk", "observed_at")
    assert (config.breaker, config.limits.stale_seconds) == (Breaker(consecutive=3, jitter=0), 30)
    assert (config.proof.at_start, config.proof.seconds, config.proof.history) == ("refuse", 5, "known")


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    """A policy may be anywhere."""
    assert read(tmp_path, LEAST.replace("demo.onnx", "/elsewhere/demo.onnx")).policy == Path("/elsewhere/demo.onnx")


RETENTION = WHOLE[WHOLE.index("[retention]") : WHOLE.index("[proof]")].strip()
TABLES = ("explore", "constraints", "baseline", "breaker", "limits", "rewards", "retention", "proof", "")


@pytest.mark.parametrize("table", TABLES)
def test_a_setting_that_does_not_exist_is_refused_on_every_level(tmp_path: Path, table: str) -> None:
    """A word that is misspelled is found, wherever it stands."""
    lines = WHOLE.splitlines()
    at = next((i for i, line in enumerate(lines) if line.strip("[]") == table and line), 0)
    told = refused(tmp_path, "\n".join([*lines[: at + 1], "misspelled = 1", *lines[at + 1 :]]))
    place = {"": "misspelled", "constraints": "constraints.0.misspelled"}.get(table, f"{table}.misspelled")

    assert told == f"{place}: is not a setting that exists here"


def test_a_setting_that_does_not_exist_is_refused_within_a_rule(tmp_path: Path) -> None:
    """The rules of a baseline are a level of their own."""
    told = refused(tmp_path, WHOLE.replace('action = "scale_up" }', 'action = "scale_up", also = 1 }'))

    assert told == "baseline.rules.0.also: is not a setting that exists here"


@pytest.mark.parametrize(
    ("was", "becomes", "place", "said"),
    [
        ('name = "autoscaler"', "", "name", "is missing"),
        ('name = "autoscaler"', 'name = ""', "name", "was ''"),
        ('name = "autoscaler"', 'name = "a b"', "name", "was 'a b'"),
        ('name = "autoscaler"', "name = 5", "name", "was 5"),
        ('policy = "policies/demo.onnx"', "", "policy", "is missing"),
        ('policy = "policies/demo.onnx"', "policy = 1", "policy", "was 1"),
        ('facts = ["price"]', 'facts = "price"', "facts", "was 'price'"),
        ('facts = ["price"]', 'facts = ["a-b"]', "facts.0", "was 'a-b'"),
        ('durability = "disk"', 'durability = "paper"', "durability", "'journal' or 'disk'"),
        ('durability = "disk"', 'durability = "memory"', "durability", "'journal' or 'disk'"),
        ('"observed_at"', '"caller"', "guard_clock", "'service' or 'observed_at'"),
        ('kind = "epsilon_greedy"', "", "explore.kind", "is missing, expected one of greedy, epsilon_greedy, "),
        ('kind = "epsilon_greedy"', 'kind = "ucb"', "explore.kind", "was 'ucb', expected one of greedy, "),
        ("epsilon = 0.02", "epsilon = 1.5", "explore.epsilon", "was 1.5, expected: "),
        ("epsilon = 0.02", "epsilon = nan", "explore.epsilon", "was nan"),
        ("epsilon = 0.02", "", "explore.epsilon", "is missing"),
        ('kind = "rule"', 'kind = "law"', "constraints.0.kind", "(the nearest of 11)"),
        ('kind = "rule"', 'kind = "rate"', "constraints.0.kind", "was 'rate', expected one of rate_limit, "),
        ('kind = "rules"', 'kind = "treshold"', "baseline.kind", "was 'treshold', expected one of threshold, "),
        ('kind = "rule"', "kind = 3", "constraints.0.kind", "was 3, expected one of rule, cooldown, bounds, "),
        ('kind = "rule"', "", "constraints.0.kind", "is missing, expected one of rule, cooldown, bounds, "),
        ('kind = "rules"', "", "baseline.kind", "is missing, expected one of constant, hold, rules, threshold, "),
        ('name = "keep two replicas"', "", "constraints.0.name", "is missing"),
        ('mode = "warn"', 'mode = "ignore"', "constraints.0.mode", "'deny', 'warn' or 'audit'"),
        ('actions = ["scale_down"]', "actions = []", "constraints.1.actions", "at least 1"),
        ('actions = ["scale_down"]', 'actions = "scale_down"', "constraints.1.actions", "was 'scale_down'"),
        ("seconds = 60\n", "seconds = 0\n", "constraints.1.seconds", "was 0, expected: "),
        ("seconds = 60\n", "seconds = inf\n", "constraints.1.seconds", "was inf"),
        ("{ scale_up = 1 }", "{ scale_up = true }", "constraints.2.effect.scale_up", "was True"),
        ('otherwise = "hold"', "", "baseline.otherwise", "is missing"),
        ('when = "cpu < 0.3", ', "", "baseline.rules.1.when", "is missing"),
        ("consecutive = 3", "consecutive = 0", "breaker.consecutive", "was 0"),
        ("deadline_ms = 25", "deadline_ms = 0", "limits.deadline_ms", "was 0"),
        ("deadline_ms = 25", 'deadline_ms = "25"', "limits.deadline_ms", "was '25'"),
        ("deadline_ms = 25", "deadline_ms = true", "limits.deadline_ms", "was True"),
        ("deadline_ms = 25", "deadline_ms = 1979-05-27", "limits.deadline_ms", "was '1979-05-27'"),
        ("body_bytes = 2048", "body_bytes = 20.5", "limits.body_bytes", "was 20.5"),
        ("body_bytes = 2048", "body_bytes = 1", "limits.body_bytes", "was 1"),
        ("batch_rows = 10", "batch_rows = -1", "limits.batch_rows", "was -1"),
        ("wait_seconds = 30", "wait_seconds = 1e9", "rewards.wait_seconds", "was 1000000000.0"),
        ('"sum"', '"mean"', "rewards.aggregation", "'first', 'sum' or 'last'"),
        ("default = -1", "default = inf", "rewards.default", "was inf"),
        (RETENTION, "retention = 5", "retention", "was 5"),
        ("stream_hours = 48", "stream_hours = 0", "retention.stream_hours", "was 0"),
        ("stream_bytes = 33554432", "stream_bytes = 5", "retention.stream_bytes", "was 5"),
        ("journal_bytes = 1073741824", "journal_bytes = 1.5", "retention.journal_bytes", "was 1.5"),
        ("journal_seconds = 60", "journal_seconds = [60]", "retention.journal_seconds", "was [60]"),
    ],
)  # fmt: skip
def test_a_mistake_says_where_what_and_what_was_expected(
    tmp_path: Path, was: str, becomes: str, place: str, said: str
) -> None:
    """The path in the file is the one that people wrote, and the sentence has the value and the expectation."""
    assert WHOLE.count(was) >= 1
    text = WHOLE.replace(was, becomes, 1)
    if becomes == "retention = 5":
        text = f"{becomes}\n{text.replace(becomes, '')}"

    told = refused(tmp_path, text)

    assert told.startswith(f"{place}: ")
    assert said in told


def test_settings_that_contradict_each_other_are_told_once(tmp_path: Path) -> None:
    """Which, what they are, and what was expected; the whole table is not shown."""
    told = refused(tmp_path, WHOLE.replace("consecutive = 3", "rest_seconds = 60"))

    assert told == "breaker: rest_seconds is 60.0, expected at most 30.0, the longest"


def test_a_long_mistake_is_shown_in_part(tmp_path: Path) -> None:
    """A value of many characters does not hide the sentence."""
    told = refused(tmp_path, LEAST.replace('"demo"', f'"{"x " * 5000}"'))

    assert len(told) < 300
    assert "..." in told


@pytest.mark.parametrize("text", [b"name =", b"\xff\xfe", b"[a]\n[a]", b'name = "a\nb"', b"\0"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: bytes) -> None:
    """The message names the file and where it stops making sense."""
    (tmp_path / "policy.toml").write_bytes(text)

    with pytest.raises(ConfigInvalid, match=r"policy\.toml: is not TOML"):
        Config.read(tmp_path / "policy.toml")


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    """No file, and a folder in its place."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigInvalid, match="cannot be read"):
            Config.read(path)


def test_it_cannot_be_changed(tmp_path: Path) -> None:
    """What was read stays as it is."""
    config = read(tmp_path, WHOLE)

    with pytest.raises(ValidationError):
        config.name = "other"  # type: ignore[misc]  # that it is frozen is what is tested


@pytest.mark.parametrize("line", RETENTION.splitlines()[1:])
def test_what_is_kept_how_long_is_no_part_of_the_digest(tmp_path: Path, line: str) -> None:
    """Evidence is not begun anew because a disk was too small."""
    changed = WHOLE.replace(line, line + "1") if "hours" not in line else WHOLE.replace(line, "stream_hours = 1.5")

    assert read(tmp_path, changed).retention != read(tmp_path, WHOLE).retention
    assert read(tmp_path, changed).digest == read(tmp_path, WHOLE).digest
    assert "retention" not in read(tmp_path, WHOLE).text()


def test_the_digest_names_what_bears_on_a_decision(tmp_path: Path) -> None:
    """It is the sha256 of the canonical text, the same for another spelling, another for another setting."""
    config = read(tmp_path, WHOLE)
    spelled = read(tmp_path, WHOLE.replace("epsilon = 0.02", "epsilon = 2e-2  # a comment"))
    other = read(tmp_path, WHOLE.replace("epsilon = 0.02", "epsilon = 0.03"))

    assert config.digest == hashlib.sha256(config.text().encode()).hexdigest() == spelled.digest != other.digest
    assert json.loads(config.text())["explore"] == {"kind": "epsilon_greedy", "epsilon": 0.02}
    assert str(tmp_path) not in config.text()


def test_what_is_done_without_a_log_is_not_in_the_digest(tmp_path: Path) -> None:
    """It bears on no decision that is in the log, which names its configuration by digest."""
    refuse, serve = (
        read(tmp_path, WHOLE.replace("[limits]", f'[limits]\nunlogged = "{told}"')) for told in ("refuse", "serve")
    )

    assert refuse.limits.unlogged != serve.limits.unlogged
    assert refuse.digest == serve.digest
    assert "unlogged" not in refuse.text()


@pytest.mark.parametrize(
    ("was", "becomes", "place", "said"),
    [
        ("replicas <= 2", "replica <= 2", "constraints.0", "replica"),
        ("action == 'scale_down' and replicas <= 2", "replicas +", "constraints.0", "column"),
        ("action == 'scale_down' and replicas <= 2", "replicas + 2", "constraints.0", "expected a condition"),
        ("action == 'scale_down' and replicas <= 2", "__import__('os')", "constraints.0", "column"),
        ('actions = ["scale_down"]', 'actions = ["fly"]', "constraints.1", "'fly'"),
        ('of = "replicas"', 'of = "pods"', "constraints.2", "pods"),
        ("{ scale_up = 1 }", "{ fly = 1 }", "constraints.2", "'fly'"),
        ("high = 20", "high = 20\nlow = 30", "constraints.2", "low"),
        ('name = "scale-down cooldown"', 'name = "pods"', "constraints.2", "taken"),
        ('name = "pods"', 'name = "allowed"', "constraints.2", "taken"),
        ("cpu < 0.3", "cpus < 0.3", "baseline.rules.1.when: ", "cpus"),
        ('action = "scale_up" }', 'action = "fly" }', "baseline.rules.0.action: ", "'fly'"),
        ('otherwise = "hold"', 'otherwise = "fly"', "baseline.otherwise: ", "'fly'"),
        ('last_resort = "hold"', 'last_resort = "fly"', "baseline.last_resort: ", "'fly'"),
        ('facts = ["price"]', 'facts = ["cpu"]', "facts", "cpu"),
        ('facts = ["price"]', 'facts = ["price", "price"]', "facts", "price"),
        ('facts = ["price"]', 'facts = ["step"]', "facts", "step"),
    ],
)  # fmt: skip
def test_a_guard_that_does_not_fit_the_policy_fails_at_start(
    tmp_path: Path, was: str, becomes: str, place: str, said: str
) -> None:
    """Names that the schema does not have, and guards that contradict themselves, are found with their path."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "demo.onnx").write_bytes(artefacts.demo())
    assert was in WHOLE
    config = read(tmp_path, WHOLE.replace(was, becomes, 1))

    with pytest.raises(ConfigInvalid) as error:
        assemble(config, tmp_path / "data")

    assert said in str(error.value)
    assert str(error.value).startswith(place)


@pytest.mark.parametrize("problem", ["baseline.action: the action 'fly'", "policy: {folder}/demo.onnx cannot be read"])
def test_what_is_found_while_starting_names_the_file_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    """As what is found while reading does, once."""
    path = tmp_path / "policy.toml"
    path.write_text(LEAST.replace("hold", "fly"))
    if "fly" in problem:
        (tmp_path / "demo.onnx").write_bytes(artefacts.demo())

    status = server.run(path, tmp_path / "data", -1)

    assert status == MISCONFIGURED
    told = capsys.readouterr().err
    assert told.startswith(f"actd: {path}: {problem.format(folder=tmp_path)}")
    assert told.count("policy.toml") == 1


@pytest.mark.parametrize("policy", ["none.onnx", ".", "a\\u0000b"])
def test_a_policy_that_cannot_be_read_fails_at_start(tmp_path: Path, policy: str) -> None:
    """A file that is not there, a folder, and what no file system has."""
    config = read(tmp_path, LEAST.replace("demo.onnx", policy))

    with pytest.raises(ConfigInvalid, match=r"^policy: .* expected an artefact of actd-export"):
        assemble(config, tmp_path / "data")
