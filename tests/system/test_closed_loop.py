"""Three agents that others trained: exported, served, and played over HTTP exactly as their own networks play.

What is native is worked out here from the weights in the zip, by a forward pass of this file's own.
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.system.serving import ROOT, Client, Service, eventually, rows_of

SHARED = ROOT.parent / "shared" / "policies"
SEEDS = range(1000, 1010)
CONFIG = """\
name = "{name}"
policy = "{name}-1.onnx"

[baseline]
kind = "constant"
action = "action_0"

[limits]
deadline_ms = 10000  # a busy machine must not turn an answer into the baseline's

[rewards]
wait_seconds = 20  # transitions come out in order: those of other tests' decisions, which no reward comes for, first
"""

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the trained agents of others are not here: expected them in {SHARED}"
)


@dataclass(frozen=True, slots=True)
class Agent:
    """A trained agent: its zip's name, its environment, its layers in the zip, and what is between them."""

    name: str
    environment: str
    layers: tuple[str, ...]
    activation: Callable[[torch.Tensor], torch.Tensor]

    def network(self) -> Callable[[np.ndarray], int]:
        """The native policy: the greedy action of an observation."""
        with zipfile.ZipFile(SHARED / "sb3" / f"{self.name}.zip") as archive, archive.open("policy.pth") as file:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        matrices = [(weights[f"{layer}.weight"], weights[f"{layer}.bias"]) for layer in self.layers]

        def act(observation: np.ndarray) -> int:
            x = torch.from_numpy(observation)[None]
            with torch.no_grad():
                for i, (weight, bias) in enumerate(matrices):
                    x = x @ weight.T + bias
                    if i < len(matrices) - 1:
                        x = self.activation(x)
            return int(x.argmax(dim=1))

        return act

    @property
    def golden(self) -> tuple[np.ndarray, list[int]]:
        """The recorded observations[N, F], and what the native library did with each."""
        with np.load(SHARED / "golden" / f"{self.name}.npz") as recorded:
            return recorded["obs"], recorded["action"].tolist()

    @property
    def mean_return(self) -> float:
        """The mean native return of these episodes, as the manifest has it."""
        manifest = json.loads((SHARED / "manifest.json").read_text("utf-8"))
        (entry,) = (entry for entry in manifest if entry["file"] == f"sb3/{self.name}.zip")
        assert entry["closed_loop"]["seeds"] == f"{SEEDS[0]}..{SEEDS[-1]}"
        return float(entry["closed_loop"]["native"][0])


Q_NET = ("q_net.q_net.0", "q_net.q_net.2", "q_net.q_net.4")
ACTOR = ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net")
AGENTS = [
    Agent("dqn_CartPole-v1", "CartPole-v1", Q_NET, torch.relu),
    Agent("dqn_LunarLander-v2", "LunarLander-v3", Q_NET, torch.relu),
    Agent("ppo_LunarLander-v2", "LunarLander-v3", ACTOR, torch.tanh),
]


@dataclass(slots=True)
class Episode:
    """A seeded episode as it is played."""

    seed: int
    environment: Any
    observation: np.ndarray
    total: float = 0.0
    steps: int = 0
    over: bool = False
    reward: float = 0.0
    terminated: bool = False
    previous: str | None = None
    sources: set[str] = field(default_factory=set)

    def step(self, action: int) -> None:
        """Carry an action out."""
        observation, reward, terminated, truncated, _ = self.environment.step(action)
        self.observation, self.reward, self.terminated = observation, float(reward), bool(terminated)
        self.over = bool(terminated or truncated)
        self.total += self.reward
        self.steps += 1

    def request(self) -> dict[str, object]:
        """What a controller asks: the first decision of an episode follows none, later ones bring their reward."""
        told: dict[str, object] = {
            "session": f"episode-{self.seed}",
            "observation": self.observation.tolist(),
            "previous": self.previous,
        }
        return told if self.previous is None else told | {"feedback": {"reward": self.reward}}

    def last_words(self) -> dict[str, object]:
        """The feedback on the last decision, after which none is asked for."""
        return {
            "decision_id": self.previous,
            "reward": self.reward,
            "next_observation": self.observation.tolist(),
            "terminated": self.terminated,
            "truncated": not self.terminated,
        }


@pytest.fixture(scope="module", params=AGENTS, ids=lambda agent: str(agent.name))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Service]]:
    """An agent, exported with the command that people use, and a service that serves it."""
    agent: Agent = request.param
    folder = tmp_path_factory.mktemp("closed-loop")
    zipped, written = SHARED / "sb3" / f"{agent.name}.zip", folder / f"{agent.name}-1.onnx"
    command = [sys.executable, "-m", "export", str(zipped), "-o", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = folder / "policy.toml"
    config.write_text(CONFIG.format(name=agent.name), "utf-8")
    with Service(config, folder / "data") as service:
        yield agent, service


def begun(agent: Agent, stack: ExitStack) -> list[Episode]:
    """The ten episodes at their start."""
    episodes = []
    for seed in SEEDS:
        environment = stack.enter_context(closing(gymnasium.make(agent.environment)))
        observation, _ = environment.reset(seed=seed)
        episodes.append(Episode(seed, environment, observation))
    return episodes


def played_natively(agent: Agent) -> list[float]:
    """Returns of the ten episodes, one row at a time through the native network."""
    act = agent.network()
    with ExitStack() as stack:
        episodes = begun(agent, stack)
        for episode in episodes:
            while not episode.over:
                episode.step(act(episode.observation))
    return [episode.total for episode in episodes]


def played_over_http(agent: Agent, client: Client) -> list[Episode]:
    """The ten episodes in step with one another, one batch of decisions a step."""
    with ExitStack() as stack:
        episodes = begun(agent, stack)
        while playing := [episode for episode in episodes if not episode.over]:
            status, told = client.post("/act/batch", {"requests": [episode.request() for episode in playing]})
            assert status == 200, told
            for episode, decision in zip(playing, told["decisions"], strict=True):
                episode.previous = decision["decision_id"]
                episode.sources.add(decision["source"])
                episode.step(decision["action"])
            if ended := [episode.last_words() for episode in playing if episode.over]:
                status, told = client.post("/feedback", ended)
                assert (status, {result["status"] for result in told["results"]}) == (200, {"accepted"})
    return episodes


def asked(client: Client, rows: Sequence[Sequence[float]]) -> list[int]:
    """The actions of a batch, each of which has to be the policy's own."""
    requests = [{"session": f"golden-{i}", "observation": row, "previous": None} for i, row in enumerate(rows)]
    status, told = client.post("/act/batch", {"requests": requests})
    assert status == 200, told
    assert {(one["source"], one["propensity"]) for one in told["decisions"]} == {("policy", 1.0)}
    return [one["action"] for one in told["decisions"]]


def test_episodes_over_http_return_what_the_native_network_returns(served: tuple[Agent, Service]) -> None:
    """Ten seeded episodes: nine returns exactly the native ones, the tenth within 0.1, and the mean as published.

    Each reward that was told comes out of the store again, with its decision.
    """
    agent, service = served
    native = played_natively(agent)

    with Client(service.port) as client:
        episodes = played_over_http(agent, client)

    returns = [episode.total for episode in episodes]
    apart = sorted(abs(here - there) for here, there in zip(returns, native, strict=True))
    assert apart[:9] == [0.0] * 9
    assert apart[9] <= 0.1
    # The manifest has two decimals, and a near tie may move one of ten returns by as much as is allowed above.
    assert np.mean(native) == pytest.approx(agent.mean_return, abs=0.015)
    assert np.mean(returns) == pytest.approx(agent.mean_return, abs=0.015)
    assert {source for episode in episodes for source in episode.sources} == {"policy"}
    assert_stored(service, episodes)


def assert_stored(service: Service, episodes: Sequence[Episode]) -> None:
    """The store has a transition for every step of the episodes, whose rewards add up to the returns."""
    expected = {f"episode-{episode.seed}": episode.steps for episode in episodes}
    stored: dict[str, tuple[int, float, int]] = {}

    def arrived() -> bool:
        rows = rows_of(
            service.data / "store.sqlite",
            "SELECT session, count(*), sum(reward), sum(terminated OR truncated) FROM transitions"
            " WHERE session LIKE 'episode-%' AND reward_ok GROUP BY session",
        )
        stored.update({session: (count, total, ends) for session, count, total, ends in rows})
        return {session: count for session, (count, _, _) in stored.items()} == expected

    eventually(arrived, within_s=60, what=lambda: f"stored {stored}, expected {expected}\n{service.output()[-3000:]}")
    for episode in episodes:
        _, total, ends = stored[f"episode-{episode.seed}"]
        assert total == pytest.approx(episode.total, abs=1e-6)
        assert ends == 1


def test_golden_observations_are_answered_with_the_native_actions(served: tuple[Agent, Service]) -> None:
    """All 1,000 recorded observations, in batches of 250, get exactly the actions of the library they came from."""
    agent, service = served
    observations, expected = agent.golden
    rows = observations.tolist()

    with Client(service.port) as client:
        actions = [action for at in range(0, 1000, 250) for action in asked(client, rows[at : at + 250])]

    assert len(actions) == 1000
    assert actions == expected


def test_golden_observations_one_by_one(served: tuple[Agent, Service]) -> None:
    """Every fourth recorded observation through ``/act``, by itself, gets the native action too."""
    agent, service = served
    observations, expected = agent.golden

    actions = []
    with Client(service.port) as client:
        for row in observations[::4].tolist():
            status, told = client.post("/act", {"session": "one-by-one", "observation": row})
            assert (status, told["source"], told["propensity_ok"]) == (200, "policy", True), told
            actions.append(told["action"])

    assert actions == expected[::4]
