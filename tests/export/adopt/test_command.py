"""The verb: one line adopts a file, and whatever is not clear is a sentence with the option that clears it."""

from pathlib import Path

import numpy as np
import pytest

from export.adopt.command import run
from export.errors import AdoptionRefused, OptionInvalid, SampleInvalid, VerificationFailed
from export.spec import Box, Fields, MultiDiscrete
from export.spec.artefact import open_artefact
from tests.export.adopt.files import File, rows, simple
from tests.export.adopt.test_deploy import deploy, network
from tests.export.adopt.test_dialects import branches, godot


def test_a_file_is_adopted_by_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The artefact is written, and what was found is printed."""
    (tmp_path / "theirs.onnx").write_bytes(simple().data())
    output = tmp_path / "arm-2.onnx"

    code = run([str(tmp_path / "theirs.onnx"), "-o", str(output), "--author", "somebody", "--action-low=-1"])

    artefact = open_artefact(output.read_bytes())
    assert code == 0
    assert (artefact.manifest.name, artefact.manifest.version, artefact.manifest.author) == ("arm", "2", "somebody")
    assert isinstance(artefact.manifest.action, Box)
    assert artefact.manifest.action.fields[2].low == -1.0
    said = capsys.readouterr().out
    assert "read as rsl_rl: obs [4] -> gaussian [3]" in said
    assert f"sha256 {artefact.digest}" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm-2.onnx", "theirs.onnx"]


def test_names_units_and_bounds_are_put_on(tmp_path: Path) -> None:
    """Names go to fields, choices and factors as with any other source."""
    (tmp_path / "theirs.onnx").write_bytes(godot().data())
    words = ["--head", "logits", "--factors", "3,2", "--actions", "turn=left/none/right,jump=no/yes"]
    words += ["--names", "x,y,vx,vy", "--units", "m,m,m/s,m/s", "--low=-,-,-9,-9", "--high=-,-,9,9"]

    run([str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "jumper-1.onnx"), *words])

    manifest = open_artefact((tmp_path / "jumper-1.onnx").read_bytes()).manifest
    assert isinstance(manifest.action, MultiDiscrete)
    assert manifest.action.factors[1].names == ("no", "yes")
    assert isinstance(manifest.observation, Fields)
    assert [(f.name, f.unit, f.low) for f in manifest.observation.fields][2] == ("vx", "m/s", -9.0)


def test_recorded_observations_give_statistics(tmp_path: Path) -> None:
    """A sample of the masked policy's observations joins the proof and is summed up."""
    (tmp_path / "theirs.onnx").write_bytes(branches((3, 2)).data())
    np.savez(tmp_path / "seen.npz", obs=rows(120, 4))

    run([str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "a-1.onnx"), "--observations", str(tmp_path / "seen.npz")])

    manifest = open_artefact((tmp_path / "a-1.onnx").read_bytes()).manifest
    assert manifest.statistics is not None
    assert manifest.statistics.count == 120
    assert manifest.parity.observations == 2120


def test_the_deploy_file_gives_the_period(tmp_path: Path) -> None:
    """step_dt becomes the control period, unless another is said."""
    (tmp_path / "policy.onnx").write_bytes(network())
    (tmp_path / "deploy.yaml").write_bytes(deploy(1))
    words = [str(tmp_path / "policy.onnx"), "-o", str(tmp_path / "robot-1.onnx")]

    run([*words, "--deploy", str(tmp_path / "deploy.yaml")])
    told = open_artefact((tmp_path / "robot-1.onnx").read_bytes()).manifest.control_period_s
    run([*words, "--deploy", str(tmp_path / "deploy.yaml"), "--control-period", "0.1"])

    assert told == 0.02
    assert open_artefact((tmp_path / "robot-1.onnx").read_bytes()).manifest.control_period_s == 0.1


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["-o", "policy.onnx"], OptionInvalid, "expected NAME-VERSION.onnx"),
        (["-o", "policy-1.pt"], OptionInvalid, "ends in .onnx"),
        (["-o", "policy-1.onnx", "--tolerance", "1"], OptionInvalid, "--tolerance is 1"),
        (["-o", "policy-1.onnx", "--factors", "2,x"], OptionInvalid, "--factors has 'x'"),
        (["-o", "policy-1.onnx", "--action-low=-1,2"], OptionInvalid, "--action-low has 2 entries, expected 3"),
        (["-o", "policy-1.onnx", "--action-low=3", "--action-high=1"], OptionInvalid, "do not go together: .*low is 3"),
        (["-o", "policy-1.onnx", "--names", "a"], OptionInvalid, "--names has 1 entries"),
        (["-o", "policy-1.onnx", "--squash", "tanh", "--head", "logits"], OptionInvalid, "squash is 'tanh'"),
        (["-o", "policy-1.onnx", "--observations", "none.npy"], SampleInvalid, "--observations"),
        (["-o", "policy-1.onnx", "--deploy", "none.yaml"], Exception, "none.yaml cannot be read"),
    ],
)
def test_mistakes_are_sentences_and_write_nothing(
    words: list[str], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each names the option, and no file is left."""
    monkeypatch.chdir(tmp_path)
    Path("theirs.onnx").write_bytes(simple().data())

    with pytest.raises(error, match=message):
        run(["theirs.onnx", *words])
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]


def test_a_file_at_fault_leaves_what_was_there(tmp_path: Path) -> None:
    """The version before stays where the new one is refused."""
    (tmp_path / "theirs.onnx").write_bytes(b"nothing of ONNX")
    (tmp_path / "arm-2.onnx").write_bytes(b"the version before")

    with pytest.raises(AdoptionRefused, match="is not an ONNX model"):
        run([str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "arm-2.onnx")])
    assert (tmp_path / "arm-2.onnx").read_bytes() == b"the version before"


def test_states_without_bounds_are_asked_for(tmp_path: Path) -> None:
    """A table of 16 states is asked for others until people say which there are; the message has the options."""
    file = File()
    state = file.reshaped("Squeeze", file.input("obs", ["batch", 1], "int64"), 1)
    file.add("Gather", file.weights(16, 4), state, out=file.output("q", ["batch", 4]), axis=0)
    (tmp_path / "table.onnx").write_bytes(file.data())
    words = [str(tmp_path / "table.onnx"), "-o", str(tmp_path / "lake-1.onnx"), "--head", "q_values"]

    with pytest.raises(
        VerificationFailed, match="where the observation is a state, say which there are: --low 0 --high"
    ):
        run(words)
    assert run([*words, "--low", "0", "--high", "15"]) == 0
