"""deploy.yaml: what surrounds a network on the robot goes into the graph, and nothing in the file is executed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.adopt.adoption import adopt
from export.adopt.deploy import read_deploy
from export.adopt.reading import Said
from export.errors import DeclarationInvalid, ParityFailed
from export.spec import Box, Fields
from export.write import finish
from tests.export.adopt.files import ABOUT, File, answered, finished, rows
from tests.export.adopt.test_adoption import original

PLAIN = """
step_dt: 0.02
actions:
  JointPositionAction:
    clip: [[-1.0, 1.0], [-0.5, 0.5]]
    joint_names: [hip.left, knee.left]
    scale: [0.25, 0.5]
    offset: [0.1, -0.1]
    joint_ids: null
observations:
  base_ang_vel: {params: {}, clip: [-1.0, 1.0], scale: [0.2, 0.4, 0.2], history_length: HISTORY}
  last_action: {params: {}, clip: null, scale: [1.0, 2.0], history_length: HISTORY}
"""
DEPTH = 3


def deploy(history: int, **changes: str) -> bytes:
    """Give a file with that history and some texts replaced."""
    text = PLAIN.replace("HISTORY", str(history))
    for before, after in changes.items():
        text = text.replace(before, after)
    return text.encode()


def network(history: int = 1) -> bytes:
    """Give a network of five numbers a step that answers with two means."""
    file = File(11)
    file.network(file.input("obs", [1, 5 * history]), 5 * history, 2, out=file.output("actions", [1, 2]))
    return file.data()


def prepared(seen: np.ndarray) -> np.ndarray:
    """Clip and scale as the robot's controller does, in that order."""
    return np.concatenate([np.clip(seen[:, :3], -1, 1) * [0.2, 0.4, 0.2], seen[:, 3:] * [1.0, 2.0]], axis=1)


def test_scale_offset_and_clip_go_around_the_network() -> None:
    """Observations are clipped and scaled term by term, actions scaled, moved and clipped."""
    seen = rows(200, 5) * 2

    artefact = finished(network(), Said(), deploy=deploy(1))
    found = answered(artefact, {"obs": seen})

    session = original(network())
    raw = np.concatenate([session.run(None, {"obs": r[None].astype(np.float32)})[0] for r in prepared(seen)])
    told = raw * [0.25, 0.5] + [0.1, -0.1]
    assert np.abs(found["mean"] - told).max() <= 1e-5
    assert np.abs(found["action"] - np.clip(told, [-1, -0.5], [1, 0.5])).max() <= 1e-5
    space, action = artefact.manifest.observation, artefact.manifest.action
    assert isinstance(space, Fields)
    assert isinstance(action, Box)
    assert space.names == ("base_ang_vel_0", "base_ang_vel_1", "base_ang_vel_2", "last_action_0", "last_action_1")
    assert [(field.name, field.low, field.high) for field in action.fields] == [
        ("hip_left", -1.0, 1.0),
        ("knee_left", -0.5, 0.5),
    ]
    assert space.fields[3].unit == "before scale and offset"


@pytest.mark.parametrize("by_frame", [False, True])
def test_history_is_memory(by_frame: bool) -> None:
    """The frames before are kept as declared memory; an episode begins with its first frame repeated."""
    switch = "observations:\n  use_gym_history: true" if by_frame else "observations:"
    seen = rows(20, 5)

    artefact = finished(network(DEPTH), Said(), deploy=deploy(DEPTH, **{"observations:": switch}))

    memory = {m.port_in.name: np.zeros((1, *m.shape), np.float32) for m in artefact.manifest.memory}
    assert [m.name for m in artefact.manifest.memory] == ["history", "started"]
    session, frames = original(network(DEPTH)), [prepared(seen[:1])[0]] * DEPTH
    for row in seen:
        frames = [*frames[1:], prepared(row[None])[0]]
        window = np.stack(frames)
        flat = (
            window.reshape(-1) if by_frame else np.concatenate([window[:, :3].reshape(-1), window[:, 3:].reshape(-1)])
        )
        told = session.run(None, {"obs": flat[None].astype(np.float32)})[0] * [0.25, 0.5] + [0.1, -0.1]
        found = answered(artefact, {"obs": row[None], **memory})
        memory = {name: np.asarray(found[name.replace(".in", ".out")], np.float32) for name in memory}
        assert np.abs(found["mean"] - told).max() <= 1e-5
    assert artefact.manifest.parity.steps == 100


def test_terms_may_see_histories_of_different_lengths() -> None:
    """Each term has its own number of frames, the newest ones."""
    file = File()
    file.network(file.input("obs", ["batch", 3 * 2 + 2 * 4]), 14, 2, out=file.output("actions", ["batch", 2]))
    text = deploy(2).decode().replace("[1.0, 2.0], history_length: 2", "[1.0, 2.0], history_length: 4").encode()

    artefact = finished(file.data(), Said(), deploy=text)

    assert artefact.manifest.memory[0].shape == (3, 5)


def test_every_number_around_the_network_is_proved() -> None:
    """A scale, an offset or a bound that is off by a tenth makes the proof fail."""
    found = adopt(network(), Said(), deploy=deploy(1))
    numbers = [t for t in found.model.graph.initializer if not t.name.startswith("net.") and t.data_type == 1]

    for number in numbers:
        model = onnx.ModelProto()
        model.CopyFrom(found.model)
        at = [t.name for t in model.graph.initializer].index(number.name)
        wrong = numpy_helper.to_array(number) * np.float32(0.9) + np.float32(0.001)
        model.graph.initializer[at].CopyFrom(numpy_helper.from_array(wrong, number.name))
        with pytest.raises(ParityFailed):
            finish(found.meaning, model, found.answers, ABOUT, answers_name=found.answers_name)
    assert len(numbers) == 7


def test_scaling_before_clipping_is_another_thing() -> None:
    """scale_first changes what the clip is in."""
    seen = rows(50, 5) * 20
    first = {"observations:": "observations:\n  scale_first: true"}

    before, after = (
        answered(finished(network(), Said(), deploy=d), {"obs": seen}) for d in (deploy(1), deploy(1, **first))
    )

    assert np.abs(before["mean"] - after["mean"]).max() > 0.01


def test_tags_are_not_executed(tmp_path: Path) -> None:
    """A tag that would make an object of Python makes nothing, wherever it stands."""
    canary = tmp_path / "canary"
    tag = f"params: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]"
    text = deploy(1, **{"params: {}": tag, "joint_ids: null": "joint_ids: !!python/object:builtins.slice {}"})

    artefact = finished(network(), Said(), deploy=text)

    assert not canary.exists()
    assert artefact.manifest.action.width == 2


def test_the_control_period_is_known() -> None:
    """step_dt is the time from one decision to the next."""
    assert adopt(network(), Said(), deploy=deploy(1)).period_s == 0.02


def test_terms_under_the_name_of_the_input_are_found() -> None:
    """Files with several inputs have their terms in groups."""
    text = deploy(1).decode().replace("observations:", "observations:\n obs:").encode()

    assert read_deploy(text, 5, 2, "obs").preparation.width == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale: [0.25, 0.5]": "scale: [0.25]"}, "scale, offset and clip are of different lengths"),
        ({"[0.2, 0.4, 0.2]": "[0.2, 0.4]"}, r"base_ang_vel 2 x 1 \+ last_action 2 x 1, expected 5 numbers"),
        ({"[0.2, 0.4, 0.2]": "0.2", "[1.0, 2.0]": "null"}, "nothing tells the widths of base_ang_vel, last_action"),
        ({"[0.2, 0.4, 0.2]": "[.nan, 0.4, 0.2]"}, "observations.base_ang_vel.scale"),
        ({"history_length: 1": "history_length: -1"}, "observations.base_ang_vel.history_length"),
        ({"actions:": "things:"}, "deploy.yaml: actions: Field required"),
        ({"step_dt: 0.02": "step_dt: [[["}, "deploy.yaml cannot be read"),
        ({"step_dt: 0.02": "step_dt: 0"}, "deploy.yaml: step_dt"),
        (
            {
                "observations:": "observations:\n  use_gym_history: true",
                "2.0], history_length: 1": "2.0], history_length: 2",
            },
            "expected",
        ),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, str], message: str) -> None:
    """Every mistake has its place in the file."""
    with pytest.raises(DeclarationInvalid, match=message):
        adopt(network(), Said(), deploy=deploy(1, **changes))


@pytest.mark.parametrize("data", [b"[1, 2]", b"", b"&a [*a]", b"\xff\xfe", b"a: " + b"[" * 5000, b"x" * (1 << 19)])
def test_what_is_no_table_is_said(data: bytes) -> None:
    """Other files, loops and depths are sentences."""
    with pytest.raises(DeclarationInvalid, match=r"deploy\.yaml (holds no table|cannot be read|has|nests)"):
        read_deploy(data, 5, 2)


def test_one_width_that_is_not_said_is_worked_out() -> None:
    """A term without numbers of its own takes what the others leave."""
    text = deploy(1, **{"scale: [0.2, 0.4, 0.2]": "scale: 0.2"})

    assert read_deploy(text, 5, 2).preparation.terms[0].scale == (0.2, 0.2, 0.2)


def test_heads_that_are_no_means_have_no_deploy_file() -> None:
    """Scale and offset belong to real numbers."""
    with pytest.raises(DeclarationInvalid, match="answers with plain means"):
        adopt(network(), Said(head="logits"), deploy=deploy(1))
