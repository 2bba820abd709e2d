"""Every CleanRL algorithm's published network, declared: it answers as the module that was saved."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.distributions import Distribution

from export.declaration import parsed
from export.declared import cleanrl
from export.errors import CheckpointRefused, DeclarationInvalid, OptionInvalid, TensorsUnaccounted
from export.graph import graph_of
from export.runtime import Session
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.cleanrl import (
    ACTIONS,
    HIGH,
    LOW,
    OBS,
    Actor,
    Agent,
    AtariAgent,
    ContinuousAgent,
    Critic,
    LstmAgent,
    QNetwork,
    SoftActor,
    grown,
    nature,
    rows,
)

Table = dict[str, object]
ROW: Table = {"shape": [OBS]}
FRAMES: Table = {"shape": [4, 84, 84], "dtype": "uint8", "layout": "NCHW", "scale": 255}
CHOICE: Table = {"n": ACTIONS}
BOX: Table = {"low": list(LOW), "high": list(HIGH)}
CONTINUOUS: Table = {"kind": "mlp", "hidden": [256, 256]}
TD3: Table = CONTINUOUS | {"key": 0, "head": "deterministic", "squash": "tanh"}
SAC: Table = CONTINUOUS | {
    "key": 0,
    "head": "gaussian",
    "squash": "tanh",
    "std": {"layer": "fc_logstd", "squash": "tanh", "span": [-5, 2]},
}
PPO: Table = {"kind": "mlp", "hidden": [64, 64], "activation": "tanh", "ignore": ["critic."]}
GAUSSIAN: Table = PPO | {"head": "gaussian", "std": {"parameter": "actor_logstd"}}

torch.set_num_threads(1)


def saved(value: object) -> bytes:
    """Give what torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def declared(
    value: object,
    network: Table,
    observation: Table,
    action: Table,
    cvar: float | None = None,
) -> TrainedPolicy:
    """Read a saved value as a CleanRL checkpoint with a declaration."""
    table: Table = {"observation": observation, "action": action, "network": network}
    return cleanrl(saved(value), "agent.cleanrl_model", parsed(table, "agent.toml"), cvar)


def answers(policy: TrainedPolicy, obs: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    """Ask the graph of a policy without memory."""
    found = Session(graph_of(policy).SerializeToString()).run({"obs": obs.numpy()})
    return {name: np.asarray(array) for name, array in found.items()}


def row_obs(count: int = 240) -> torch.Tensor:
    """Draw observations, near and far."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, OBS), generator=generator) * torch.linspace(0.3, 4, count).unsqueeze(1)


def frames(count: int = 200, channels: int = 4) -> torch.Tensor:
    """Draw images of uint8."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, channels, 84, 84), dtype=torch.uint8, generator=generator)


def far(found: NDArray[np.generic], expected: torch.Tensor) -> float:
    """Give the largest error as a share of the largest number."""
    reference = expected.detach().numpy()
    return float(np.abs(found - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("seed", [0, 1])
def test_dqn(seed: int) -> None:
    """dqn: the values and the best action of each of 240 observations."""
    torch.manual_seed(seed)
    module = grown(QNetwork(rows((OBS, 120, 84, ACTIONS), nn.ReLU)))

    found = answers(declared(module.state_dict(), {"hidden": [120, 84]}, ROW, CHOICE), row_obs())

    assert far(found["q_values"], module(row_obs())) < 1e-6
    assert np.array_equal(found["action"], module(row_obs()).argmax(1).numpy())
    assert len(set(found["action"].tolist())) > 1


def test_dqn_atari() -> None:
    """dqn_atari: images of uint8 as they are, divided by 255 inside."""
    torch.manual_seed(0)
    module = grown(QNetwork(nn.Sequential(*nature(4), nn.Linear(512, ACTIONS)), scale=255.0))
    network: Table = {"convolutions": "nature", "hidden": [512]}

    policy = declared(module.state_dict(), network, FRAMES, CHOICE)
    found = answers(policy, frames())

    assert far(found["q_values"], module(frames())) < 1e-5
    assert np.array_equal(found["action"], module(frames()).argmax(1).numpy())
    assert policy.inputs[0].dtype == "uint8"
    assert policy.inside == ("divide by 255",)


def test_c51() -> None:
    """c51: the expectation over the file's own atoms, from beside the settings that CleanRL saves."""
    torch.manual_seed(0)
    atoms = torch.linspace(-100, 100, 101)
    module = grown(QNetwork(rows((OBS, 120, 84, ACTIONS * 101), nn.ReLU), atoms), 3.0)
    network: Table = {
        "kind": "c51",
        "hidden": [120, 84],
        "n_atoms": 101,
        "v_min": -100,
        "v_max": 100,
        "key": "model_weights",
    }
    value = {"model_weights": module.state_dict(), "args": {"n_atoms": 101, "v_min": -100.0, "exp_name": "c51"}}

    policy = declared(value, network, ROW, CHOICE)
    found = answers(policy, row_obs())

    assert far(found["q_values"], module(row_obs())) < 1e-5
    assert np.array_equal(found["action"], module(row_obs()).argmax(1).numpy())
    assert policy.family == "c51"
    with pytest.raises(DeclarationInvalid, match=r"go from -100 to 100, but the declaration says v_min = -10"):
        declared(value, network | {"v_min": -10}, ROW, CHOICE)


def test_c51_of_the_worst_share() -> None:
    """c51 with --cvar: the mean over the worst share of outcomes, worked out here outcome by outcome."""
    torch.manual_seed(0)
    atoms = torch.linspace(-10, 10, 21)
    module = grown(QNetwork(rows((OBS, 32, ACTIONS * 21), nn.ReLU), atoms), 3.0)
    network: Table = {"kind": "c51", "hidden": [32], "n_atoms": 21, "v_min": -10, "v_max": 10}
    obs = row_obs(40)

    found = answers(declared(module.state_dict(), network, ROW, CHOICE, cvar=0.25), obs)

    shares = torch.softmax(module.network(obs).view(40, ACTIONS, 21), 2).double().detach().numpy()
    expected = np.zeros((40, ACTIONS))
    for at in np.ndindex(40, ACTIONS):
        left = 0.25
        for share, atom in zip(shares[at], atoms.tolist(), strict=True):
            expected[at] += min(share, left) * atom / 0.25
            left -= min(share, left)
    assert np.abs(found["q_values"] - expected).max() < 1e-4
    with pytest.raises(OptionInvalid, match=r"--cvar is 0.25, expected it with a network that knows a distribution"):
        declared(module.state_dict(), {"hidden": [32]}, ROW, CHOICE, cvar=0.25)


def test_c51_atari() -> None:
    """c51_atari: 51 atoms for each action, from images."""
    torch.manual_seed(0)
    module = grown(
        QNetwork(nn.Sequential(*nature(4), nn.Linear(512, ACTIONS * 51)), torch.linspace(-10, 10, 51), 255.0), 3.0
    )
    network: Table = {
        "kind": "c51",
        "convolutions": "nature",
        "hidden": [512],
        "n_atoms": 51,
        "v_min": -10,
        "v_max": 10,
    }

    found = answers(declared(module.state_dict(), network, FRAMES, CHOICE), frames())

    assert far(found["q_values"], module(frames())) < 1e-5
    assert np.array_equal(found["action"], module(frames()).argmax(1).numpy())


def log_prob_of(logits: NDArray[np.generic], action: torch.Tensor) -> torch.Tensor:
    """Work out log-probabilities from logits in double precision."""
    numbers = torch.log_softmax(torch.from_numpy(logits).double(), dim=1)
    return numbers.gather(1, action.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize(
    ("make", "network", "observation", "obs"),
    [
        (Agent, PPO | {"head": "logits"}, ROW, row_obs),
        (
            AtariAgent,
            {"convolutions": "nature", "hidden": [512], "head": "logits", "ignore": ["critic."]},
            FRAMES,
            frames,
        ),
    ],
    ids=["ppo", "ppo_atari"],
)
def test_ppo(
    make: Callable[[], Agent | AtariAgent],
    network: Table,
    observation: Table,
    obs: Callable[[], torch.Tensor],
) -> None:
    """ppo and ppo_atari: probabilities as torch's own distribution has them, and the critic named as set aside."""
    torch.manual_seed(0)
    module = grown(make())
    seen = obs()

    policy = declared(module.state_dict(), network, observation, CHOICE)
    found = answers(policy, seen)

    own = module.distribution(seen)
    action = own.sample()  # type: ignore[no-untyped-call]
    assert float((log_prob_of(found["logits"], action) - own.log_prob(action)).detach().abs().max()) < 1e-5  # type: ignore[no-untyped-call]
    assert np.array_equal(found["action"], own.logits.argmax(1).numpy())
    assert set(policy.set_aside) == {name for name in module.state_dict() if name.startswith("critic.")}


def gaussian_log_prob(found: dict[str, NDArray[np.float32]], raw: torch.Tensor) -> torch.Tensor:
    """Work out the log-density of ``raw`` from a graph's mean and std in double precision."""
    mean, std = (torch.from_numpy(found[name]).double() for name in ("mean", "std"))
    density: torch.Tensor = -0.5 * ((raw - mean) / std) ** 2 - std.log() - 0.5 * np.log(2 * np.pi)
    return density.sum(1)


def test_ppo_continuous_action() -> None:
    """ppo_continuous_action: the density of torch's own distribution, and the mean clipped to the bounds."""
    torch.manual_seed(0)
    module = grown(ContinuousAgent())
    seen = row_obs()

    found = answers(declared(module.state_dict(), GAUSSIAN, ROW, BOX), seen)

    own = module.distribution(seen)
    action = own.sample()
    assert float((gaussian_log_prob(found, action.double()) - own.log_prob(action)).detach().abs().max()) < 1e-5
    clipped = module.actor_mean(seen).clamp(torch.tensor(LOW), torch.tensor(HIGH))
    assert np.abs(found["action"] - clipped.detach().numpy()).max() < 1e-5
    assert np.abs(found["mean"] - found["action"]).max() > 0.1


def test_ppo_continuous_action_normalised_as_its_environment_did() -> None:
    """gymnasium's NormalizeObservation and the clip to 10 are declared in numbers and happen inside the graph."""
    torch.manual_seed(0)
    module = grown(ContinuousAgent())
    mean, var = np.linspace(-3, 40000, OBS), np.linspace(0.5, 9, OBS) ** 2
    seen = (torch.from_numpy(mean) + row_obs().double() * torch.from_numpy(np.sqrt(var))).float()
    table: Table = {
        "observation": ROW,
        "action": BOX,
        "network": GAUSSIAN,
        "normalise": {"mean": mean.tolist(), "var": var.tolist(), "clip": 10},
    }

    policy = cleanrl(saved(module.state_dict()), "agent.cleanrl_model", parsed(table, "agent.toml"))
    found = answers(policy, seen)

    normalised = np.clip((seen.double().numpy() - mean) / np.sqrt(var + 1e-8), -10, 10).astype(np.float32)
    assert np.abs(found["mean"] - module.actor_mean(torch.from_numpy(normalised)).detach().numpy()).max() < 1e-5
    assert policy.inside[0] == "normalise in float64 and clip to +-10"


def test_sac_continuous_action() -> None:
    """sac_continuous_action: exact densities of the squashed Gaussian, and the action at the squashed mean."""
    torch.manual_seed(0)
    module = grown(SoftActor(), 1.5)
    seen = row_obs() * 0.3
    value = (module.state_dict(), Critic().state_dict(), Critic().state_dict())

    policy = declared(value, SAC, ROW, BOX)
    found = answers(policy, seen)

    normal, half = module.normal(seen), module.action_scale[0].double()
    raw = (normal.mean + 0.7 * normal.stddev).double()
    own: Distribution = module.double().distribution(seen.double())
    action = torch.tanh(raw) * half + module.action_bias[0].double()
    density = gaussian_log_prob(found, raw) - (torch.log(1 - torch.tanh(raw) ** 2) + torch.log(half)).sum(1)
    expected = own.log_prob(action).detach()
    assert float(((density.detach() - expected) / expected.abs().clamp(min=1)).abs().max()) < 1e-5
    best = torch.tanh(normal.mean.double()) * half + module.action_bias[0].double()
    assert np.abs(found["action"] - best.detach().numpy()).max() < 1e-5
    assert (policy.head, policy.squash, policy.family) == ("gaussian", "tanh", "squashed_gaussian")


@pytest.mark.parametrize("critics", [2, 1], ids=["td3", "ddpg"])
def test_td3_and_ddpg(critics: int) -> None:
    """td3 and ddpg: the actor is the first of the saved state dicts, its action un-scaled to the bounds."""
    torch.manual_seed(0)
    module = grown(Actor())
    value = (module.state_dict(), *(Critic().state_dict() for _ in range(critics)))

    found = answers(declared(value, TD3, ROW, BOX), row_obs())

    assert np.abs(found["action"] - module(row_obs()).detach().numpy()).max() < 1e-5
    assert np.array_equal(found["std"], np.zeros_like(found["std"]))
    assert found["action"].max() > 1.5


def test_bounds_that_are_not_those_of_training_are_refused() -> None:
    """CleanRL's actors carry their own scale and bias: a declaration with other bounds would move every action."""
    value = (Actor().state_dict(), Critic().state_dict())

    with pytest.raises(DeclarationInvalid, match=r"'action_scale' is .*low and high are not those of training"):
        declared(value, TD3, ROW, BOX | {"high": [2.0, 3.0, 1.0]})


def test_a_target_network_is_never_taken_for_the_network() -> None:
    """Slow copies beside the network are refused until they are declared as ignored (trap 31)."""
    torch.manual_seed(0)
    online, target = grown(QNetwork(rows((OBS, 8, ACTIONS), nn.ReLU))), QNetwork(rows((OBS, 8, ACTIONS), nn.ReLU))
    value = {f"q_network.{name}": tensor for name, tensor in online.state_dict().items()}
    value |= {f"target_network.{name}": tensor for name, tensor in target.state_dict().items()}
    layers = ["q_network.network.0", "q_network.network.2"]
    network: Table = {"hidden": [8], "layers": layers}

    with pytest.raises(DeclarationInvalid, match=r"expects 2 linear layers here, the state dict has 4"):
        declared(value, {"hidden": [8]}, ROW, CHOICE)
    with pytest.raises(TensorsUnaccounted, match=r"does not use: target_network\.network\.0\.bias"):
        declared(value, network, ROW, CHOICE)
    policy = declared(value, network | {"ignore": ["target_network."]}, ROW, CHOICE)
    found = policy.answer({"obs": row_obs().numpy()})
    assert far(found["q_values"], online(row_obs())) < 1e-6


def test_ppo_atari_lstm() -> None:
    """ppo_atari_lstm: two sessions side by side over 100 steps, each with its own memory."""
    torch.manual_seed(0)
    module = grown(LstmAgent())
    network: Table = {
        "kind": "lstm",
        "convolutions": "nature",
        "hidden": [512],
        "units": 128,
        "head": "logits",
        "ignore": ["critic."],
    }
    policy = declared(module.state_dict(), network, FRAMES | {"shape": [1, 84, 84]}, CHOICE)
    session = Session(graph_of(policy).SerializeToString())
    seen = frames(200, 1).reshape(100, 2, 1, 84, 84)

    state = (torch.zeros(1, 2, 128), torch.zeros(1, 2, 128))
    memory = {f"memory.{name}.in": np.zeros((2, 128), dtype=np.float32) for name in "hc"}
    worst, same, forgetful = 0.0, 0, 0
    for obs in seen:
        with torch.no_grad():
            own, state = module.step(obs, state)
        found = session.run({"obs": obs.numpy(), **memory})
        memory = {f"memory.{name}.in": np.asarray(found[f"memory.{name}.out"]) for name in "hc"}
        action = own.sample()  # type: ignore[no-untyped-call]
        worst = max(worst, float((log_prob_of(found["logits"], action) - own.log_prob(action)).abs().max()))  # type: ignore[no-untyped-call]
        same += int((torch.from_numpy(found["action"]) == own.logits.argmax(1)).sum())
        fresh = module.step(obs, (torch.zeros(1, 2, 128), torch.zeros(1, 2, 128)))[0]
        forgetful += int(float((fresh.logits - own.logits).detach().abs().max()) > 1e-2)

    assert worst < 1e-5
    assert same == 200
    assert forgetful > 90


def test_a_list_of_state_dicts_asks_for_its_place() -> None:
    """A tuple without ``key``, a place beyond it, and a name where there is a place are sentences."""
    value = (Actor().state_dict(), Critic().state_dict())

    with pytest.raises(CheckpointRefused, match=r"holds a tuple, expected a state dict .*; say key = 0"):
        declared(value, TD3 | {"key": ""}, ROW, BOX)
    with pytest.raises(CheckpointRefused, match=r"agent.cleanrl_model: 2 holds a NoneType"):
        declared(value, TD3 | {"key": 2}, ROW, BOX)
    with pytest.raises(CheckpointRefused, match=r"agent.cleanrl_model: actor holds a NoneType"):
        declared(value, TD3 | {"key": "actor"}, ROW, BOX)


def test_a_cleanrl_file_becomes_an_artefact() -> None:
    """The whole way: converted, compared, sealed and verified, with its library and algorithm in the card."""
    torch.manual_seed(0)
    module = grown(SoftActor(), 1.5)
    value = (module.state_dict(), Critic().state_dict(), Critic().state_dict())
    table: Table = {"observation": ROW, "action": BOX, "network": SAC, "algorithm": "SAC"}

    policy = cleanrl(saved(value), "agent.cleanrl_model", parsed(table, "agent.toml"))
    manifest = build(policy, About(name="test", version="1")).manifest

    assert (manifest.source.library, manifest.source.algorithm) == ("cleanrl", "SAC")
    assert manifest.parity.observations >= 1000
    assert manifest.squash == "tanh"
