"""TD3, DDPG and ARS: one action for an observation, as the real library's ``predict`` gives it."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from export.errors import CheckpointRefused, OptionInvalid, TensorsUnaccounted
from export.runtime import Session
from export.sb3 import of_sb3, read_sb3
from export.spec import Discrete
from export.trained import About
from export.write import build
from tests.export.sb3.models import (
    IMAGE,
    PARTS,
    SQUARE,
    UNEVEN,
    Options,
    Space,
    answered,
    inputs_of,
    made,
    outputs_of,
    read,
    vectors_for,
    worst_error,
    zipped,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "policies"
ABOUT = About(name="test", version="1")
KINDS: list[tuple[str, Space, Options]] = [
    ("TD3", UNEVEN, {}),
    ("TD3", SQUARE, {"net_arch": {"pi": [12, 7], "qf": [5]}, "activation_fn": torch.nn.Tanh}),
    ("TD3", UNEVEN, {"net_arch": []}),
    ("DDPG", SQUARE, {"net_arch": [9]}),
    ("ARS", UNEVEN, {}),
    ("ARS", SQUARE, {"net_arch": [9], "activation_fn": torch.nn.Tanh, "with_bias": False}),
    ("ARS", SQUARE, {"net_arch": [9], "squash_output": False}),
    ("ARS", UNEVEN, {"policy": "LinearPolicy"}),
    ("ARS", SQUARE, {"policy": "LinearPolicy", "with_bias": True, "squash_output": True}),
]


@pytest.mark.parametrize(("algorithm", "action", "options"), KINDS)
def test_the_executed_action_is_that_of_predict(algorithm: str, action: Space, options: Options) -> None:
    """The mean, clipped to the bounds, is the library's action; there is no spread around it."""
    model = made(algorithm, action, **options)
    policy = read(model)
    head = outputs_of(policy, inputs_of(policy, vectors_for(model)))

    assert worst_error(policy, model) <= 1e-6
    assert not head["std"].any()
    assert head["std"].shape == head["mean"].shape
    assert (policy.head, policy.squash, policy.family) == ("gaussian", "none", "deterministic")
    assert policy.source.algorithm == algorithm
    assert policy.native is not None


def test_the_finished_file_answers_as_predict() -> None:
    """The graph in ONNX Runtime gives the library's action in the space's own shape."""
    model = made("TD3", SQUARE, net_arch=[16])
    policy = read(model)
    artefact = build(policy, ABOUT)
    seen = vectors_for(model)

    action = Session(artefact.data).run(inputs_of(policy, seen))["action"]

    assert action.shape == (300, 2, 2)
    assert np.abs(action - model.predict(seen, deterministic=True)[0]).max() < 5e-5
    assert artefact.manifest.parity.reference.startswith("stable-baselines3 ")


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG", "ARS"])
def test_trap_1_the_mean_is_unscaled_in_the_graph(algorithm: str) -> None:
    """Networks that end in tanh answer between -1 and 1: the mean is in the action's own units, number by number."""
    model = made(algorithm, UNEVEN)
    policy = read(model)

    mean = outputs_of(policy, inputs_of(policy, vectors_for(model)))["mean"]

    assert (mean >= UNEVEN.low).all()
    assert (mean <= UNEVEN.high).all()
    assert (np.ptp(mean, axis=0) > 0.5 * (UNEVEN.high - UNEVEN.low)).all()
    assert any("un-scaled" in phrase for phrase in policy.inside)


def test_trap_2_a_linear_ars_policy_is_clipped() -> None:
    """ARS without tanh answers on any scale: its mean leaves the bounds and its action does not."""
    model = made("ARS", UNEVEN, policy="LinearPolicy")
    policy = read(model)

    outputs = answered(policy, inputs_of(policy, vectors_for(model)))

    assert (outputs["mean"] > UNEVEN.high).any()
    assert (outputs["action"] <= UNEVEN.high).all()
    assert (outputs["action"] >= UNEVEN.low).all()


def test_trap_31_the_actor_is_taken_and_not_its_target() -> None:
    """TD3's target actor lags behind: its tensors are set aside, and its action is another one."""
    model = made("TD3", UNEVEN, net_arch=[8])
    policy = read(model)
    seen = vectors_for(model)
    target = model.policy.get_submodule("actor_target")

    mean = outputs_of(policy, inputs_of(policy, seen))["mean"]
    with torch.no_grad():
        lagging = model.policy.unscale_action(target(torch.from_numpy(seen)).numpy())

    names = {name for name in model.policy.state_dict() if not name.startswith("actor.")}
    assert set(policy.set_aside) == names
    assert np.abs(mean - lagging).max() > 1


@pytest.mark.parametrize("options", [{}, {"policy": "LinearPolicy"}, {"net_arch": [6], "with_bias": False}])
def test_discrete_ars_has_scores(options: Options) -> None:
    """With discrete actions the answers are scores, the best of which is taken; nothing is squashed."""
    model = made("ARS", spaces.Discrete(3), **options)
    policy = read(model)
    seen = vectors_for(model)

    outputs = answered(policy, inputs_of(policy, seen))

    assert isinstance(policy.action, Discrete)
    assert policy.head == "q_values"
    assert set(outputs["action"]) == {0, 1, 2}
    assert np.array_equal(outputs["action"], model.predict(seen, deterministic=True)[0])
    with torch.no_grad():
        scores = model.policy.get_submodule("action_net")(torch.from_numpy(seen)).numpy()
    assert np.abs(outputs["q_values"] - scores).max() < 1e-6


@pytest.mark.parametrize("action", [spaces.Discrete(3), UNEVEN], ids=["discrete", "box"])
def test_trap_27_a_linear_layer_of_ars_was_once_named_without_its_number(action: Space) -> None:
    """Before 1.7 sb3-contrib saved ``action_net.weight``, today ``action_net.0.weight``: both are the same layer."""
    model = made("ARS", action, policy="LinearPolicy")
    data = zipped(model)

    older = of_sb3(read_sb3(renamed(data, "action_net.0.weight", "action_net.weight")))

    seen = vectors_for(model)
    found, expected = (answered(policy, {"obs": seen})["action"] for policy in (older, read(model)))
    assert np.array_equal(found, expected)
    assert np.ptp(found) > 0
    assert older.native is not None


def renamed(data: bytes, name: str, other: str) -> bytes:
    """Write a zip anew with one tensor under another name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        weights = torch.load(io.BytesIO(source.read("policy.pth")), weights_only=True)
        weights[other] = weights.pop(name)
        written = io.BytesIO()
        torch.save(dict(weights), written)
        target.writestr("policy.pth", written.getvalue())
        target.writestr("data", json.dumps(json.loads(source.read("data"))))
    return stream.getvalue()


@pytest.mark.parametrize("version", ["1.6.2", "1.4.1a1", ""])
def test_trap_27_an_old_mlp_of_ars_that_was_told_not_to_squash_is_refused(version: str) -> None:
    """Before 1.7 the tanh stayed in the network whatever it was told, and no tensor says so: it is never guessed."""
    found = read_sb3(zipped(made("ARS", UNEVEN, net_arch=[6], squash_output=False)))

    with pytest.raises(CheckpointRefused, match=r"expected 1\.7 or later"):
        of_sb3(replace(found, version=version))


def test_a_bias_that_the_policy_should_not_have_is_refused() -> None:
    """A file with more tensors than its texts say is not taken for less."""
    found = read_sb3(zipped(made("ARS", UNEVEN, net_arch=[6])))

    with pytest.raises(TensorsUnaccounted, match=r"action_net\.0\.bias"):
        of_sb3(replace(found, kwargs={**found.kwargs, "with_bias": False}))


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG"])
@pytest.mark.parametrize(
    ("policy", "observation"), [("CnnPolicy", IMAGE), ("MultiInputPolicy", PARTS)], ids=["image", "parts"]
)
def test_images_and_parts_go_into_the_actor(algorithm: str, policy: str, observation: Space) -> None:
    """The actor's own features come before its layers, whatever ``net_arch`` the release took by default."""
    options: Options = {"features_extractor_kwargs": {"features_dim": 32}} if policy == "CnnPolicy" else {}
    model = made(algorithm, UNEVEN, observation, policy, **options)
    last = [layer for layer in model.policy.get_submodule("actor.mu") if isinstance(layer, torch.nn.Linear)][-1]  # type: ignore[attr-defined]  # a Sequential
    with torch.no_grad():
        last.weight.mul_(0.02)

    assert worst_error(read(model), model, 200) < 1e-5


def test_a_zoo_agent_of_ars_answers_its_golden_observations() -> None:
    """The file is a linear ARS of 1.3.1a9: every golden action is the native one."""
    checkpoint = SHARED / "sb3" / "ars_CartPole-v1.zip"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")
    recorded = np.load(SHARED / "golden" / "ars_CartPole-v1.npz")

    policy = of_sb3(read_sb3(checkpoint.read_bytes()))
    outputs = Session(build(policy, ABOUT).data).run({"obs": recorded["obs"].astype(np.float32)})

    assert len(recorded["obs"]) == 1000
    assert np.array_equal(outputs["action"], recorded["action"])


def test_a_missing_bias_is_refused_where_the_policy_has_biases() -> None:
    """An MLP of ARS has biases unless it was told otherwise: without them the file is not the network it names."""
    found = read_sb3(zipped(made("ARS", UNEVEN, net_arch=[6], with_bias=False)))

    with pytest.raises(TensorsUnaccounted, match=r"action_net\.0\.bias"):
        of_sb3(replace(found, kwargs={**found.kwargs, "with_bias": True}))


def test_an_action_without_bounds_is_refused() -> None:
    """What comes out of a tanh has to be scaled to bounds: a zip that lacks one is refused."""
    found = read_sb3(zipped(made("TD3", UNEVEN, net_arch=[4])))
    space = found.texts["action_space"]
    assert isinstance(space, dict)
    unbounded = {**space, "low_repr": "[-inf 0.5]"}

    with pytest.raises(CheckpointRefused, match=r"'action_0' has the bounds None and 1\.0"):
        of_sb3(replace(found, texts={**found.texts, "action_space": unbounded}))


def test_an_action_of_another_kind_is_refused() -> None:
    """ARS has single choices and real numbers, not several choices at once."""
    found = read_sb3(zipped(made("ARS", UNEVEN, net_arch=[4])))
    several = {":type:": "<class 'gymnasium.spaces.multi_discrete.MultiDiscrete'>", "nvec": "[2 3]"}

    with pytest.raises(CheckpointRefused, match="multi_discrete, expected Box or Discrete"):
        of_sb3(replace(found, texts={**found.texts, "action_space": several}))


@pytest.mark.parametrize("algorithm", ["TD3", "ARS"])
def test_the_worst_outcomes_of_a_certain_action_are_refused(algorithm: str) -> None:
    """There is no distribution of outcomes to take a share of."""
    with pytest.raises(OptionInvalid, match="CVaR"):
        of_sb3(read_sb3(zipped(made(algorithm, UNEVEN, net_arch=[4]))), cvar=0.1)
