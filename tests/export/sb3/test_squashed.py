"""SAC and TQC: pre-squash mean and std, and the executed action, as the real library has them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.distributions import Normal

from export.errors import CheckpointRefused, OptionInvalid
from export.runtime import Session
from export.sb3 import of_sb3, read_sb3
from export.spec import Box
from export.trained import About
from export.write import build
from tests.export.sb3.densities import log_density, sampled
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
SDE: Options = {"use_sde": True, "net_arch": [16]}
KINDS: list[tuple[str, Space, Options]] = [
    ("SAC", UNEVEN, {}),
    ("SAC", SQUARE, {"net_arch": {"pi": [12, 7], "qf": [5]}, "activation_fn": torch.nn.Tanh}),
    ("SAC", UNEVEN, {"net_arch": [], "n_critics": 1}),
    ("TQC", SQUARE, {"net_arch": [9], "n_quantiles": 5}),
    ("SAC", UNEVEN, SDE),
    ("SAC", SQUARE, {**SDE, "use_expln": True, "clip_mean": 0.5}),
    ("TQC", UNEVEN, {**SDE, "clip_mean": 0.0}),
    ("TQC", SQUARE, SDE),
]


def distribution(model: BaseAlgorithm, seen: np.ndarray) -> Normal:
    """Give the library's own distribution before the tanh."""
    actor: Any = model.policy.get_submodule("actor")
    with torch.no_grad():
        mean, log_std, options = actor.get_action_dist_params(torch.from_numpy(seen))
        found = actor.action_dist.proba_distribution(mean, log_std, **options).distribution
    assert isinstance(found, Normal)
    return found


@pytest.mark.parametrize(("algorithm", "action", "options"), KINDS)
def test_the_executed_action_is_that_of_predict(algorithm: str, action: Space, options: Options) -> None:
    """The head, put through the manifest's formula, gives the library's deterministic action."""
    model = made(algorithm, action, **options)
    policy = read(model)

    assert worst_error(policy, model) <= 1e-6
    assert policy.source.algorithm == algorithm
    assert (policy.head, policy.squash) == ("gaussian", "tanh")
    assert policy.native is not None


@pytest.mark.parametrize(("algorithm", "action", "options"), KINDS)
def test_the_head_is_the_distribution_of_the_library(algorithm: str, action: Space, options: Options) -> None:
    """The density of any executed action, with tanh and scaling, is that of torch's own squashed distribution."""
    model = made(algorithm, action, **options)
    policy = read(model)
    seen = vectors_for(model)
    torch.manual_seed(0)

    head = outputs_of(policy, inputs_of(policy, seen))
    pre, drawn, expected = sampled(policy, distribution(model, seen))
    found = log_density(policy, head["mean"], head["std"], pre)

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (drawn >= action.low.reshape(-1)).all()  # type: ignore[attr-defined]  # a gymnasium Box
    assert (drawn <= action.high.reshape(-1)).all()  # type: ignore[attr-defined]  # a gymnasium Box


def test_the_finished_file_has_the_same_density() -> None:
    """The graph in ONNX Runtime gives mean and std from which the library's densities come out."""
    model = made("SAC", UNEVEN, net_arch=[16])
    policy = read(model)
    artefact = build(policy, ABOUT)
    seen = vectors_for(model)
    torch.manual_seed(0)

    outputs = Session(artefact.data).run(inputs_of(policy, seen))
    pre, _, expected = sampled(policy, distribution(model, seen))
    found = log_density(policy, outputs["mean"], outputs["std"], pre)

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(outputs["action"] - model.predict(seen, deterministic=True)[0]).max() < 2e-5
    assert artefact.manifest.parity.reference.startswith("stable-baselines3 ")


def test_the_std_is_capped_where_the_library_caps_it() -> None:
    """A logarithm of the std beyond [-20, 2] is cut to it."""
    model = made("SAC", UNEVEN, net_arch=[16])
    layer = model.policy.get_submodule("actor.log_std")
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(400)
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    std = outputs_of(policy, inputs)["std"]

    assert std.min() == pytest.approx(np.exp(-20), rel=1e-6)
    assert std.max() == pytest.approx(np.exp(2), rel=1e-6)
    assert np.array_equal(std, distribution(model, inputs["obs"]).stddev.numpy())


def test_trap_1_the_answer_is_unscaled_to_uneven_bounds() -> None:
    """tanh of the mean is not the action: it is scaled to each number's own bounds."""
    model = made("SAC", UNEVEN)
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    outputs = answered(policy, inputs)
    expected, _ = model.predict(inputs["obs"], deterministic=True)

    assert np.abs(np.tanh(outputs["mean"]) - expected).max() > 1
    assert np.abs(outputs["action"] - expected).max() < 1e-6
    assert outputs["action"].min(axis=0) == pytest.approx([-2, 0.5], abs=0.1)
    assert outputs["action"].max(axis=0) == pytest.approx([1, 3], abs=0.1)


def test_trap_4_gsde_clips_the_mean_before_the_tanh() -> None:
    """With gSDE the mean is ``Sequential(Linear, Hardtanh(-2, 2))``: leaving the second part out is another action."""
    model = made("SAC", UNEVEN, **SDE)
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    mean = outputs_of(policy, inputs)["mean"]

    assert "actor.mu.0.weight" in model.policy.state_dict()
    assert np.abs(mean).max() == 2
    assert 0.1 < (np.abs(mean) == 2).mean() < 0.9
    assert worst_error(policy, model) < 1e-6


def test_trap_31_critics_and_their_targets_are_set_aside() -> None:
    """Only the actor is taken: all other tensors are named as set aside, none is lost."""
    model = made("TQC", UNEVEN, net_arch=[8])

    policy = read(model)

    names = {name for name in model.policy.state_dict() if not name.startswith("actor.")}
    assert any(name.startswith("critic_target.") for name in names)
    assert set(policy.set_aside) == names


@pytest.mark.parametrize("algorithm", ["SAC", "TQC"])
@pytest.mark.parametrize(
    ("policy", "observation"), [("CnnPolicy", IMAGE), ("MultiInputPolicy", PARTS)], ids=["image", "parts"]
)
def test_images_and_parts_go_into_the_actor(algorithm: str, policy: str, observation: Space) -> None:
    """The actor's own features come before its layers."""
    options: Options = {"features_extractor_kwargs": {"features_dim": 32}} if policy == "CnnPolicy" else {}
    model = made(algorithm, UNEVEN, observation, policy, net_arch=[16], **options)
    mean = model.policy.get_submodule("actor.mu")
    assert isinstance(mean, torch.nn.Linear)
    with torch.no_grad():
        mean.weight.mul_(0.02 if policy == "CnnPolicy" else 1)

    assert worst_error(read(model), model, 200) < 1e-5


@pytest.mark.parametrize("share", [True, False])
def test_an_extractor_shared_with_the_critic_is_the_actors(share: bool) -> None:
    """Shared or not, the actor's copy of the features extractor is the one that counts."""
    options: Options = {"features_extractor_kwargs": {"features_dim": 32}}
    model = made("SAC", UNEVEN, IMAGE, "CnnPolicy", net_arch=[], share_features_extractor=share, **options)

    policy = read(model)

    assert any(name.startswith("critic.features_extractor.") for name in policy.set_aside)


def test_a_zoo_agent_older_than_0_10_answers_its_golden_observations() -> None:
    """The file is a SAC with gSDE, saved before zips had a version member."""
    checkpoint = SHARED / "sb3" / "sac_Pendulum-v1.zip"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")
    recorded = np.load(SHARED / "golden" / "sac_Pendulum-v1.npz")

    policy = of_sb3(read_sb3(checkpoint.read_bytes()))
    outputs = Session(build(policy, ABOUT).data).run({"obs": recorded["obs"].astype(np.float32)})

    assert policy.source.library_version == ""
    assert isinstance(policy.action, Box)
    assert len(recorded["obs"]) == 1000
    assert np.abs(outputs["action"] - recorded["action"]).max() <= 1e-5 * 4


def test_an_action_without_bounds_is_refused() -> None:
    """What comes out of a tanh has to be scaled to bounds: a zip that lacks one is refused."""
    found = read_sb3(zipped(made("SAC", UNEVEN, net_arch=[4])))
    space = found.texts["action_space"]
    assert isinstance(space, dict)
    unbounded = {**space, "high_repr": "[inf 3.]"}

    with pytest.raises(CheckpointRefused, match=r"'action_0' has the bounds -2\.0 and None"):
        of_sb3(replace(found, texts={**found.texts, "action_space": unbounded}))


def test_an_action_that_is_a_choice_is_refused() -> None:
    """SAC has no discrete actions."""
    found = read_sb3(zipped(made("SAC", UNEVEN, net_arch=[4])))
    discrete = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "2"}

    with pytest.raises(CheckpointRefused, match="discrete, expected Box"):
        of_sb3(replace(found, texts={**found.texts, "action_space": discrete}))


def test_the_worst_outcomes_of_an_actor_are_refused() -> None:
    """TQC knows a distribution of outcomes, but its actor answers without it: CVaR is refused, not left out."""
    with pytest.raises(OptionInvalid, match="CVaR"):
        of_sb3(read_sb3(zipped(made("TQC", UNEVEN, net_arch=[4]))), cvar=0.1)
