"""Checkpoints that hold more than the network: all of it is named, and no normaliser vanishes."""

import io
import pickle
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from export.declaration import parsed
from export.declared import cleanrl, state_dict
from export.declared.likeness import statistics_among, words
from export.errors import CheckpointRefused, DeclarationInvalid, TensorsUnaccounted
from export.graph import graph_of
from export.runtime import Session
from export.sources import Asked, read
from export.tensorfile import tensor_file
from export.trained import TrainedPolicy

torch.set_num_threads(1)

Table = dict[str, object]
MEAN, VAR = np.array([1.0, -50.0, 300.0]), np.array([4.0, 1e-4, 900.0])
OBS = (MEAN + np.random.default_rng(1).normal(size=(60, 3)) * np.sqrt(VAR) * 3).astype(np.float32)
NET = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 2))
CRITIC = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 1))


def empirical(size: int = 3) -> dict[str, torch.Tensor]:
    """The buffers of rsl_rl's EmpiricalNormalization."""
    var = torch.from_numpy(np.resize(VAR, size)).float()[None]
    mean = torch.from_numpy(np.resize(MEAN, size)).float()[None]
    return {"_mean": mean, "_var": var, "_std": var.sqrt(), "count": torch.tensor(7)}


def scaler(mean: NDArray[np.float64] = MEAN, var: NDArray[np.float64] = VAR) -> dict[str, torch.Tensor]:
    """The buffers of skrl's RunningStandardScaler."""
    mean_, var_ = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
    return {"running_mean": mean_, "running_variance": var_, "current_count": torch.tensor(9.0, dtype=torch.float64)}


def stepped() -> dict[str, object]:
    """The state of an optimizer with moments in it."""
    optimizer = torch.optim.Adam(NET.parameters())
    NET(torch.from_numpy(OBS)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def rsl_rl() -> dict[str, object]:
    """A checkpoint laid out as rsl_rl's OnPolicyRunner saves it."""
    return {
        "model_state_dict": {
            **{f"actor.{name}": tensor for name, tensor in NET.state_dict().items()},
            **{f"critic.{name}": tensor for name, tensor in CRITIC.state_dict().items()},
        },
        "optimizer_state_dict": stepped(),
        "iter": 1500,
        "infos": None,
        "obs_norm_state_dict": empirical(),
        "critic_obs_norm_state_dict": empirical(5),
    }


def saved(value: object) -> bytes:
    """What ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def table(normalise: object = None, **network: object) -> Table:
    """A declaration of the network, with what normalises."""
    found: Table = {"observation": {"shape": [3]}, "action": {"n": 2}}
    found["network"] = {"hidden": [8], "activation": "elu", **network}
    return found if normalise is None else found | {"normalise": normalise}


def of(value: object, said: Table) -> TrainedPolicy:
    """Read a checkpoint by its declaration."""
    return state_dict(saved(value), "model.pt", parsed(said, "net.toml"))


def answers(policy: TrainedPolicy) -> NDArray[np.float64]:
    """What the graph answers."""
    return Session(graph_of(policy).SerializeToString()).run({"obs": OBS})["q_values"].astype(np.float64)


def expected(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the network answers to normalised rows, worked out in NumPy."""
    one, two = NET[0], NET[2]
    assert isinstance(one, nn.Linear)
    assert isinstance(two, nn.Linear)
    hidden = rows @ one.weight.detach().numpy().T.astype(np.float64) + one.bias.detach().numpy()
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return np.asarray(hidden @ two.weight.detach().numpy().T.astype(np.float64) + two.bias.detach().numpy())


def refused(value: object, said: Table, name: str = "model.pt") -> str:
    """The message that refuses a checkpoint."""
    with pytest.raises(CheckpointRefused) as caught:
        state_dict(saved(value), name, parsed(said, "net.toml"))
    return str(caught.value)


class RunningMeanStd:
    """Statistics as Tianshou and CleanRL's environments keep them: an object."""

    def __init__(self) -> None:
        self.mean, self.var, self.count = MEAN, VAR, 7.0


RSL = table(key="model_state_dict", ignore=["critic."], layers=["actor.0", "actor.2"])


def test_rsl_rls_statistics_beside_key_are_refused_until_used() -> None:
    """The message has the line of the declaration; with it the graph divides by std + 0.01, and all is named."""
    said = refused(rsl_rl(), RSL)
    line = 'normalise = { key = "obs_norm_state_dict", mean = "_mean", std = "_std", epsilon = 0.01 }'
    normalise = {"key": "obs_norm_state_dict", "mean": "_mean", "std": "_std", "epsilon": 0.01}
    network = RSL["network"]
    assert isinstance(network, dict)
    used = RSL | {"network": network | {"ignore_beside": ["critic_obs_norm_state_dict"]}, "normalise": normalise}

    policy = of(rsl_rl(), used)

    assert line in said
    assert 'ignore_beside = ["obs_norm_state_dict", "critic_obs_norm_state_dict"] under [network]' in said
    std = np.sqrt(VAR.astype(np.float32)).astype(np.float64)
    rows = ((OBS - MEAN.astype(np.float32).astype(np.float64)) / (std + 0.01)).astype(np.float32)
    assert np.abs(answers(policy) - expected(rows.astype(np.float64))).max() < 1e-4
    assert policy.remarks[0] == (
        'beside key = "model_state_dict": optimizer_state_dict, iter, infos, obs_norm_state_dict (used by normalise), '
        "critic_obs_norm_state_dict (ignored)"
    )
    assert len(policy.remarks) == 1
    assert "critic_obs_norm_state_dict" in refused(rsl_rl(), RSL | {"normalise": normalise})


def skrl() -> dict[str, object]:
    """A checkpoint laid out as skrl's ``agent.save`` writes it: the state of each of its ``checkpoint_modules``."""
    policy = {"log_std_parameter": torch.zeros(2)}
    policy |= {f"net_container.{name}": tensor for name, tensor in NET.state_dict().items() if name.startswith("0")}
    policy |= {f"policy_layer.{name[2:]}": t for name, t in NET.state_dict().items() if name.startswith("2")}
    value = {f"net_container.{name}": tensor for name, tensor in CRITIC.state_dict().items()}
    return {
        "policy": policy,
        "value": value,
        "optimizer": stepped(),
        "state_preprocessor": scaler(),
        "value_preprocessor": scaler(np.array([30.0]), np.array([100.0])),
    }


SKRL: Table = {
    "observation": {"shape": [3]},
    "action": {"low": [-1, -1], "high": [1, 1]},
    "network": {
        "hidden": [8],
        "activation": "elu",
        "key": "policy",
        "head": "gaussian",
        "std": {"parameter": "log_std_parameter"},
        "ignore_beside": ["value_preprocessor"],
    },
}


def test_skrls_own_preprocessor_normalises_from_the_file() -> None:
    """(x - mean) / (sqrt(var) + 1e-8), clipped at 5, as skrl's RunningStandardScaler does, worked out by hand."""
    said = {"key": "state_preprocessor", "mean": "running_mean", "var": "running_variance"}
    said_fully: Table = said | {"epsilon": 1e-8, "epsilon_with": "std", "clip": 5}

    policy = of(skrl(), SKRL | {"normalise": said_fully})
    found = Session(graph_of(policy).SerializeToString()).run({"obs": OBS})

    rows = np.clip((OBS.astype(np.float64) - MEAN) / (np.sqrt(VAR) + 1e-8), -5, 5)
    assert (np.abs(rows) == 5).any()
    assert np.abs(found["mean"].astype(np.float64) - expected(rows)).max() < 1e-5
    assert np.array_equal(found["std"], np.ones((60, 2)))
    line = 'normalise = { key = "state_preprocessor", mean = "running_mean", var = "running_variance", epsilon = 1e-08'
    assert f'{line}, epsilon_with = "std", clip = 5 }}' in refused(skrl(), SKRL)
    assert policy.remarks == (
        'beside key = "policy": value, optimizer, state_preprocessor (used by normalise), value_preprocessor (ignored)',
    )
    (_, warning) = of(skrl(), SKRL | {"normalise": said}).remarks
    assert "skrl's normaliser, which by default divides by std + 1e-08 and clips at 5" in warning
    assert "the declaration divides by sqrt(var + 1e-08) and does not clip" in warning


@pytest.mark.parametrize(
    ("key", "beside", "line"),
    [
        ("weights", {"obs_mean": MEAN.tolist(), "obs_std": [2.0, 0.01, 30]}, 'key = "", mean = "obs_mean", std = "obs'),
        ("net", {"obs_rms": {"mean": torch.tensor(MEAN), "var": torch.tensor(VAR)}}, 'key = "obs_rms", mean = "mean"'),
        ("net", {"a": {"b": {"running_mean_std": scaler()}}}, 'key = "a.b.running_mean_std", mean = "running_mean"'),
        ("net", {"obs_mean": 0.5, "obs_std": torch.tensor(2.0)}, 'key = "", mean = "obs_mean", std = "obs_std"'),
        ("net", {"mu": [0.5, 1.5, 2.5], "sigma": [1.0, 2.0, 3.0]}, ""),
        ("net", {"normalize": {"a": torch.ones(3), "b": torch.ones(3)}}, ""),
        ("net", {"standardizer": {"m": [0.5, 1.5, 2.5], "s": torch.ones(3)}}, ""),
        ("net", {"running": {"n": 7, "M": torch.ones(3), "S": torch.ones(3)}}, ""),
        ("net", {"ob_stat": [[0.5, 1.5, 2.5], [1.0, 2.0, 3.0]]}, ""),
        ("net", {"whitening": {"w": torch.eye(3), "b": torch.ones(3)}, "welford": {"M2": torch.ones(3)}}, ""),
        ("net", {"norm": {"weight": torch.ones(3), "bias": torch.ones(3)}}, ""),
        ("net", {"agent": {"critic.weight": torch.ones(1, 3), "obs_rms.mean": torch.ones(3)}}, ""),
    ],
    ids=[
        "lists",
        "dict",
        "deep",
        "numbers",
        "mu and sigma",
        "normalize",
        "standardizer",
        "sums",
        "rows",
        "whitening",
        "layer norm",
        "in another network",
    ],
)
def test_whatever_looks_like_statistics_is_refused(key: str, beside: Mapping[str, object], line: str) -> None:
    """Tensors, dicts, lists of numbers and numbers; the message says how they are used and how they are ignored."""
    said = refused({key: NET.state_dict(), **beside}, table(key=key))

    assert f'beside key = "{key}", what looks like statistics' in said
    assert line in said
    assert "ignore_beside = [" in said
    advice = tomllib.loads(said[said.index("ignore_beside") :].partition(" under")[0])
    policy = of({key: NET.state_dict(), **beside}, table(key=key, **advice))
    assert "(ignored)" in policy.remarks[0]


@pytest.mark.parametrize(
    "beside",
    [
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(3), "norm": torch.ones(3)}}, "param_groups": [{"lr": 1}]}},
        {"adam": {"state": {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}}, "ema": NET.state_dict()},
        {"critic": CRITIC.state_dict(), "log_std": torch.zeros(2)},
        {"variant": [1.0, 2.0, 3.0], "normal": torch.ones(3), "stdout": [1.0], "counter": [1, 2]},
        {"args": {"norm_adv": True, "max_grad_norm": 0.5, "hidden": [64, 64], "std": "auto"}, "episode_count": 7},
        {"last_mean_rewards": 3.5, "reward_rms": {"mean": torch.ones(1), "var": torch.ones(1)}, "env_state": None},
        {"state_preprocessor": {}, "infos": {"norm": None}},
    ],
    ids=["optimizer", "adam", "critic", "other words", "settings", "rewards", "empty"],
)
def test_what_is_no_statistic_of_observations_is_named_only(beside: dict[str, object]) -> None:
    """Optimizers' moments, other networks, settings and what is known of rewards pass, and are named."""
    policy = of({"net": NET.state_dict(), **beside}, table(key="net"))

    assert policy.remarks == (f'beside key = "net": {", ".join(beside)}',)


def test_a_place_in_a_list_names_the_others() -> None:
    """CleanRL's critics pass and are named; statistics in the list are refused, and used by their place."""
    others = [CRITIC.state_dict(), CRITIC.state_dict()]
    statistics = {"mean": torch.from_numpy(MEAN), "var": torch.from_numpy(VAR), "count": torch.tensor(7)}
    declaration = parsed(table(key=0), "net.toml")

    policy = cleanrl(saved([NET.state_dict(), *others]), "x.cleanrl_model", declaration)
    with pytest.raises(CheckpointRefused, match=r'normalise = \{ key = 1, mean = "mean", var = "var" \}'):
        cleanrl(saved((NET.state_dict(), statistics)), "x.cleanrl_model", declaration)
    used = of((NET.state_dict(), statistics), table({"key": 1, "mean": "mean", "var": "var"}, key=0))

    assert policy.remarks == ("beside key = 0: 1, 2",)
    rows = (OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-8)
    assert np.abs(answers(used) - expected(rows.astype(np.float32))).max() < 1e-4


def test_lists_and_single_numbers_normalise_like_tensors() -> None:
    """By their dotted names from the file's beginning, a clip and an epsilon with them."""
    value = {"weights": NET.state_dict(), "cfg": {"obs": {"mean": MEAN.tolist(), "std": 2}}, "obs_var": [[1, 4, 9]]}
    normalise = {"key": "", "mean": "cfg.obs.mean", "std": "cfg.obs.std", "epsilon": 0.5, "clip": 3}

    policy = of(value, table(normalise, key="weights", ignore_beside=["obs_var"]))

    rows = np.clip((OBS.astype(np.float64) - MEAN) / 2.5, -3, 3)
    assert np.abs(answers(policy) - expected(rows)).max() < 1e-4


def test_lists_within_the_state_dict_normalise_too() -> None:
    """Where no key is needed, what normalises may be a list among the tensors; other lists are refused."""
    value = {**NET.state_dict(), "obs_mean": MEAN.tolist(), "obs_var": VAR.tolist()}
    normalise = {"mean": "obs_mean", "var": "obs_var"}

    policy = of(value, table(normalise))

    rows = ((OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-8)).astype(np.float32)
    assert np.abs(answers(policy) - expected(rows.astype(np.float64))).max() < 1e-4
    assert "'obs_mean' is a list, expected a tensor" in refused(value, table())


def test_var_and_std_may_both_be_named_and_have_to_agree() -> None:
    """Which of them epsilon goes with has to be said."""
    normalise = {"key": "s", "mean": "_mean", "var": "_var", "std": "_std", "epsilon": 0.01, "epsilon_with": "std"}
    value = {"net": NET.state_dict(), "s": empirical()}
    wrong = {"net": NET.state_dict(), "s": empirical() | {"_std": torch.ones(1, 3)}}

    both, one = (
        of(value, table(n, key="net")) for n in (normalise, {k: normalise[k] for k in normalise if k != "var"})
    )

    assert np.array_equal(answers(both), answers(one))
    with pytest.raises(DeclarationInvalid, match="std is not the square root of var"):
        of(wrong, table(normalise, key="net"))
    with pytest.raises(DeclarationInvalid, match="has both var and std, expected epsilon_with"):
        parsed(table({"mean": 0, "var": 1, "std": 1}), "net.toml")


def test_a_deviation_named_as_a_variance_is_warned_of() -> None:
    """Its name says otherwise; that cannot be proved."""
    policy = of(
        {"net": NET.state_dict(), "s": {"mean": MEAN.tolist(), "std": [1, 1, 1]}},
        table({"key": "s", "mean": "mean", "var": "std"}, key="net"),
    )

    assert policy.remarks[1] == "warning: normalise.var is std, which by its name is something else"


def test_entries_of_a_dict_observation_take_their_own_statistics() -> None:
    """Each entry names its own; one that is left out is refused, and the message says where the line goes."""
    entries: list[Table] = [{"key": "leg", "shape": [2]}, {"key": "arm", "shape": [1]}]
    said: Table = {"observation": {"entries": entries}, "action": {"n": 2}, "network": table(key="net")["network"]}
    rms = {
        "leg": {"mean": MEAN[:2].tolist(), "var": VAR[:2].tolist()},
        "arm": {"mean": MEAN[2:].tolist(), "var": [900]},
    }
    value = {"net": NET.state_dict(), "rms": rms}
    normal = {one: {"key": f"rms.{one}", "mean": "mean", "var": "var"} for one in rms}
    named = [entry | {"normalise": normal[str(entry["key"])]} for entry in entries]

    policy = of(value, said | {"observation": {"entries": named}})
    session = Session(graph_of(policy).SerializeToString())
    found = session.run({"obs.leg": OBS[:, :2].copy(), "obs.arm": OBS[:, 2:].copy()})["q_values"].astype(np.float64)

    rows = ((OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-8)).astype(np.float32)
    assert np.abs(found - expected(rows.astype(np.float64))).max() < 1e-4
    message = refused(value, said | {"observation": {"entries": [named[0], entries[1]]}})
    assert "rms.arm (mean, var)" in message
    assert "rms.leg" not in message
    assert "in the entry that has them" in message


def test_a_network_under_a_prefix_leaves_statistics_under_another() -> None:
    """In flat files, safetensors among them, ``key`` is what names begin with; what lies beside it is judged alike."""
    flat = {f"actor.{name}": tensor for name, tensor in NET.state_dict().items()}
    flat |= {f"obs_rms.{name}": tensor.clone() for name, tensor in scaler().items()}
    flat["critic.0.weight"] = torch.ones(1, 3)
    normalise = {"key": "obs_rms", "mean": "running_mean", "var": "running_variance", "epsilon_with": "std", "clip": 5}

    policy = tensor_file(save(flat), "x.safetensors", parsed(table(normalise, key="actor"), "net.toml"))

    rows = np.clip((OBS.astype(np.float64) - MEAN) / (np.sqrt(VAR) + 1e-8), -5, 5)
    assert np.abs(answers(policy) - expected(rows)).max() < 1e-4
    assert policy.remarks == ('beside key = "actor": critic, obs_rms (used by normalise)',)
    with pytest.raises(CheckpointRefused, match=r"obs_rms \(running_mean, running_variance"):
        tensor_file(save(flat), "x.safetensors", parsed(table(key="actor"), "net.toml"))
    assert "obs_rms" in refused(flat, table(key="actor"))


def test_a_key_that_lies_deeper_names_what_lies_beside_it_on_the_way() -> None:
    """On each level of the path."""
    value = {"step": 3, "model": {"actor": NET.state_dict(), "ema": torch.ones(3), "obs_norm": {"a": torch.ones(3)}}}

    assert "model.obs_norm (a)" in refused(value, table(key="model.actor"))
    policy = of(value, table(key="model.actor", ignore_beside=["model.obs_norm"]))
    assert policy.remarks == ('beside key = "model.actor": step, model.ema, model.obs_norm (ignored)',)


def test_what_is_ignored_beside_has_to_be_there() -> None:
    """A name that ignores nothing is a mistake in the declaration."""
    with pytest.raises(DeclarationInvalid, match=r"network\.ignore_beside has 'obs_rms', but nothing of that name"):
        of({"net": NET.state_dict(), "obs_rms_2": 1}, table(key="net", ignore_beside=["obs_rms"]))


def test_statistics_that_ignore_sets_aside_are_warned_of() -> None:
    """rl_games keeps its normaliser inside the state dict: left over, the message has the line; ignored, a warning."""
    model = {f"a2c_network.actor_mlp.{name}": tensor for name, tensor in NET.state_dict().items()}
    running = {"running_mean": torch.from_numpy(MEAN), "running_var": torch.from_numpy(VAR), "count": torch.tensor(7.0)}
    model |= {f"running_mean_std.{name}": tensor for name, tensor in running.items()}
    value = {"model": model, "epoch": 5, "last_mean_rewards": 17.5}
    normalise = {"key": "model.running_mean_std", "mean": "running_mean", "var": "running_var"}

    with pytest.raises(TensorsUnaccounted) as caught:
        of(value, table(key="model"))
    ignoring = of(value, table(key="model", ignore=["running_mean_std."]))
    using = of(value, table(normalise | {"epsilon": 1e-5, "clip": 5}, key="model", ignore=["running_mean_std.count"]))

    line = 'key = "model.running_mean_std", mean = "running_mean", var = "running_var", epsilon = 1e-05, clip = 5 }'
    assert line in str(caught.value)
    assert ignoring.remarks[1].startswith(
        "warning: network.ignore sets aside what looks like statistics of observations (running_mean_std.running_mean, "
    )
    assert using.remarks == ('beside key = "model": epoch, last_mean_rewards',)
    rows = np.clip((OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-5), -5, 5)
    assert np.abs(answers(using) - expected(rows)).max() < 1e-4
    critic = {**NET.state_dict(), **{f"critic.{name}": tensor for name, tensor in CRITIC.state_dict().items()}}
    assert of(critic, table(ignore=["critic."])).remarks == ()


def test_a_forgotten_key_is_named() -> None:
    """Where the file has a state dict deeper in it, the message says the key."""
    assert 'say key = "policy" or key = "value" under [network]' in refused(skrl(), table())


@pytest.mark.parametrize("suffix", [".pt", pytest.param(".pkl", marks=pytest.mark.soak)])
@pytest.mark.parametrize("key", ["model", pytest.param("", marks=pytest.mark.soak)])
def test_a_trusted_file_loses_nothing_either(suffix: str, key: str, tmp_path: Path) -> None:
    """An object of mean, var and count is refused with or without a key, and normalises where it is named."""
    value = {"model": NET.state_dict(), "obs_rms": RunningMeanStd(), "optim": stepped(), "epoch": 3, "note": "x"}
    path = tmp_path / f"agent{suffix}"
    path.write_bytes(saved(value) if suffix == ".pt" else pickle.dumps(value))
    network: Table = {"key": key} if key else {}
    normalise = {"key": "obs_rms", "mean": "mean", "var": "var"}

    policy = read(Asked(path, parsed(table(normalise, **network), "net.toml"), trust=True))
    with pytest.raises(CheckpointRefused, match=r"statistics .*: obs_rms \(mean, var\)"):
        read(Asked(path, parsed(table(**network), "net.toml"), trust=True))

    rows = ((OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-8)).astype(np.float32)
    assert np.abs(answers(policy) - expected(rows.astype(np.float64))).max() < 1e-4
    place = 'key = "model"' if key else "the tensors"
    assert policy.remarks[0].startswith(f"beside {place}: ")
    assert {"obs_rms (used by normalise)", "optim", "epoch", "note"} == set(
        policy.remarks[0].partition(": ")[2].split(", ")
    )


def test_a_trusted_tuple_is_read_by_its_places(tmp_path: Path) -> None:
    """(policy, value, running state), as older code pickles it, the modules whole."""
    path = tmp_path / "agent.pkl"
    path.write_bytes(pickle.dumps((NET, CRITIC, RunningMeanStd())))
    normalise = {"key": 2, "mean": "mean", "var": "var"}

    policy = read(Asked(path, parsed(table(normalise, key=0), "net.toml"), trust=True))
    with pytest.raises(CheckpointRefused, match=r"statistics .*: 2 \(mean, var\)"):
        read(Asked(path, parsed(table(key=0), "net.toml"), trust=True))

    rows = ((OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-8)).astype(np.float32)
    assert np.abs(answers(policy) - expected(rows.astype(np.float64))).max() < 1e-4


class Agent:
    """An agent that is no module and has one."""

    def __init__(self) -> None:
        self.actor, self.obs_rms = NET, RunningMeanStd()


def test_a_trusted_agent_is_read_by_the_name_of_its_network(tmp_path: Path) -> None:
    """Without a key the message says it; with it the statistics beside are not lost."""
    path = tmp_path / "agent.pt"
    path.write_bytes(saved(Agent()))
    normalise = {"key": "obs_rms", "mean": "mean", "var": "var"}

    with pytest.raises(CheckpointRefused, match=r'outside of objects.* say key = "actor" or key = "obs_rms"'):
        read(Asked(path, parsed(table(), "net.toml"), trust=True))
    with pytest.raises(CheckpointRefused, match=r"statistics .*: obs_rms \(mean, var\)"):
        read(Asked(path, parsed(table(key="actor"), "net.toml"), trust=True))
    policy = read(Asked(path, parsed(table(normalise, key="actor"), "net.toml"), trust=True))

    rows = ((OBS.astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-8)).astype(np.float32)
    assert np.abs(answers(policy) - expected(rows.astype(np.float64))).max() < 1e-4


def test_a_long_memory_of_transitions_is_named_only() -> None:
    """It has too many parts to look at each."""
    policy = of({"net": NET.state_dict(), "memory": [(torch.ones(1), 0, 1.0)] * 100_000}, table(key="net"))

    assert policy.remarks == ('beside key = "net": memory',)


def test_names_are_read_by_their_words() -> None:
    """In camel case and with underscores alike; a word within another is none."""
    assert words("RunningMeanStd") == words("running_mean_std") == {"running", "mean", "std"}
    assert words("obsRMS2") == {"obs", "rms"}
    assert words("variant") & words("var") == set()
    assert statistics_among({"meaning": [1.0], "a.mean": [1.0], "std_0": [1.0]}, {3}) == ("a.mean", "std_0")
