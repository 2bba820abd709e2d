"""The command ``python -m guards``: what it prints, and what its exit codes say."""

import json
import runpy
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from export.spec.extras import install
from guards.__main__ import main
from tests.acting import factors, gaussian
from tests.artefacts import demo

ROOT = Path(__file__).parents[2]
ORDINARY = """
policy = "demo.onnx"
facts = ["budget"]
name = "demo"
[[constraints]]
kind = "rule"
name = "keep two replicas"
forbid = "action == 'scale_down' and replicas <= 2"
[[constraints]]
kind = "cooldown"
name = "calm"
actions = ["scale_up"]
seconds = 60
[baseline]
kind = "constant"
action = "hold"
last_resort = "hold"
"""
HOLE = (
    ORDINARY
    + """
[[constraints]]
kind = "rule"
name = "never hold"
forbid = "action == 'hold' and cpu > 0.5"
"""
)
OBSERVATION = '{"cpu": 0.9, "queue": 3, "replicas": 2}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an artefact."""
    (tmp_path / "demo.onnx").write_bytes(demo())
    return tmp_path


def written(folder: Path, text: str) -> str:
    """The path of a configuration."""
    path = folder / "policy.toml"
    path.write_text(text, "utf-8")
    return str(path)


def explained(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> Any:
    """What is explained, as JSON."""
    assert main(["explain", written(folder, ORDINARY), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said where nothing is done."""
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    return told.err.removeprefix("guards: ").rstrip("\n")


def test_a_sound_configuration_is_proved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0."""
    assert main(["prove", written(folder, ORDINARY)]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "proved: for every observation within the declared ranges, at least one action is allowed",
        "proved: the last resort 'hold' is allowed wherever nothing else is",
    ]


def test_a_hole_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and where it is."""
    assert main(["prove", written(folder, HOLE)]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("counterexample: ")
    assert "  hold: closed by 'never hold'" in lines


def test_what_is_not_decided_has_a_code_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3: no answer in the time given."""
    assert main(["prove", written(folder, HOLE), "--seconds", "0"]) == 3

    assert capsys.readouterr().out.startswith("undecided: ")


def test_a_verdict_is_json_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the situation as numbers."""
    assert main(["prove", "--json", written(folder, HOLE)]) == 1

    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "counterexample"
    assert told["left"]["counterexample"]["situation"]["observation"]["cpu"] > 0.5


def test_a_situation_is_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each action, and each constraint with its reason."""
    assert main(["explain", written(folder, ORDINARY), "--observation", OBSERVATION]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "observation: cpu = 0.9, queue = 3, replicas = 2",
        "facts: budget was not given",
        "history: the first decision of an episode",
    ]
    assert lines[3] == "scale_down: not allowed"
    assert lines[4].endswith("is true where replicas = 2")


def test_history_and_facts_are_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They become the situation that is shown."""
    facts = ["--facts", '{"budget": 1}']
    past = ["--previous", "scale_up", "--seconds-since-change", "5", "--step", "3", "--used", "scale_up=5"]

    told = explained(capsys, folder, "--observation", "[0.9, 3, 4]", *facts, *past, "--used", "hold=9")

    assert told["situation"] == {
        "observation": {"cpu": 0.9, "queue": 3, "replicas": 4},
        "facts": {"budget": 1},
        "past": {
            "known": True,
            "step": 3,
            "previous": "scale_up",
            "seconds_since_change": 5,
            "used": {"scale_up": 5, "hold": 9},
            "kept": {},
            "spent": {},
            "switched": [],
            "changed": {},
        },
    }
    assert [action["allowed"] for action in told["actions"]] == [True, True, False]


def test_a_history_may_be_unknown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a restart: constraints take the worst."""
    told = explained(capsys, folder, "--observation", "[0.9, 3, 4]", "--unknown-history")

    assert [action["allowed"] for action in told["actions"]] == [True, True, False]


def test_a_previous_action_is_one_decision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless more are said."""
    told = explained(capsys, folder, "--observation", "[0.9, 3, 4]", "--previous", "hold")

    assert told["situation"]["past"]["step"] == 1


REMEMBERING = """
[[constraints]]
kind = "rate_limit"
name = "slowly"
per_second = 0.05
effect = { scale_up = 1 }
[[constraints]]
kind = "max_switches"
name = "steady"
at_most = 1
seconds = 60
[[constraints]]
kind = "budget"
name = "spending"
cost = "1 if action == 'scale_up' else 0"
at_most = 1
seconds = 60
"""
BEFORE = ["--previous", "scale_up", "--step", "3"]


@pytest.mark.parametrize(
    ("options", "forbid"),
    [
        ([], {}),
        (["--seconds-since-change", "1"], {"slowly": "scale_up", "steady": "scale_down hold"}),
        (["--used", "scale_up=1"], {"slowly": "scale_up"}),
        (["--spent", "spending=1"], {"spending": "scale_up"}),
        (["--switched", "50"], {"slowly": "", "steady": "scale_down hold"}),
        (["--seconds-since-change", "1", "--changed", "slowly=20"], {"steady": "scale_down hold"}),
        (["--seconds-since-change", "70", "--switched", "70", "--switched", "90"], {}),
    ],
)
def test_what_happened_before_counts(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], forbid: dict[str, str]
) -> None:
    """Also for what is kept of a session, as far as the options say it."""
    path = written(folder, ORDINARY.replace("seconds = 60", "seconds = 0.5") + REMEMBERING)

    assert main(["explain", path, "--json", "--observation", "[0.1, 3, 4]", *BEFORE, *options]) == 0

    actions = json.loads(capsys.readouterr().out)["actions"]
    found: dict[str, list[str]] = {}
    for action in actions:
        for said in action["said"]:
            if said["forbids"]:
                found.setdefault(said["constraint"], []).append(action["action"])
    assert {name: " ".join(which) for name, which in found.items()} == {k: v for k, v in forbid.items() if v}


def test_what_is_not_said_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no plain permission."""
    assert main(["explain", written(folder, ORDINARY + REMEMBERING), "--observation", OBSERVATION, *BEFORE]) == 0

    text = capsys.readouterr().out
    assert text.count("as if there had been none before") == 3
    assert text.count("as if none had been made before") == 2
    assert text.count("as if nothing had been spent before") == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--observation", "[" * 100_000], "--observation: is not JSON"),
        (["--spent", "spend=1"], "--spent: was 'spend', expected one of none"),
        (["--changed", "calm=1"], "--changed: was 'calm', expected one of none"),
        (["--switched", "1"], "--spent, --changed, --switched: say what happened before, expected with --previous"),
        (
            ["--previous", "hold", "--seconds-since-change", "9", "--switched", "1"],
            "--switched: was 1, expected no less than --seconds-since-change, which is 9",
        ),
        (["--observation", "{"], "--observation: is not JSON"),
        (
            ["--observation", '{"cpu": 1}'],
            '--observation: was {"cpu": 1}, expected a JSON object with all of cpu, queue',
        ),
        (["--observation", "[1, 2]"], "--observation: was [1, 2], expected"),
        (["--observation", "3"], "--observation: was 3, expected"),
        (["--observation", '[0.5, "1", 2]'], "--observation.queue: was '1', expected a finite number"),
        (["--observation", "[0.5, true, 2]"], "--observation.queue: was True, expected a finite number"),
        (["--observation", "[NaN, 1, 2]"], "--observation.cpu: was nan, expected a finite number"),
        (["--observation", f"[1{'0' * 400}, 1, 2]"], "--observation.cpu: was 1000"),
        (["--facts", "[1]"], "--facts: was [1], expected a JSON object with some of budget"),
        (["--facts", '{"price": 1}'], "--facts: was "),
        (["--step", "2"], "--step: was 2, expected 0 without --previous, and more with it"),
        (["--step", "-1", "--previous", "hold"], "--step: was -1"),
        (["--step", "0", "--previous", "hold"], "--step: was 0"),
        (["--previous", "fly"], "the action 'fly' is not known, expected one of scale_down, hold, scale_up"),
        (["--used", "fly=3"], "the action 'fly' is not known"),
    ],
)
def test_a_wrong_option_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    """Exit code 2: what it was, and what was expected."""
    words = ["explain", written(folder, ORDINARY), "--observation", OBSERVATION, *options]

    assert refused(capsys, *words).startswith(said)


def test_a_switch_may_be_later_than_the_first_sight_of_a_session(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the history is not here, the seconds are those since then."""
    lost = ["--unknown-history", "--seconds-since-change", "9", "--switched", "1"]

    told = explained(capsys, folder, "--observation", "[0.9, 3, 4]", *BEFORE, *lost)

    assert (told["situation"]["past"]["seconds_since_change"], told["situation"]["past"]["switched"]) == (9, [1])


def test_what_was_spent_is_an_amount(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, by the parser of the command line."""
    with pytest.raises(SystemExit) as left:
        main(["explain", written(folder, ORDINARY), "--observation", OBSERVATION, "--spent", "budget=-1"])

    assert left.value.code == 2
    assert "was 'budget=-1', expected NAME=AMOUNT" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["x", "-1", "nan", "inf"])
def test_seconds_are_seconds(folder: Path, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
    """Exit code 2, by the parser of the command line."""
    with pytest.raises(SystemExit) as left:
        main(["prove", written(folder, ORDINARY), f"--seconds={seconds}"])

    assert left.value.code == 2
    assert f"was {seconds!r}, expected a number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('policy = "demo.onnx"', "", "policy: was None, expected: "),
        ('policy = "demo.onnx"', 'policy = "none.onnx"', "policy: {folder}/none.onnx cannot be read (No such file"),
        ('policy = "demo.onnx"', 'policy = "a\\u0000b"', "policy: was '{folder}/a\\x00b', expected a path ("),
        ("facts =", "deep = " + "[" * 20_000 + "\nfacts =", "is not TOML ("),
        (
            'policy = "demo.onnx"',
            'policy = "policy.toml"',
            "policy: {folder}/policy.toml: the file has 0 policy.digest",
        ),
        ('["budget"]', '["a b"]', "facts.0: was 'a b', expected: "),
        ('["budget"]', '["cpu"]', "facts: the fact 'cpu' has a name that is taken"),
        ('kind = "rule"', 'kind = "rle"', "constraints.0: was {{'kind': 'rle'"),
        ("seconds = 60", 'seconds = "60"', "constraints.1.seconds: was '60', expected: "),
        ("seconds = 60", "seconds = nan", "constraints.1"),
        ("replicas <= 2", "pods <= 2", "constraints.0, 'keep two replicas': expression "),
        ('["scale_up"]', '["up"]', "constraints.1, 'calm': the action 'up' is not known"),
        ('last_resort = "hold"', 'last_resort = "fly"', "baseline.last_resort: the action 'fly' is not known"),
        ('kind = "constant"', "kind = 3", "baseline: was {{"),
        ("name =", "name", "is not TOML ("),
    ],
)
def test_a_mistake_in_the_file_has_its_path(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    """Exit code 2: the file, where in it, what it was and what was expected."""
    path = written(folder, ORDINARY.replace(old, new, 1))

    assert refused(capsys, "prove", path).startswith(f"{path}: {said.format(folder=folder)}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2."""
    path = str(tmp_path / "none.toml")

    assert refused(capsys, "prove", path) == (
        f"{path}: cannot be read (No such file or directory), expected a TOML file"
    )


def test_a_configuration_needs_no_baseline_to_be_proved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the constraints that are asked about."""
    path = written(folder, ORDINARY.partition("[baseline]")[0])

    assert main(["prove", path]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_trusted_policy_is_the_service_s_to_load(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a baseline it is not looked at here; its last resort is."""
    trusting = ORDINARY.replace('kind = "constant"\naction = "hold"', 'kind = "policy"\npath = "older.onnx"')

    assert main(["prove", written(folder, trusting)]) == 0
    assert main(["prove", written(folder, trusting.replace('last_resort = "hold"', 'last_resort = "fly"'))]) == 2
    assert "baseline.last_resort: the action 'fly' is not known" in capsys.readouterr().err


NUMBERS = """
policy = "arm.onnx"
[[constraints]]
kind = "rate_limit"
name = "slowly"
of = "torque"
per_second = 1
[baseline]
kind = "constant"
action = [0, 1, 0]
last_resort = [0.5, 1, 0]
"""


def test_a_box_is_proved_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its last resort, which is a list of numbers; sessions whose history is not here may be left out."""
    (folder / "arm.onnx").write_bytes(gaussian())
    path = written(folder, NUMBERS)

    assert (main(["prove", path]), main(["prove", "--known-history", path])) == (1, 0)

    lines = capsys.readouterr().out.splitlines()
    resort = "the last resort [0.5, 1, 0] is allowed wherever nothing else is"
    assert "  every action: closed by 'slowly'" in lines
    assert f"counterexample: {resort} (not there either)" in lines
    assert f"proved: {resort}" in lines


def test_several_factors_are_proved_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last resort is a list of choices, by name or index."""
    (folder / "arm.onnx").write_bytes(factors())
    rule = '[[constraints]]\nkind = "rule"\nname = "dry"\nforbid = "pump == \'on\' and valve == \'closed\'"\n'
    text = 'policy = "arm.onnx"\n' + rule + NUMBERS.partition("per_second = 1\n")[2]
    text = text.replace("[0, 1, 0]", '["off", 1, 0]').replace("[0.5, 1, 0]", '["on", "closed", "still"]')

    assert main(["prove", written(folder, text)]) == 0

    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("note: the last resort ['on', 'closed', 'still'] is itself forbidden in some situations")


def test_without_z3_proving_says_what_to_install(folder: Path) -> None:
    """Exit code 2; explaining needs nothing."""
    path = written(folder, ORDINARY)
    program = "import sys; sys.modules['z3'] = None; from guards.__main__ import main; sys.exit(main())"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *words]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    proving, explaining = run("prove", path), run("explain", path, "--observation", OBSERVATION)

    assert (proving.returncode, proving.stdout) == (2, "")
    assert proving.stderr == (
        f"guards: the proof needs the package 'z3-solver', expected it installed: {install('verify')}\n"
    )
    assert (explaining.returncode, explaining.stderr) == (0, "")


def test_a_limit_too_large_for_a_double_is_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It forbids, without a warning."""
    bounds = 'kind = "bounds"\nname = "far"\nof = "replicas"\neffect = { scale_up = 1.7e308 }\nhigh = -1.7e308\n'

    assert main(["prove", written(folder, f"{ORDINARY}\n[[constraints]]\n{bounds}")]) == 0

    assert capsys.readouterr().err == ""


def test_a_fault_has_an_exit_code_that_no_verdict_has(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here what is to be printed cannot be: that is no counterexample."""
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), "ascii"))

    code = main(["prove", written(folder, HOLE.replace("never hold", "nie h\u00f6ren"))])

    assert code == 70
    said = capsys.readouterr().err
    assert said.startswith("guards: a fault of the command, and no verdict:\nTraceback ")
    assert "UnicodeEncodeError" in said


def test_the_bundled_configuration_is_proved() -> None:
    """As people type it."""
    command = [sys.executable, "-m", "guards", "prove", "policy.toml"]

    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("proved: ")


def test_the_module_is_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words that follow it."""
    monkeypatch.setattr(sys, "argv", ["guards", "prove", written(folder, ORDINARY)])
    monkeypatch.delitem(sys.modules, "guards.__main__")

    with pytest.raises(SystemExit) as left:
        runpy.run_module("guards", run_name="__main__")

    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("proved: ")
