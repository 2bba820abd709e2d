"""SB3 zips become artefacts: real ones of other people answer their golden files, fresh ones the real library."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from export.errors import CheckpointRefused, ParityFailed
from export.meaning import Arrays
from export.runtime import Session
from export.sb3 import of_sb3, read_normaliser, read_sb3
from export.sb3.table import SB3_POLICIES
from export.spec.artefact import Artefact
from export.trained import About
from export.write import build
from tests.export.sb3.discrete import balanced
from tests.export.sb3.models import IMAGE, VECTOR, inputs_of, made, read, seen_by
from tests.export.sb3.zips import dqn_zip, shared, with_texts

ABOUT = About(name="test", version="1")


def answered(artefact: Artefact, inputs: Arrays) -> Arrays:
    """Give what the artefact's graph answers."""
    return Session(artefact.data).run(inputs)


@pytest.mark.parametrize("name", ["dqn_CartPole-v1", "dqn_LunarLander-v2", "ppo_LunarLander-v2", "ppo_MountainCar-v0"])
def test_zoo_agents_answer_all_golden_observations_as_the_native_library(name: str) -> None:
    """A zip of another time and version gives exactly the native actions on 1000 observations."""
    recorded = np.load(shared("golden", f"{name}.npz"))
    zipped = shared("sb3", f"{name}.zip").read_bytes()
    with_statistics = name == "ppo_MountainCar-v0"
    statistics = shared("sb3", f"{name}.vecnormalize.pkl").read_bytes() if with_statistics else None
    observations = {"obs": recorded["obs"].astype(np.float32)}

    policy = of_sb3(read_sb3(zipped), read_normaliser(statistics) if statistics is not None else None)
    artefact = build(policy, ABOUT)

    assert len(recorded["obs"]) == 1000
    assert np.array_equal(answered(artefact, observations)["action"], recorded["action"])
    assert policy.native is not None
    assert np.array_equal(policy.native(observations)["action"], recorded["action"])
    assert artefact.manifest.parity.observations >= 1000
    assert artefact.manifest.parity.reference.startswith("stable-baselines3 ")
    assert artefact.manifest.source.algorithm == name[:3].upper()
    assert policy.set_aside


def test_the_statistics_left_out_are_another_policy() -> None:
    """The same zip without its vecnormalize.pkl answers many golden observations otherwise: nothing hides that."""
    recorded = np.load(shared("golden", "ppo_MountainCar-v0.npz"))
    data = shared("sb3", "ppo_MountainCar-v0.zip").read_bytes()

    actions = of_sb3(read_sb3(data)).answer({"obs": recorded["obs"].astype(np.float32)})["action"]

    assert (actions != recorded["action"]).mean() > 0.1


@pytest.mark.parametrize(
    ("algorithm", "action", "observation", "policy", "kwargs"),
    [
        ("DQN", spaces.Discrete(3), VECTOR, "MlpPolicy", {"net_arch": [8]}),
        ("QRDQN", spaces.Discrete(3), spaces.MultiDiscrete([3, 4]), "MlpPolicy", {"n_quantiles": 5, "net_arch": [8]}),
        ("PPO", spaces.MultiDiscrete([3, 2]), spaces.Discrete(6), "MlpPolicy", {"net_arch": [8]}),
        ("A2C", spaces.MultiBinary(3), VECTOR, "MlpPolicy", {"net_arch": [8]}),
        ("MaskablePPO", spaces.Discrete(4), VECTOR, "MlpPolicy", {"net_arch": [8]}),
        (
            "PPO",
            spaces.Discrete(3),
            spaces.Dict({"camera": IMAGE, "speed": VECTOR}),
            "MultiInputPolicy",
            {"features_extractor_kwargs": {"cnn_output_dim": 4}, "net_arch": [4]},
        ),
    ],
)
def test_every_family_becomes_a_graph_that_acts_as_the_library(
    algorithm: str,
    action: spaces.Space[Any],
    observation: spaces.Space[Any],
    policy: str,
    kwargs: dict[str, Any],
) -> None:
    """The file's own answers are those of ``predict``, and its proof names the real library."""
    model = made(algorithm, action, observation, policy, **kwargs)
    # To convolutions all noise looks alike: balancing them would leave nothing but the rounding of large numbers.
    seen = seen_by(model, 200) if policy == "MultiInputPolicy" else balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)
    inputs |= {port.name: np.ones((200, *port.shape), dtype=np.bool_) for port in found.inputs if port.dtype == "bool"}

    artefact = build(found, ABOUT)

    expected, _ = model.predict(seen, deterministic=True)
    assert np.array_equal(answered(artefact, inputs)["action"], expected)
    assert artefact.manifest.parity.action_agreement == 1.0
    assert artefact.manifest.parity.reference.startswith(("stable-baselines3 2", "sb3-contrib 2"))


def test_a_module_that_differs_from_the_library_fails_the_proof() -> None:
    """The proof is with the real library's ``predict``: statistics that our module left out are found."""
    data = shared("sb3", "ppo_MountainCar-v0.zip").read_bytes()
    statistics = read_normaliser(shared("sb3", "ppo_MountainCar-v0.vecnormalize.pkl").read_bytes())
    whole, without = of_sb3(read_sb3(data), statistics), of_sb3(read_sb3(data))

    with pytest.raises(ParityFailed):
        build(replace(whole, module=without.module), ABOUT)


@pytest.mark.parametrize(
    ("module", "name", "nearest"),
    [
        ("stable_baselines3.dqn.policies", "CnnDQNPolicy", "stable_baselines3.dqn.policies.DQNPolicy"),
        ("__main__", "MySACPolicy", "stable_baselines3.sac.policies.SACPolicy"),
        ("mine.policies", "MaskableActorCritic", "sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy"),
    ],
)
def test_the_nearest_families_are_named_where_another_is_refused(module: str, name: str, nearest: str) -> None:
    """The refusal of an unknown class says the three that come nearest, and not two dozen names."""
    strange = {"__module__": module, "__init__": f"<function {name}.__init__ at 0x7f>"}

    with pytest.raises(CheckpointRefused) as caught:
        of_sb3(read_sb3(with_texts(dqn_zip(), policy_class=strange)))

    named = [".".join(key) for key in SB3_POLICIES if f" {'.'.join(key)}" in str(caught.value).replace(",", " ")]
    assert str(caught.value).startswith(f"the policy class is {module}.{name}, expected one of {nearest}, ")
    assert len(named) == 3


def test_spaces_beyond_the_manifest_are_refused_by_a_sentence() -> None:
    """More fields than a manifest holds are no traceback."""
    parts = ", ".join(f"'k{at}': Discrete(2)" for at in range(65))
    text = {":type:": "<class 'gym.spaces.Dict'>", "spaces": f"{{{parts}}}"}

    with pytest.raises(CheckpointRefused, match="64"):
        of_sb3(read_sb3(with_texts(dqn_zip(), observation_space=text)))
