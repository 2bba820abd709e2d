"""The real library as the reference: made from texts, by listed names, with all of the zip's tensors or not at all."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from export.meaning import Answers
from export.sb3 import of_sb3, read_sb3
from export.sb3.native import native_of
from export.sb3.normaliser import Normaliser, Running
from export.sb3.spaces import actions_of, observations_of
from tests.export.sb3.models import IMAGE, PARTS, SQUARE, UNEVEN, VECTOR, Env, inputs_of, made, read, seen_by, zipped
from tests.export.sb3.zips import dqn_zip, with_tensors, with_texts


def native(data: bytes, normaliser: Normaliser | None = None, *, recurrent: bool = False) -> tuple[Answers, str]:
    """Make the reference of a zip."""
    found = read_sb3(data)
    made_of = native_of(found, observations_of(found), actions_of(found), normaliser, recurrent=recurrent)
    assert made_of is not None
    return made_of


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        ("PPO", {}),
        ("PPO", {"use_sde": True, "squash_output": True}),
        ("SAC", {"net_arch": [8, 8]}),
        ("SAC", {"net_arch": [8, 8], "use_sde": True}),
        ("TQC", {"net_arch": [8, 8]}),
        ("TD3", {"net_arch": [8, 8]}),
        ("DDPG", {"net_arch": {"pi": [8], "qf": [4]}}),
        ("ARS", {"net_arch": [8]}),
    ],
)
def test_continuous_actions_are_those_of_the_saved_model(algorithm: str, kwargs: dict[str, Any]) -> None:
    """Clips and un-scaling are ``predict``'s own, to the last bit."""
    model = made(algorithm, UNEVEN, VECTOR, **kwargs)
    seen = inputs_of(read(model), seen_by(model))
    answers, name = native(zipped(model))

    expected, _ = model.predict(seen["obs"], deterministic=True)

    assert np.array_equal(answers(seen)["action"], expected)
    assert name.split()[0] == ("sb3-contrib" if algorithm in {"TQC", "ARS"} else "stable-baselines3")


def test_an_action_has_the_shape_of_its_space() -> None:
    """A Box of two rows and two columns is answered as one."""
    model = made("A2C", SQUARE, VECTOR)

    action = native(zipped(model))[0](inputs_of(read(model), seen_by(model, 7)))["action"]

    assert action.shape == (7, 2, 2)
    assert action.dtype == np.float32


def test_memory_goes_in_and_comes_out_with_the_batch_first() -> None:
    """A recurrent policy is given its state, ``[N, layers, hidden]``, and gives the next one."""
    model = made("RecurrentPPO", spaces.Discrete(3), VECTOR, "MlpLstmPolicy", lstm_hidden_size=6, n_lstm_layers=2)
    seen = inputs_of(read(model), seen_by(model, 9))
    generator = np.random.default_rng(2)
    hidden, cell = (generator.normal(size=(9, 2, 6)).astype(np.float32) for _ in range(2))

    answer = native(zipped(model), recurrent=True)[0]({**seen, "memory.h.in": hidden, "memory.c.in": cell})

    state = (hidden.transpose(1, 0, 2), cell.transpose(1, 0, 2))
    expected, after = model.predict(seen["obs"], state=state, episode_start=np.zeros(9, dtype=bool), deterministic=True)
    assert after is not None
    assert np.array_equal(answer["action"], expected)
    assert np.array_equal(answer["memory.h.out"], after[0].transpose(1, 0, 2))
    assert np.array_equal(answer["memory.c.out"], after[1].transpose(1, 0, 2))


def test_normalisation_is_that_of_the_real_wrapper() -> None:
    """The arithmetic is VecNormalize's, worked out apart from our own module's."""
    model = made("A2C", UNEVEN, VECTOR)
    seen = inputs_of(read(model), seen_by(model))
    mean, var = np.linspace(-1, 1, 5), np.linspace(0.1, 2, 5)
    wrapped = VecNormalize(DummyVecEnv([lambda: Env(VECTOR, UNEVEN)]), clip_obs=0.7)
    assert not isinstance(wrapped.obs_rms, dict)
    wrapped.obs_rms.mean, wrapped.obs_rms.var = mean, var
    normaliser = Normaliser({"": Running(mean, var)}, clip=0.7, epsilon=1e-8, norm_obs=True)

    action = native(zipped(model), normaliser)[0](seen)["action"]

    assert np.array_equal(action, model.predict(wrapped.normalize_obs(seen["obs"]), deterministic=True)[0])


@pytest.mark.parametrize(("observation", "policy"), [(IMAGE, "CnnPolicy"), (PARTS, "MultiInputPolicy")])
def test_observations_of_every_form_reach_the_library(observation: spaces.Space[Any], policy: str) -> None:
    """Images and Dicts are given as the library takes them."""
    model = made("A2C", UNEVEN, observation, policy, net_arch=[4])
    seen = seen_by(model, 20)
    inputs = inputs_of(read(model), seen)

    action = native(zipped(model))[0](inputs)["action"]

    assert np.array_equal(action, model.predict(seen, deterministic=True)[0])


def test_a_class_that_is_not_listed_is_never_made() -> None:
    """No zip can name a class of its own, nor any other of the library's."""
    for module, name in (("os", "system"), ("stable_baselines3.common.policies", "BasePolicy"), ("mine", "DQNPolicy")):
        policy_class = {"__module__": module, "__init__": f"<function {name}.__init__ at 0x7f>"}
        found = read_sb3(with_texts(dqn_zip(), policy_class=policy_class))

        assert native_of(found, observations_of(found), actions_of(found), None) is None


def test_tensors_that_do_not_fit_give_no_reference() -> None:
    """A reference with half of the zip's tensors would prove nothing."""
    found = read_sb3(with_tensors(dqn_zip(), lambda tensors: tensors.pop("q_net.q_net.2.bias")))

    assert native_of(found, observations_of(found), actions_of(found), None) is None


def test_making_a_reference_draws_no_random_numbers() -> None:
    """The library draws weights when it makes a policy: the generator of whoever calls is left as it was."""
    before = torch.random.get_rng_state()

    of_sb3(read_sb3(dqn_zip()))

    assert torch.equal(torch.random.get_rng_state(), before)
