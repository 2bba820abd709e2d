"""Trains the DQN: `python examples/autoscaler/train.py` writes the checkpoint, its evaluation and sample observations.

The network is trained on standardised observations, and the scaling is then folded into its first layer, so that the
saved checkpoint is an ordinary Stable-Baselines3 DQN that takes observations in raw units.
"""

import argparse
import json
import sys
import tempfile
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

if not __package__:  # run as a file: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.autoscaler.checkpoint import as_network, read_network
from examples.autoscaler.dynamics import FIELDS, STEP_SECONDS, Service, State, observation, vector
from examples.autoscaler.environment import AutoscalerEnv
from examples.autoscaler.episode import play
from examples.autoscaler.evaluate import (
    CHECKPOINT,
    EVALUATION_DAYS,
    EVALUATION_SEED,
    compare,
    generated_days,
    measure,
)
from examples.autoscaler.greedy import Greedy, Network
from examples.autoscaler.hpa import TARGET

Seen: TypeAlias = NDArray[np.float32]
Info: TypeAlias = dict[str, Any]

TIMESTEPS: Final = 500_000
ENVIRONMENTS: Final = 8
VALIDATION_SEED: Final = 8
VALIDATION_DAYS: Final = 12
VALIDATE_EVERY: Final = 40_000
SAMPLE: Final = 2_000
TOLERANCE: Final = 0.05

# What "standardised" means here: rough centres and spreads of the fields under a sensible controller, by name.
SCALING: Final = {
    "rps": (200.0, 150.0),
    "load": (0.7, 0.1),
    "load_mean": (0.7, 0.1),
    "load_trend": (0.0, 0.02),
    "load_peak": (0.75, 0.15),
    "load_down_1": (0.85, 0.2),
    "cpu": (0.7, 0.1),
    "p95_ms": (400.0, 3000.0),  # wide: in an overload it is 30 times the usual
    "replicas": (7.0, 5.0),
    "pending": (0.5, 1.0),
}
MEAN: Final = np.array([SCALING[field.name][0] for field in FIELDS])
STD: Final = np.array([SCALING[field.name][1] for field in FIELDS])


class Shaped(gymnasium.Wrapper[Seen, np.int64, Seen, np.int64]):
    """The environment as the learner likes it: standardised observations, a smaller and less noisy reward.

    Three changes to the reward, in training alone. The cost of serving the arrivals at 72 % utilisation is added back:
    it depends on no action, so it moves every policy's return alike. The penalty rises linearly over a band around the
    objective in place of a jump at it, which tells near misses from wide ones. And minutes far beyond it count less:
    a burst that nothing could have met is mostly noise to the learner.
    """

    REWARD_SCALE = 0.5  # keeps TD errors where DQN's Huber loss is quadratic, so that rare breaches count in full
    BAND_MS = 40.0  # the penalty rises from this far below the objective to as far above it
    LOST_MS = 1000.0  # so far above it the minute is lost
    LOST_SHARE = 0.5  # of the penalty
    PENALTY = 4.0  # above the environment's 2, for what the lost share and the discount until a replica is ready take

    def __init__(self, env: AutoscalerEnv) -> None:
        super().__init__(env)
        self._inner = env
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(FIELDS),), np.float32)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Seen, Info]:
        seen, info = self.env.reset(seed=seed, options=options)
        return standardised(seen), info

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, Info]:
        seen, reward, terminated, truncated, info = self.env.step(action)
        service, over = self._inner.service, self._inner.state.p95_ms - self._inner.service.slo_ms
        ramp = min(1.0, max(0.0, (over + self.BAND_MS) / (2 * self.BAND_MS)))
        if over > self.LOST_MS:
            ramp = self.LOST_SHARE
        fair_cost = service.price * info["arrivals"] / STEP_SECONDS / service.replica_rps / 0.72
        shaped = float(reward) + service.penalty * info["breached"] - self.PENALTY * ramp + fair_cost
        return standardised(seen), self.REWARD_SCALE * shaped, terminated, truncated, info


def standardised(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raw observations, [F] or [N, F], in the units that the network is trained on."""
    scaled: NDArray[np.float32] = ((observations - MEAN) / STD).astype(np.float32)
    return scaled


def folded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A Q-network's parameters with the scaling inside its first layer, exactly, so that the wire keeps raw units.

    W (x - mean) / std + b = W' x + b' with W' = W / std and b' = b - W (mean / std), for every x. In float64 up to the
    last step, where SB3's float32 rounds once.
    """
    first, bias = weights["q_net.0.weight"].double(), weights["q_net.0.bias"].double()
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    changed = {"q_net.0.weight": (first / std).float(), "q_net.0.bias": (bias - first @ (mean / std)).float()}
    return {name: changed.get(name, value.clone()) for name, value in weights.items()}


class KeepBest(BaseCallback):
    """Averages the network's parameters as it trains, validates the average now and then, and keeps the best.

    Q-values of good and better actions differ by little, and every single network is a noisy one; the running mean
    over the last `AVERAGED` steps is a much steadier policy (Polyak averaging).
    """

    AVERAGED = 60_000.0

    def __init__(self, first: int) -> None:
        super().__init__()
        self._days = generated_days(VALIDATION_SEED, VALIDATION_DAYS)
        self._next = first
        self._mean: dict[str, torch.Tensor] = {}
        self.best: dict[str, torch.Tensor] = {}
        self.reward = -np.inf

    @property
    def _dqn(self) -> DQN:
        return cast("DQN", self.model)

    def _on_step(self) -> bool:
        share = ENVIRONMENTS / min(self.AVERAGED, self.num_timesteps / 4)
        with torch.no_grad():
            for name, value in self._dqn.q_net.state_dict().items():
                self._mean.setdefault(name, value.clone()).lerp_(value, share)
        if self.num_timesteps >= self._next:
            self._next += VALIDATE_EVERY
            self._validate()
        return True

    def _on_training_end(self) -> None:
        self._validate()

    def _validate(self) -> None:
        weights = folded(self._mean)
        network = as_network(weights)
        totals = measure(self._days, lambda: Greedy(network, Service()).change, Service())
        print(
            f"{self.num_timesteps:>8d} steps: validation return {totals.reward:.1f}, "
            f"{totals.breach_minutes} SLO-breach minutes, {totals.mean_replicas:.3f} replicas",
            flush=True,
        )
        if totals.reward > self.reward:
            self.reward, self.best = totals.reward, weights


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training run may be told."""

    timesteps: int = TIMESTEPS
    seed: int = 0


def learn(settings: Settings) -> dict[str, torch.Tensor]:
    """Train, and give the best Q-network's parameters, scaling folded in. Deterministic in the seed on one machine."""
    torch.set_num_threads(1)
    environments = DummyVecEnv([lambda: Shaped(AutoscalerEnv()) for _ in range(ENVIRONMENTS)])
    environments.seed(1000 * (settings.seed + 1))
    with warnings.catch_warnings():
        # Eight environments step at once, so "after every step" means after every eight: as intended.
        warnings.filterwarnings("ignore", message="The number of environments used is greater")
        model = DQN(
            "MlpPolicy",
            environments,
            learning_rate=lambda left: 7e-4 * max(left, 0.05),
            buffer_size=200_000,
            learning_starts=5_000,
            batch_size=512,
            gamma=0.92,
            train_freq=1,
            gradient_steps=2,
            tau=0.002,
            target_update_interval=1,
            exploration_fraction=0.2,
            exploration_final_eps=0.02,
            policy_kwargs={"net_arch": [64, 64]},
            seed=settings.seed,
            device="cpu",
        )
    keep = KeepBest(settings.timesteps // 2)
    model.learn(settings.timesteps, callback=keep)
    return keep.best


def save(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write the parameters as an SB3 checkpoint over the raw environment: no optimiser state, no replay buffer."""
    model = DQN("MlpPolicy", AutoscalerEnv(), buffer_size=1, policy_kwargs={"net_arch": [64, 64]}, seed=0, device="cpu")
    model.q_net.load_state_dict(weights)
    model.q_net_target.load_state_dict(weights)
    model.save(path)


def sample(network: Network) -> NDArray[np.float32]:
    """Raw observations, float32 [SAMPLE, F], spread over the policy's own validation days: its training statistics."""
    seen: list[NDArray[np.float32]] = []
    for trace in generated_days(VALIDATION_SEED, VALIDATION_DAYS):
        greedy = Greedy(network, Service())

        def watched(state: State, greedy: Greedy = greedy) -> int:
            seen.append(vector(observation(state, Service())))
            return greedy.change(state)

        play(trace, watched, Service())
    places = np.linspace(0, len(seen) - 1, SAMPLE).astype(int)
    spread: NDArray[np.float32] = np.stack(seen)[places]
    return spread


def describe(settings: Settings, folder: Path, *, date: str) -> None:
    """Write evaluation.json, results.json (the form that `actd-export --evaluation` reads) and observations.npz."""
    network = read_network(folder / CHECKPOINT.name)
    days = generated_days(EVALUATION_SEED, EVALUATION_DAYS)
    rewards = [play(day, Greedy(network, Service()).change, Service()).reward for day in days]
    rows = {name: totals.as_json() for name, totals in compare(days, network, (TARGET,)).items()}
    results = {
        "env": "examples.autoscaler.environment:AutoscalerEnv",
        "mean_reward": round(float(np.mean(rewards)), 3),
        "std_reward": round(float(np.std(rewards)), 3),
        "is_deterministic": True,
        "n_eval_episodes": EVALUATION_DAYS,
        "eval_datetime": date,
    }
    evaluation = {
        "timesteps": settings.timesteps,
        "seed": settings.seed,
        "rewards": [round(reward, 3) for reward in rewards],
        "controllers": rows,
    }
    for name, content in (("results.json", results), ("evaluation.json", evaluation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "observations.npz", observations=sample(network))
    print(json.dumps(rows, indent=2))


def check(settings: Settings) -> int:
    """Train anew beside the committed checkpoint: 0 when the returns on the evaluation days are within 5 %."""
    days = generated_days(EVALUATION_SEED, EVALUATION_DAYS)
    with tempfile.TemporaryDirectory() as folder:
        save(learn(settings), Path(folder) / CHECKPOINT.name)
        networks = [read_network(path) for path in (Path(folder) / CHECKPOINT.name, CHECKPOINT)]
    fresh, committed = (compare(days, network, ())["policy"].reward for network in networks)
    apart = abs(fresh - committed) / abs(committed)
    verdict = "within" if apart <= TOLERANCE else "NOT within"
    print(f"return {fresh:.1f}, of the committed checkpoint {committed:.1f}")
    print(f"{apart:.2%} apart, {verdict} {TOLERANCE:.0%}")
    return 0 if apart <= TOLERANCE else 1


def main() -> int:
    """Train; with --check compare with the committed checkpoint and leave it alone."""
    parser = argparse.ArgumentParser(description="Train the autoscaler's DQN.")
    parser.add_argument("--timesteps", type=int, default=TIMESTEPS, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--out", type=Path, default=CHECKPOINT.parent, help="the folder to write to")
    parser.add_argument("--check", action="store_true", help="compare with the committed checkpoint, write nothing")
    options = parser.parse_args()
    settings = Settings(options.timesteps, options.seed)
    if options.check:
        return check(settings)
    options.out.mkdir(parents=True, exist_ok=True)
    save(learn(settings), options.out / CHECKPOINT.name)
    describe(settings, options.out, date=datetime.now(UTC).date().isoformat())
    return 0


if __name__ == "__main__":
    sys.exit(main())
