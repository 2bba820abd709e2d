"""Behaviour of reading VecNormalize statistics: the library's own numbers, without making any of its objects."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from export.errors import CheckpointRefused
from export.sb3.normaliser import read_normaliser
from tests.export.rllib.folders import Made, dumped
from tests.export.sb3.zips import shared

RMS = "stable_baselines3.common.running_mean_std.RunningMeanStd"
VEC = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"


class Room(gymnasium.Env):
    """An environment with an observation of two parts and a choice."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-1, 1, (3,)),
            "map": gymnasium.spaces.Box(-1, 1, (2, 2)),
            "door": gymnasium.spaces.Discrete(3),
        }
    )
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **_: object) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        return self.observation_space.sample(), {}

    def step(self, _: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, object]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def normalised(keys: list[str]) -> VecNormalize:
    """Give real statistics of some steps."""
    found = VecNormalize(DummyVecEnv([Room]), norm_obs_keys=keys, clip_obs=5.0)
    found.seed(3)
    found.reset()
    for _ in range(10):
        found.step(np.zeros(1, np.int64))
    return found


def state(**changes: object) -> bytes:
    """Give statistics made by hand, with changes to the state of VecNormalize."""
    rms = Made(RMS, {"mean": np.zeros(2), "var": np.ones(2), "count": 3.0})
    return dumped(Made(VEC, {"obs_rms": rms, "clip_obs": 10.0, "epsilon": 1e-8, "norm_obs": True} | changes))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_statistics_by_key_are_the_librarys_own(protocol: int) -> None:
    """The numbers of every key come out bit for bit, whatever protocol they were pickled with."""
    real = normalised(["place", "map"])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_normaliser(pickle.dumps(real, protocol))

    assert found.norm_obs_keys == ("place", "map")
    assert (found.clip, found.epsilon, found.norm_obs) == (5.0, real.epsilon, True)
    for key in found.norm_obs_keys:
        np.testing.assert_array_equal(found.stats[key].mean, real.obs_rms[key].mean)
        np.testing.assert_array_equal(found.stats[key].var, real.obs_rms[key].var)


def test_statistics_of_2021_are_read_without_their_libraries() -> None:
    """A file of SB3 1.0 that names gym and old NumPy gives its two numbers."""
    found = read_normaliser(shared("sb3", "ppo_MountainCar-v0.vecnormalize.pkl").read_bytes())

    np.testing.assert_allclose(found.stats[""].mean, [-0.46296214, 0.00807357], rtol=1e-6)
    assert found.norm_obs_keys == ()


def test_statistics_that_are_not_used_are_none() -> None:
    """With ``norm_obs`` off observations go through unchanged, so that there is nothing to read."""
    assert read_normaliser(state(norm_obs=False, obs_rms=None)).stats == {}


def test_old_statistics_by_key_are_of_all_keys() -> None:
    """Before SB3 1.2 there were no ``norm_obs_keys``: all keys were normalised."""
    rms = Made(RMS, {"mean": np.zeros(2), "var": np.ones(2)})

    assert read_normaliser(state(obs_rms={"a": rms, "b": rms})).norm_obs_keys == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"clip_obs": 0.0}, "clip_obs is 0.0"),
        ({"epsilon": np.float64(-1)}, "epsilon is -1.0"),
        ({"clip_obs": 10**400}, "no float can hold"),
        ({"clip_obs": "10"}, "clip_obs is a str"),
        ({"clip_obs": np.ones(2)}, r"shape \[2\], expected a number"),
        ({"obs_rms": None}, "obs_rms is a NoneType"),
        ({"obs_rms": {1: None}}, "a int as a key"),
        ({"obs_rms": {"a": [1]}}, "a list, expected a RunningMeanStd"),
        ({"obs_rms": Made(RMS, {"mean": np.zeros(2)})}, "have no var"),
        ({"obs_rms": Made(RMS, {"mean": [0.0], "var": [1.0]})}, "mean is a list"),
        ({"obs_rms": {"a": Made(RMS, {"mean": np.zeros(1), "var": np.ones(1)})}, "norm_obs_keys": ["b"]}, "'b'"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(changes: dict[str, object], expected: str) -> None:
    """Every number is checked before it is used."""
    with pytest.raises(CheckpointRefused, match=expected):
        read_normaliser(state(**changes))
