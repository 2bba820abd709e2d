"""What was around a policy goes into its artefact or refuses the export: RL Zoo's folders, through the command."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from export.__main__ import main
from export.errors import CheckpointRefused, OptionInvalid
from export.sb3 import Told, wrapped
from export.spec.artefact import open_artefact
from tests.export.rllib.folders import Made, dumped
from tests.export.sb3.zips import BOX, actor_zip, with_tensors, with_texts

RMS = "stable_baselines3.common.running_mean_std.RunningMeanStd"
VEC = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
ZOO = "!!python/object/apply:collections.OrderedDict\n- - - n_timesteps\n    - 1000.0\n  - - policy\n    - MlpPolicy\n"


def statistics(size: int = 5, mean: float = 3.0, *, norm_obs: bool = True) -> bytes:
    """Give statistics as VecNormalize saves them."""
    rms = Made(RMS, {"mean": np.full(size, mean), "var": np.full(size, 4.0), "count": 3.0})
    return dumped(Made(VEC, {"obs_rms": rms, "clip_obs": 10.0, "epsilon": 1e-8, "norm_obs": norm_obs}))


class Still(gymnasium.Env[Any, np.ndarray]):
    """An environment in which nothing happens."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = space, spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def laid(folder: Path, **files: bytes) -> None:
    """Write files by their path."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _widened(tensors: dict[str, torch.Tensor]) -> None:
    for network in ("policy_net", "value_net"):
        name = f"mlp_extractor.{network}.0.weight"
        tensors[name] = torch.cat([tensors[name]] * 2, dim=1)


def exported(folder: Path, zip_: str, *words: str) -> tuple[int, tuple[str, ...]]:
    """Export a zip; gives the exit code and what is inside the graph."""
    path = folder / "out" / "walker-1.onnx"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    # The zips' weights are any: rounding is not what is asked about here.
    code = main(["-o", str(path), "--tolerance", "1e-3", str(folder / zip_), *words])
    return code, open_artefact(path.read_bytes()).manifest.inside if path.exists() else ()


@pytest.mark.parametrize(
    ("zip_", "beside"),
    [
        ("X_1/X.zip", "X_1/X/vecnormalize.pkl"),
        ("X.zip", "vec_normalize.pkl"),
        ("X.zip", "X_vecnormalize.pkl"),
        ("X.ZIP", "VecNormalize.pkl"),
        ("r/rl_model_10_steps.zip", "r/rl_model_vecnormalize_10_steps.pkl"),
        ("logs/best_model/best_model.zip", "logs/vecnormalize.pkl"),
    ],
)
def test_statistics_that_were_missed_are_in_the_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], zip_: str, beside: str
) -> None:
    """Wherever people keep them: they are used, and the export says so in a line."""
    laid(tmp_path, **{zip_: actor_zip(), beside: statistics()})

    code, inside = exported(tmp_path, zip_)

    assert code == 0
    assert any("VecNormalize" in text for text in inside)
    assert f"normalisation: {tmp_path / beside}" in capsys.readouterr().out.splitlines()


def test_what_could_be_meant_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways out that the refusal names work, and say what they did."""
    laid(tmp_path, **{"X.zip": actor_zip(), "best_model.zip": actor_zip(), "X/vecnormalize.pkl": statistics()})
    beside = tmp_path / "X" / "vecnormalize.pkl"

    code, _ = exported(tmp_path, "best_model.zip")
    told = capsys.readouterr().err
    given = exported(tmp_path, "best_model.zip", "--normalisation", str(beside))
    without = exported(tmp_path, "best_model.zip", "--ignore-normalisation")

    assert code == 2
    assert f"say --normalisation {beside} if they are, or --ignore-normalisation" in told
    assert given[0] == without[0] == 0
    assert any("VecNormalize" in text for text in given[1])
    assert not any("VecNormalize" in text for text in without[1])
    lines = capsys.readouterr().out.splitlines()
    assert f"normalisation: {beside}" in lines
    assert f"normalisation: none; left out: {beside}" in lines


def test_leaving_out_what_is_not_there_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script may always say --ignore-normalisation; both options together contradict each other."""
    laid(tmp_path, **{"X.zip": actor_zip()})

    code, _ = exported(tmp_path, "X.zip", "--ignore-normalisation")
    both, _ = exported(tmp_path, "X.zip", "--ignore-normalisation", "--normalisation", "vecnormalize.pkl")

    captured = capsys.readouterr()
    assert (code, both) == (0, 2)
    assert "normalisation" not in captured.out
    assert "contradict each other" in captured.err


def test_each_member_of_an_ensemble_has_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every zip is looked around by itself, and a line says for which one each file is."""
    laid(tmp_path, **{"1/X.zip": actor_zip(), "1/X/vecnormalize.pkl": statistics()})
    laid(tmp_path, **{"2/X.zip": actor_zip(), "2/vec_normalize.pkl": statistics(mean=1.0)})

    code, _ = exported(tmp_path, "1/X.zip", str(tmp_path / "2" / "X.zip"))

    assert code == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "normalisation: " in line] == [
        f"{tmp_path}/1/X.zip: normalisation: {tmp_path}/1/X/vecnormalize.pkl",
        f"{tmp_path}/2/X.zip: normalisation: {tmp_path}/2/vec_normalize.pkl",
    ]


def test_statistics_of_one_frame_go_with_the_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found statistics are used with --frame-stack as given ones are: of each frame, or of the whole stack."""
    data = with_texts(with_tensors(actor_zip(), _widened), observation_space=BOX | {"_shape": "[10]"})
    laid(tmp_path, **{"1/X.zip": data, "1/X/vecnormalize.pkl": statistics(5)})
    laid(tmp_path, **{"2/X.zip": data, "2/vecnormalize.pkl": statistics(10)})

    single, whole = (exported(tmp_path, f"{at}/X.zip", "--frame-stack", "2") for at in (1, 2))

    assert single[0] == whole[0] == 0
    assert any("VecNormalize" in text for text in whole[1])
    assert capsys.readouterr().out.count("normalisation: ") == 2


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO", "RecurrentPPO", "SAC"])
@pytest.mark.parametrize("normalised", [True, False])
def test_a_zip_that_shows_its_normalisation_is_not_exported_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str, normalised: bool
) -> None:
    """Alone, without the file of statistics, as a download is; off-policy zips keep the same texts either way."""
    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    env = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")])
    policy = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
    options = {} if algorithm == "SAC" else {"n_steps": 8} | ({} if algorithm == "A2C" else {"batch_size": 8})
    model = kind(policy, VecNormalize(env) if normalised else env, device="cpu", **options)
    model.learn(8)
    model.save(tmp_path / "X.zip")

    if normalised and algorithm != "SAC":
        code, _ = exported(tmp_path, "X.zip")
        assert code == 2
        assert "X.zip shows that it was trained behind VecNormalize, but no statistics" in capsys.readouterr().err
    else:
        assert wrapped(tmp_path / "X.zip", Told()).statistics is None
    assert wrapped(tmp_path / "X.zip", Told(ignore_normalisation=True)).statistics is None


@pytest.mark.parametrize("observation", ["vector", "dict"])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "TQC"])
@pytest.mark.parametrize("norm_obs", [True, False, None])
def test_off_policy_zips_show_it_where_observations_were_of_another_type(
    tmp_path: Path, algorithm: str, observation: str, norm_obs: bool | None
) -> None:
    """Of MuJoCo's float64 VecNormalize makes float32; where it normalised rewards alone, it leaves them."""
    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    space = box if observation == "vector" else spaces.Dict({"body": box, "goal": spaces.Box(-1, 1, (2,), np.float32)})
    env = DummyVecEnv([lambda: Still(space)])
    policy = "MlpPolicy" if observation == "vector" else "MultiInputPolicy"
    options: dict[str, Any] = {"buffer_size": 8, "learning_starts": 8, "policy_kwargs": {"net_arch": [4]}}
    model = kind(policy, env if norm_obs is None else VecNormalize(env, norm_obs=norm_obs), device="cpu", **options)
    model.learn(4)
    model.save(tmp_path / "X.zip")

    if norm_obs:
        with pytest.raises(OptionInvalid, match=r"X\.zip shows that it was trained behind VecNormalize"):
            wrapped(tmp_path / "X.zip", Told())
    else:
        assert wrapped(tmp_path / "X.zip", Told()).statistics is None


@pytest.mark.parametrize(
    ("seen", "settings", "refused"),
    [
        ({":type:": "<class 'numpy.ndarray'>"}, None, True),
        ({":type:": "<class 'dict'>", "camera": "[[1. 2.]]"}, None, True),
        ({":type:": "<class 'numpy.ndarray'>"}, "normalize\n    - dict(norm_obs=False)", False),
        (None, None, False),
    ],
)
def test_settings_may_say_that_rewards_alone_were_normalised(
    tmp_path: Path, seen: object, settings: str | None, refused: bool
) -> None:
    """Then the zip's own sign of VecNormalize says nothing of observations; a missing sign never does."""
    laid(tmp_path, **{"X.zip": with_texts(actor_zip(), _last_original_obs=seen)})
    if settings is not None:
        laid(tmp_path, **{"config.yml": f"{ZOO}  - - {settings}\n".encode()})

    if refused:
        with pytest.raises(OptionInvalid, match=r"X\.zip shows .*--normalisation FILE .*--ignore-normalisation"):
            wrapped(tmp_path / "X.zip", Told())
    else:
        assert wrapped(tmp_path / "X.zip", Told()).statistics is None
    laid(tmp_path, **{"X/vecnormalize.pkl": statistics()})
    if settings is None:
        assert wrapped(tmp_path / "X.zip", Told()).statistics == statistics()


@pytest.mark.parametrize(
    ("beside", "content", "message"),
    [
        ("X/vecnormalize.pkl", b"", "X/vecnormalize.pkl cannot be read as a pickle"),
        ("vec_normalize.pkl", statistics()[:-40], "vec_normalize.pkl cannot be read as a pickle"),
        ("X_vecnormalize.pkl", dumped({"mean": 1}), "X_vecnormalize.pkl holds a dict, expected a VecNormalize"),
        (
            "vecnormalize.pkl",
            statistics(4),
            r"vecnormalize.pkl: the statistics of obs have the shape [4], expected [5]",
        ),
        ("vecnormalize.pkl", statistics(mean=float("nan")), "vecnormalize.pkl: obs_rms holds NaN"),
    ],
)
def test_statistics_that_cannot_be_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: str, content: bytes, message: str
) -> None:
    """Damaged ones, other pickles, and those of another observation are refused by the name of the file."""
    laid(tmp_path, **{"X.zip": actor_zip(), beside: content})

    code, _ = exported(tmp_path, "X.zip")

    assert code == 1
    assert message in capsys.readouterr().err


def test_statistics_of_rewards_alone_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With norm_obs off the file is used, leaves observations as they are, and no setting contradicts that."""
    laid(tmp_path, **{"X.zip": actor_zip(), "X/vecnormalize.pkl": statistics(norm_obs=False)})
    laid(tmp_path, **{"X/config.yml": f"{ZOO}  - - normalize\n    - dict(norm_obs=False)\n".encode()})

    code, inside = exported(tmp_path, "X.zip")

    assert code == 0
    assert not any("VecNormalize" in text for text in inside)
    assert "vecnormalize.pkl, which leaves observations as they are" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("config.yml", "normalize\n    - true", "says normalize = True, but no statistics"),
        ("X/config.yml", "normalize\n    - \"{'norm_obs': True}\"", "X/config.yml says normalize"),
        ("X.config.yml", "frame_stack\n    - 4", "X.config.yml says frame_stack = 4, but --frame-stack is not given"),
        ("X/args.yml", "hyperparams\n    - {frame_stack: 2}", "X/args.yml says frame_stack = 2"),
        ("X.args.yml", "env_wrapper\n    - a.MyWrapper", "env_wrapper = a.MyWrapper"),
        ("config.yml", "env_wrapper\n    - sb3_contrib.common.wrappers.TimeFeatureWrapper", "--time-feature STEPS"),
        ("x_config.yml", "normalize\n    - true", "x_config.yml says normalize"),
        ("../config.yml", "normalize\n    - true", "config.yml says normalize"),
        ("other/config.yml", "normalize\n    - true", "other/config.yml says normalize"),
    ],
)
def test_settings_that_contradict_the_export_refuse_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, setting: str, message: str
) -> None:
    """Wherever RL Zoo's files lie; --ignore-config says that callers do what they say."""
    laid(tmp_path, **{"run/X.zip": actor_zip(), f"run/{name}": f"{ZOO}  - - {setting}\n".encode()})

    code, _ = exported(tmp_path, "run/X.zip")
    told = capsys.readouterr().err

    assert code == 2
    assert message in told
    assert len(told.splitlines()) == 1
    assert wrapped(tmp_path / "run" / "X.zip", Told(ignore_config=True)).statistics is None


def test_settings_of_other_zips_are_theirs(tmp_path: Path) -> None:
    """A file named after another zip, in its folder, or generic beside one's own, says nothing of this one."""
    told = f"{ZOO}  - - frame_stack\n    - 4\n".encode()
    laid(tmp_path, **{"a.zip": b"", "b.zip": b"", "b.config.yml": told, "b/args.yml": told})
    laid(tmp_path, **{"runs/c.zip": b"", "runs/c/config.yml": ZOO.encode(), "runs/config.yml": told})
    laid(tmp_path, **{"config.yaml": told, "old/d.zip": b"", "old/config.yml": told})

    for name in ("a.zip", "runs/c.zip"):
        assert wrapped(tmp_path / name, Told()).lines == ()
    for name in ("b.zip", "old/d.zip"):
        with pytest.raises(OptionInvalid, match="frame_stack = 4"):
            wrapped(tmp_path / name, Told())
    (tmp_path / "best_model.zip").write_bytes(b"")
    (tmp_path / "b" / "config.yml").write_bytes(told)
    with pytest.raises(OptionInvalid, match=r"b/config\.yml says frame_stack = 4"):
        wrapped(tmp_path / "best_model.zip", Told())


def test_statistics_that_the_settings_deny_are_refused(tmp_path: Path) -> None:
    """RL Zoo's file says that nothing was normalised: the statistics beside the zip are somebody else's."""
    laid(tmp_path, **{"a.zip": b"", "a.config.yml": ZOO.encode(), "vecnormalize.pkl": statistics()})

    with pytest.raises(OptionInvalid, match=r"a\.config\.yml says nothing of normalize"):
        wrapped(tmp_path / "a.zip", Told())
    given = wrapped(tmp_path / "a.zip", Told(normalisation=tmp_path / "vecnormalize.pkl"))
    assert given.statistics == statistics()
    assert wrapped(tmp_path / "a.zip", Told(ignore_normalisation=True)).statistics is None


def test_damaged_settings_are_said(tmp_path: Path) -> None:
    """With the way to leave them unread; where RL Zoo writes none they are left unread anyway."""
    laid(tmp_path, **{"run/a.zip": b"", "run/config.yml": b"a: [", "config.yml": b"b: ["})

    with pytest.raises(CheckpointRefused, match=r"run/config\.yml cannot be read: .*; --ignore-config leaves it"):
        wrapped(tmp_path / "run" / "a.zip", Told())
    (tmp_path / "run" / "config.yml").write_bytes(b"#" * 300_000)
    with pytest.raises(CheckpointRefused, match=r"has more than 262144 bytes.*--ignore-config"):
        wrapped(tmp_path / "run" / "a.zip", Told())
    (tmp_path / "run" / "config.yml").unlink()
    assert wrapped(tmp_path / "run" / "a.zip", Told()).lines == ()
