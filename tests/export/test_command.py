"""The command ``actd-export`` as people type it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from export.__main__ import _VERBS, main
from export.errors import CheckpointRefused
from export.sources import Asked, read
from export.spec import Discrete
from export.spec.artefact import open_artefact
from export.spec.extras import install
from tests.export.scripted.policies import saved

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "policies"

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, recorded states, results, and the artefact made of them."""
    path = tmp_path_factory.mktemp("export")
    np.save(path / "q.npy", np.random.default_rng(0).normal(size=(20, 3)))
    np.save(path / "seen.npy", np.arange(20).reshape(-1, 1))
    results = {
        "env": "Lake-v1",
        "mean_reward": 0.75,
        "std_reward": 0.1,
        "is_deterministic": True,
        "n_eval_episodes": 100,
        "eval_datetime": "2026-01-02T03:04:05",
    }
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """An artefact written by the command with every option that a table takes."""
    path = folder / "frozen-lake-7.onnx"
    words = [str(folder / "q.npy"), "-o", str(path), "--names", "cell", "--units", "#", "--actions", "left,stay,right"]
    words += ["--observations", str(folder / "seen.npy"), "--evaluation", str(folder / "results.json")]
    words += ["--control-period", "0.5", "--description", "slippery", "--author", "me", "--license", "MIT"]
    words += ["--date", "2026-01-02", "--notes", "of a test"]
    assert main(words) == 0
    return path


def test_an_export_says_everything_it_was_told(exported: Path) -> None:
    """Name and version come from the file's name, the rest from the options."""
    manifest = open_artefact(exported.read_bytes()).manifest

    assert (manifest.name, manifest.version) == ("frozen-lake", "7")
    assert manifest.fields == ("cell",)
    assert manifest.action == Discrete(names=("left", "stay", "right"))
    assert manifest.control_period_s == 0.5
    assert manifest.evaluation is not None
    assert manifest.evaluation.mean_reward == 0.75
    assert manifest.statistics is not None
    assert manifest.statistics.mean == (9.5,)
    assert manifest.date == "2026-01-02"


def test_an_export_prints_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line is the file with its size and digest."""
    path = folder / "odd.onnx"

    code = main([str(folder / "q.npy"), "-o", str(path), "--name", "lake", "--version", "2"])

    last = capsys.readouterr().out.splitlines()[-1]
    assert code == 0
    assert last == f"{path}: {path.stat().st_size} bytes, sha256 {open_artefact(path.read_bytes()).digest}"


def test_show_prints_the_card(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spaces with names, units and bounds, family, statistics, parity, evaluation and digest."""
    assert main(["show", str(exported)]) == 0

    text = capsys.readouterr().out
    digest = open_artefact(exported.read_bytes()).digest
    for part in (
        "frozen-lake 7",
        "slippery",
        digest,
        "tabular",
        "cell",
        "0 .. 19",
        "#",
        "left, stay, right",
        "mean 9.5",
    ):
        assert part in text
    for part in (
        "period       0.5 s",
        "20 observations from seen.npy",
        "100 %",
        "Lake-v1: 0.75 +/- 0.1",
        "golden rows  16",
    ):
        assert part in text


def test_show_gives_json(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` is for scripts."""
    assert main(["show", "--json", str(exported)]) == 0

    card = json.loads(capsys.readouterr().out)
    assert card["name"] == "frozen-lake"
    assert card["digest"] == open_artefact(exported.read_bytes()).digest
    assert card["bytes"] == exported.stat().st_size
    assert card["golden_rows"] == 16


def test_verify_prints_each_check(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each check is a line, the verdict the last one."""
    assert main(["verify", str(exported)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines[:-1]] == ["OK    "] * 6
    assert lines[-1] == "OK"


def test_verify_fails_on_a_damaged_file(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file is FAILED with the reason, and the exit code says so."""
    path = tmp_path / "damaged-1.onnx"
    data = bytearray(exported.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)

    assert main(["verify", str(path)]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED DigestMismatch: policy.digest is ")
    assert lines[-1] == "FAILED"
    assert main(["show", str(path)]) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{q}", "-o", "{f}/lake.onnx"], 2, "-o is 'lake.onnx', expected NAME-VERSION.onnx"),
        (["{q}", "-o", "{f}/lake-1.bin"], 2, "expected a file that ends in .onnx"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--actions", "a,b"], 2, "--actions has 2 entries, expected 3"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--tolerance", "1"], 2, "--tolerance is 1, expected more than 0"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--control-period", "0"], 2, "control_period_s: Input should be greater"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--evaluation", "{q}"], 2, "q.npy: : Invalid JSON"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--evaluation", "{f}/none"], 2, "none cannot be read: No such file"),
        (["{f}/none.zip", "-o", "{f}/lake-1.onnx"], 1, "none.zip cannot be read: No such file"),
        (["{f}/none.bin", "-o", "{f}/lake-1.onnx"], 1, "none.bin ends in '.bin', expected a checkpoint"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--observations", "{q}"], 1, "q.npy has the shape [20, 3]"),
        (["{q}", "-o", "{f}/lake-1.onnx", "--declare", "{f}/none.toml"], 1, "none.toml cannot be read"),
        (["{f}/x.onnx", "-o", "{f}/lake-1.onnx"], 2, "adopted: actd-export adopt {f}/x.onnx -o {f}/lake-1.onnx (a"),
        (["-o", "{f}/lake-1.onnx", "{f}/X.ONNX"], 2, "actd-export adopt {f}/X.ONNX -o {f}/lake-1.onnx (a faster"),
        (["{f}/my net.onnx"], 2, "actd-export adopt '{f}/my net.onnx' -o NAME-VERSION.onnx (a faster variant of"),
        (["{q}", "{f}/x.onnx", "-o", "{f}/lake-1.onnx"], 2, "an artefact needs --quantize or --distill)"),
        (["verfy", "{f}/x.onnx"], 2, "'verfy' is neither a file nor a verb: did you mean 'verify'?"),
        (["Shwo", "{f}/x.onnx"], 2, "did you mean 'show'?"),
        (["adpot", "{f}/x.onnx", "-o", "{f}/lake-1.onnx"], 2, "did you mean 'adopt'?"),
        (["keygne", "-o", "{f}/k"], 2, "did you mean 'keygen'?"),
        (["frobnicate", "{q}"], 2, "expected a checkpoint, or one of verify, show, keygen, sign, adopt"),
        (["x" * 300, "-o", "{f}/lake-1.onnx"], 2, "is neither a file nor a verb"),
        (["show", "{f}/none.onnx"], 2, "none.onnx cannot be read: No such file"),
        (["show", "{q}"], 1, "has 0 policy.digest entries"),
    ],
)
def test_mistakes_are_sentences(
    words: list[str], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every mistake is one line on stderr, with exit code 2 for the command line and 1 for the files."""
    found = main([word.format(q=folder / "q.npy", f=folder) for word in words])

    error = capsys.readouterr().err
    assert found == code
    assert error.startswith("actd-export: ")
    assert message.format(q=folder / "q.npy", f=folder) in error
    assert len(error.splitlines()) == 1
    assert not (folder / "lake-1.onnx").exists()


def test_a_script_that_reads_an_onnx_file_is_told_too() -> None:
    """Whoever calls the reader without the command gets the command to use."""
    with pytest.raises(CheckpointRefused, match=r"x.onnx is an ONNX .*: actd-export adopt a/x.onnx -o NAME-VERSION"):
        read(Asked(Path("a/x.onnx")))


def test_an_output_is_still_required(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one the command says so as it says any missing option."""
    with pytest.raises(SystemExit) as ended:
        main([str(folder / "q.npy")])

    assert ended.value.code == 2
    assert "the following arguments are required: -o/--output" in capsys.readouterr().err


def test_a_folder_that_is_called_like_a_verb_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What exists is a checkpoint, however near its name is to a verb's."""
    (tmp_path / "verfy").mkdir()
    monkeypatch.chdir(tmp_path)

    assert main(["verfy", "-o", "lake-1.onnx"]) == 1
    assert "verfy is a folder without" in capsys.readouterr().err


def test_an_sb3_zip_goes_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command takes a real zip, and says which tensors it set aside."""
    checkpoint = SHARED / "sb3" / "ppo_LunarLander-v2.zip"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")
    path = tmp_path / "lander-1.onnx"

    code = main([str(checkpoint), "-o", str(path), "--names", "x,y,vx,vy,angle,spin,left,right"])

    assert code == 0
    assert "set aside: 6 tensors that no action depends on (mlp_extractor, value_net)" in capsys.readouterr().out
    assert open_artefact(path.read_bytes()).manifest.fields[2] == "vx"


def test_statistics_beside_a_zip_are_read_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SB3 keeps normalisation in another file; the policy is exported with it, and proven on recorded actions."""
    checkpoint = SHARED / "sb3" / "ppo_MountainCar-v0.zip"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")
    (tmp_path / "a.zip").write_bytes(checkpoint.read_bytes())
    (tmp_path / "a.vecnormalize.pkl").write_bytes(checkpoint.with_suffix(".vecnormalize.pkl").read_bytes())
    path = tmp_path / "a-1.onnx"
    recorded = str(SHARED / "golden" / "ppo_MountainCar-v0.npz")

    allowed = main([str(tmp_path / "a.zip"), "-o", str(path), "--observations", recorded])
    manifest = open_artefact(path.read_bytes()).manifest
    without = main([str(tmp_path / "a.zip"), "-o", str(path), "--observations", recorded, "--ignore-normalisation"])
    (tmp_path / "a.vecnormalize.pkl").write_bytes(b"")
    damaged = main([str(tmp_path / "a.zip"), "-o", str(path)])

    assert (allowed, without, damaged) == (0, 1, 1)
    assert (manifest.parity.recorded, manifest.parity.recorded_ties) == (1000, 0)
    told = capsys.readouterr().err
    assert "rows have another action" in told
    assert f"the file of normalisation statistics {tmp_path / 'a.vecnormalize.pkl'} cannot be read" in told
    assert open_artefact(path.read_bytes()).manifest == manifest


def test_a_declared_network_says_that_it_is_unproven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong activation exports, with that said, and fails by recorded actions; the right one meets them."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    torch.save({"net": module.state_dict(), "iter": 3}, tmp_path / "net.pt")
    seen = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    with torch.no_grad():
        np.savez(tmp_path / "seen.npz", obs=seen, action=module(torch.from_numpy(seen)).argmax(1).numpy())
    spaces = "observation = { shape = [2] }\naction = { n = 3 }\n"
    for activation in ("relu", "tanh"):
        network = f"network = {{ hidden = [8], key = 'net', activation = '{activation}' }}"
        (tmp_path / f"{activation}.toml").write_text(spaces + network)
    words = [str(tmp_path / "net.pt"), "-o", str(tmp_path / "net-1.onnx"), "--declare"]
    recorded = ["--observations", str(tmp_path / "seen.npz")]

    assert main([*words, str(tmp_path / "relu.toml")]) == 0
    wrong = capsys.readouterr().out.splitlines()
    assert main(["show", str(tmp_path / "net-1.onnx")]) == 0
    shown = capsys.readouterr().out
    assert main([*words, str(tmp_path / "relu.toml"), *recorded]) == 1
    refused = capsys.readouterr().err
    assert main([*words, str(tmp_path / "tanh.toml"), *recorded]) == 0
    right = capsys.readouterr().out.splitlines()

    assert wrong[0] == 'beside key = "net": iter'
    assert wrong[-2].startswith("behaviour: declared, unproven against behaviour")
    assert "behaviour    declared, unproven against behaviour" in shown
    assert "have another action" in refused
    assert right[-2] == "behaviour: declared, and met 200 recorded actions"


def test_reading_artefacts_needs_no_torch(exported: Path) -> None:
    """``verify`` and ``show`` run where torch is not installed, and exporting there says what is missing."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from export.__main__ import main\n"
        "assert main(['verify', sys.argv[1]]) == 0\n"
        "assert main(['show', sys.argv[1]]) == 0\n"
        "assert main(['x.npy', '-o', 'x-1.onnx']) == 2\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(exported)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )

    assert f"this needs the package 'torch', expected it installed: {install('export')}\n" in done.stderr


def test_neither_sb3_nor_gym_is_imported() -> None:
    """The exporter reads SB3's files without SB3."""
    code = (
        "import sys, export.command\n"
        "found = [name for name in ('stable_baselines3', 'gymnasium', 'gym') if name in sys.modules]\n"
        "assert not found, found\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


@pytest.mark.parametrize("head", ["logits", "q_values"])
def test_torchscript_whose_parameters_require_grad_goes_through_the_command(
    head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network as training left it, scripted and saved: nobody has to freeze it."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    (tmp_path / "policy.pt").write_bytes(saved(module))
    declaration = (
        f'observation = {{ shape = [4] }}\naction = {{ n = 3 }}\nnetwork = {{ kind = "module", head = "{head}" }}'
    )
    (tmp_path / "policy.toml").write_text(declaration)
    words = [str(tmp_path / "policy.pt"), "-o", str(tmp_path / "policy-1.onnx")]

    code = main([*words, "--declare", str(tmp_path / "policy.toml")])

    assert code == 0
    assert "100 % the same action" in capsys.readouterr().out


def test_what_nobody_foresaw_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake of the command itself says that it is one, and where; nothing is shown as a traceback."""
    monkeypatch.setitem(_VERBS, "show", ("export.reading_command", "nothing_of_the_kind"))

    assert main(["show", "policy-1.onnx"]) == 1
    told = capsys.readouterr().err
    assert "nothing was written: AttributeError in __main__.py, line" in told
    assert "this is a fault of actd-export itself" in told
    assert "Traceback" not in told
