"""Policies that others trained, exported with the command that people use: over HTTP each is what it was.

What is native is worked out here from the weights in the zips, by forward passes of this file's own in plain torch, or
by the file itself as it was found. Three more agents are played in ``test_closed_loop.py``.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.__main__ import main
from export.sb3 import read_normaliser
from tests.export.translations import made_once
from tests.in_process import Serving, serving
from tests.system.serving import ROOT, Client, Service

SHARED = ROOT.parent / "shared" / "policies"
SEEDS = range(1000, 1010)
LIMITS = {"deadline_ms": 30_000}  # a busy machine must not turn an answer into the baseline's
CONFIG = """\
name = "{name}"
policy = "{name}-1.onnx"
baseline = {{ kind = "constant", action = {action} }}
limits = {{ deadline_ms = 30000 }}
"""
# A batch of observations[N, F] to the executed actions[N] or [N, D].
Act = Callable[[NDArray[np.float32]], NDArray[np.generic]]

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the trained policies of others are not here: expected them in {SHARED}"
)


@pytest.fixture(autouse=True, scope="module")
def _translations() -> None:
    made_once()


def weights_of(name: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a zip."""
    with zipfile.ZipFile(SHARED / "sb3" / f"{name}.zip") as archive:
        data = io.BytesIO(archive.read("policy.pth"))
    found: Mapping[str, torch.Tensor] = torch.load(data, map_location="cpu", weights_only=True)
    return found


def linear(weights: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """One layer; ARS has none of its biases."""
    bias = weights.get(f"{name}.bias")
    product = x @ weights[f"{name}.weight"].T
    return product if bias is None else product + bias


def ars(name: str) -> Act:
    """Scores that are linear in the observation."""
    weights = weights_of(name)
    return lambda rows: linear(weights, "action_net", torch.from_numpy(rows)).argmax(1).numpy()


def ppo(name: str, *, box: bool = False) -> Act:
    """Two layers of tanh; a Box's means are clipped to -1 and 1."""
    weights = weights_of(name)

    def act(rows: NDArray[np.float32]) -> NDArray[np.generic]:
        x = torch.tanh(linear(weights, "mlp_extractor.policy_net.0", torch.from_numpy(rows)))
        x = torch.tanh(linear(weights, "mlp_extractor.policy_net.2", x))
        x = linear(weights, "action_net", x)
        return x.clamp(-1, 1).numpy() if box else x.argmax(1).numpy()

    return act


def normalised(name: str) -> Act:
    """PPO behind VecNormalize."""
    found = read_normaliser((SHARED / "sb3" / f"{name}.vecnormalize.pkl").read_bytes())
    running, act = found.stats[""], ppo(name)

    def normal(rows: NDArray[np.float32]) -> NDArray[np.generic]:
        scaled = (rows.astype(np.float64) - running.mean) / np.sqrt(running.var + found.epsilon)
        return act(np.clip(scaled, -found.clip, found.clip).astype(np.float32))

    return normal


def sac(name: str) -> Act:
    """Pendulum's actor, trained with gSDE: its mean is cut at -2 and 2 before the tanh; torques reach from -2 to 2."""
    weights = weights_of(name)

    def act(rows: NDArray[np.float32]) -> NDArray[np.generic]:
        x = torch.relu(linear(weights, "actor.latent_pi.0", torch.from_numpy(rows)))
        x = torch.relu(linear(weights, "actor.latent_pi.2", x))
        return (2 * torch.tanh(linear(weights, "actor.mu.0", x).clamp(-2, 2))).numpy()

    return act


@dataclass(frozen=True, slots=True)
class Agent:
    """A zip: its own network in plain torch, its environment, and the range of its action where that is real."""

    name: str
    act: Callable[[str], Act]
    environment: str
    width: float = 0.0

    @property
    def baseline(self) -> object:
        """Something to do, for the baseline that no test here lets answer."""
        return "action_0" if self.width == 0 else [0.0] * (2 if "Lander" in self.name else 1)


AGENTS = [
    Agent("ars_CartPole-v1", ars, "CartPole-v1"),
    Agent("ppo_MountainCar-v0", normalised, "MountainCar-v0"),
    Agent("sac_Pendulum-v1", sac, "Pendulum-v1", width=4.0),
]
LANDER = Agent("ppo_LunarLanderContinuous-v2", lambda name: ppo(name, box=True), "LunarLanderContinuous-v3", width=2.0)


def exported(folder: Path, checkpoint: str, *words: str, verb: tuple[str, ...] = (), name: str = "policy") -> bytes:
    """Export with the command line; the file's bytes."""
    written = folder / f"{name}-1.onnx"
    status = main([*verb, str(SHARED / checkpoint), "-o", str(written), *words])
    assert status == 0
    return written.read_bytes()


async def told(service: Serving, requests: Sequence[Mapping[str, object]]) -> list[Any]:
    """Ask a batch of requests; every answer has to be the policy's own."""
    found: list[Any] = []
    for at in range(0, len(requests), 250):
        reply = await service.post("/act/batch", {"requests": requests[at : at + 250]})
        assert reply.status == 200, reply.body
        found += reply.json()["decisions"]
    assert {(one["source"], one["propensity"]) for one in found} == {("policy", 1.0)}
    return [one["action"] for one in found]


def asked(observations: Sequence[object], **also: Sequence[object]) -> list[dict[str, object]]:
    """Requests for observations, each the first of an episode of a session of its own."""
    columns = [dict(zip(also, row, strict=True)) for row in zip(*also.values(), strict=True)] or [{}] * len(
        observations
    )
    return [
        {"session": f"s{i}", "observation": seen, "previous": None, **column}
        for i, (seen, column) in enumerate(zip(observations, columns, strict=True))
    ]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: str(agent.name))
async def test_golden_observations_get_the_native_actions(agent: Agent, tmp_path: Path) -> None:
    """All 1,000 recorded observations: each action the library's own, a real one within 1e-5 of its range."""
    with np.load(SHARED / "golden" / f"{agent.name}.npz") as recorded:
        observations, expected = recorded["obs"], recorded["action"]
    data = exported(tmp_path, f"sb3/{agent.name}.zip")
    baseline = {"kind": "constant", "action": agent.baseline}

    with serving(tmp_path, data, baseline=baseline, limits=LIMITS) as service:
        actions = np.array(await told(service, asked(observations.tolist())))

    assert len(actions) == 1000
    assert np.abs(actions - expected).max() <= 1e-5 * agent.width
    assert np.abs(agent.act(agent.name)(observations) - expected).max() <= 1e-5 * agent.width


async def test_a_lander_is_right_on_what_it_saw_itself(tmp_path: Path) -> None:
    """LunarLanderContinuous has no golden file: two episodes of its own network, asked again, step by step.

    Contacts make its returns diverge by themselves, so that every step has the observation that the network had.
    """
    act, seen = LANDER.act(LANDER.name), []
    data = exported(tmp_path, f"sb3/{LANDER.name}.zip")
    for seed in SEEDS[:2]:
        _, observations = played(LANDER.environment, seed, act)
        seen += observations
    rows = np.array(seen, dtype=np.float32)

    with serving(tmp_path, data, baseline={"kind": "constant", "action": LANDER.baseline}, limits=LIMITS) as service:
        actions = np.array(await told(service, asked(rows.tolist())))

    assert len(rows) > 200
    assert np.abs(actions - act(rows)).max() <= 1e-5 * LANDER.width
    assert np.abs(actions).max() == 1.0


def played(environment: str, seed: int, act: Act) -> tuple[float, list[NDArray[np.float32]]]:
    """Play an episode; its return and what was seen."""
    total, seen = 0.0, []
    with closing(gymnasium.make(environment)) as env:
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            seen.append(np.asarray(observation, dtype=np.float32))
            action = act(seen[-1][None])[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
    return total, seen


@pytest.fixture(
    scope="module",
    params=[pytest.param(AGENTS[0], marks=pytest.mark.soak), *AGENTS[1:]],
    ids=lambda agent: str(agent.name),
)
def looped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Service]]:
    """An agent whose episodes are played, and a real process that serves it."""
    agent: Agent = request.param
    folder = tmp_path_factory.mktemp("shared")
    exported(folder, f"sb3/{agent.name}.zip", name=agent.name)
    config = folder / "policy.toml"
    config.write_text(CONFIG.format(name=agent.name, action=json.dumps(agent.baseline)), "utf-8")
    with Service(config, folder / "data") as service:
        yield agent, service


def test_episodes_over_http_return_what_the_native_network_returns(looped: tuple[Agent, Service]) -> None:
    """Ten seeded episodes, each action asked for over a socket: returns are equal, Pendulum's within 0.01."""
    agent, service = looped
    native = [played(agent.environment, seed, agent.act(agent.name))[0] for seed in SEEDS]

    with Client(service.port) as client:
        returns = [over_http(client, agent, seed) for seed in SEEDS]

    apart = np.abs(np.array(returns) - native)
    assert apart.max() <= (1e-2 if agent.width else 0.0)
    assert len(returns) == 10


def over_http(client: Client, agent: Agent, seed: int) -> float:
    """Play an episode with the actions that a service answers, telling it what came before."""
    previous: str | None = None

    def act(rows: NDArray[np.float32]) -> NDArray[np.generic]:
        nonlocal previous
        request = {"session": f"seed-{seed}", "observation": rows[0].tolist(), "previous": previous}
        status, answer = client.post("/act", request)
        assert (status, answer["source"]) == (200, "policy"), answer
        previous = answer["decision_id"]
        dtype = np.float32 if agent.width else np.int64
        return np.array([answer["action"]], dtype=dtype)

    return played(agent.environment, seed, act)[0]


def original(file: str, *exposed: str) -> onnxruntime.InferenceSession:
    """An ONNX file as it was found, with some of its inner tensors to be seen."""
    model = onnx.load_model(SHARED / "onnx" / file)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in exposed)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def rows(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Observations as far as a few standard deviations out."""
    return (2 * np.random.default_rng(seed).normal(size=(count, width))).astype(np.float32)


async def test_adopted_real_actions_are_those_of_the_file(tmp_path: Path) -> None:
    """3DBall of ML-Agents: the action is what the file itself calls deterministic."""
    data, seen = exported(tmp_path, "onnx/mlagents_3DBall.onnx", verb=("adopt",)), rows(500, 8)

    with serving(tmp_path, data, baseline={"kind": "constant", "action": [0.0, 0.0]}, limits=LIMITS) as service:
        actions = np.array(await told(service, asked(seen.tolist())))

    expected = original("mlagents_3DBall.onnx").run(["deterministic_continuous_actions"], {"obs_0": seen})[0]
    assert np.abs(actions - expected).max() <= 1e-5 * 2


async def test_adopted_choices_are_those_of_the_file(tmp_path: Path) -> None:
    """JumperHard of Godot RL: the best of the logits that the file gives."""
    data = exported(tmp_path, "onnx/godot_JumperHard.onnx", "--head", "logits", verb=("adopt",))
    seen = rows(500, 152)

    with serving(tmp_path, data, baseline={"kind": "constant", "action": "action_0"}, limits=LIMITS) as service:
        actions = await told(service, asked(seen.tolist()))

    given = {"obs": seen, "state_ins": np.zeros(500, np.float32)}
    assert actions == original("godot_JumperHard.onnx").run(["output"], given)[0].argmax(axis=1).tolist()
    assert len(set(actions)) > 1


async def test_an_adopted_memory_is_kept_for_each_session(tmp_path: Path) -> None:
    """Hallway of ML-Agents: 100 steps of two sessions, masked and interleaved; one begins anew in the middle."""
    data, drawn = exported(tmp_path, "onnx/mlagents_Hallway_recurrent.onnx", verb=("adopt",)), np.random.default_rng(0)
    session = original("mlagents_Hallway_recurrent.onnx", "72")
    memory = dict.fromkeys(range(2), np.zeros((1, 1, 128), np.float32))
    previous: dict[int, str | None] = dict.fromkeys(range(2))
    actions, expected = [], []

    with serving(tmp_path, data, baseline={"kind": "constant", "action": "action_0"}, limits=LIMITS) as service:
        for step in range(100):
            for one in range(2):
                if (step, one) == (40, 1):
                    memory[one], previous[one] = np.zeros((1, 1, 128), np.float32), None
                first, second, mask = rows(1, 105, step), rows(1, 3, 1000 + step), drawn.random((1, 5)) < 0.7
                mask[0, 2] = True
                given = {"obs_0": first, "obs_1": second, "action_masks": mask.astype(np.float32)}
                logits, memory[one] = session.run(["72", "recurrent_out"], given | {"recurrent_in": memory[one]})
                expected.append(int(np.where(mask[0], logits[0], -np.inf).argmax()))
                request = {
                    "observation": {"obs_0": first[0].tolist(), "obs_1": second[0].tolist()},
                    "previous": previous[one],
                    "allowed": mask[0].tolist(),
                }
                answer = (await service.post("/act", {"session": f"s{one}", **request})).json()
                previous[one] = answer["decision_id"]
                actions.append(answer["action"])

    assert actions == expected
    assert len(set(actions)) > 1


def test_a_broken_file_is_refused_by_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The outputs that no node makes are named, and nothing is written."""
    broken = SHARED / "onnx" / "BROKEN_mlagents_deterDiscrete.onnx"

    status = main(["adopt", str(broken), "-o", str(tmp_path / "policy-1.onnx")])

    assert status == 1
    assert "no node makes 'memory_size', 'discrete_action_output_shape'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


async def test_a_robots_state_is_kept_for_each_session(tmp_path: Path) -> None:
    """The stateful TorchScript, made functional: 100 steps of two robots, interleaved; one begins anew on the way."""
    name = "unitree_g1_lstm_STATEFUL.pt"
    joints = ", ".join(f'{{ name = "joint_{at}" }}' for at in range(12))
    declaration = tmp_path / "g1.toml"
    declaration.write_text(
        f'observation = {{ shape = [47] }}\naction = {{ kind = "box", fields = [{joints}] }}\n'
        'network = { kind = "module", head = "deterministic" }\n',
        "utf-8",
    )
    data = exported(tmp_path, f"torchscript/{name}", "--declare", str(declaration))
    robots = [fresh(name), fresh(name)]
    previous: list[str | None] = [None, None]
    worst = 0.0

    with serving(tmp_path, data, baseline={"kind": "constant", "action": [0.0] * 12}, limits=LIMITS) as service:
        for step in range(100):
            for one in range(2):
                if (step, one) == (40, 1):
                    robots[one], previous[one] = fresh(name), None
                seen = rows(1, 47, 2 * step + one)
                request = {"session": f"s{one}", "observation": seen[0].tolist(), "previous": previous[one]}
                answer = (await service.post("/act", request)).json()
                previous[one] = answer["decision_id"]
                with torch.no_grad():
                    expected = robots[one](torch.from_numpy(seen)).numpy()[0]
                worst = max(worst, float(np.abs(np.array(answer["action"]) - expected).max()))

    assert 0 < worst <= 1e-5


def fresh(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module as it was found, at its beginning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Callable[[torch.Tensor], torch.Tensor] = torch.jit.load(  # type: ignore[no-untyped-call]
            str(SHARED / "torchscript" / name)
        )
    return module
