"""The real Stable-Baselines3, where it is installed, as the reference to compare with: its own ``predict``."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from export.meaning import Answers, Arrays
from export.sb3.checkpoint import Sb3Checkpoint, activation, literal
from export.sb3.features import extractor_of
from export.sb3.native_gaussian import gaussian_of
from export.sb3.normaliser import Normaliser
from export.sb3.q import lowest_of
from export.sb3.texts import Space, space_of
from export.spec import MASK, ActionSpace, Box, ObservationSpace

# The classes that may be made, by the module that a zip names. No zip can name any other.
_CLASSES: Mapping[str, frozenset[str]] = {
    "stable_baselines3.common.policies": frozenset(
        {"ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy"}
    ),
    "stable_baselines3.dqn.policies": frozenset({"DQNPolicy", "CnnPolicy", "MultiInputPolicy"}),
    "stable_baselines3.sac.policies": frozenset({"SACPolicy", "CnnPolicy", "MultiInputPolicy"}),
    "stable_baselines3.td3.policies": frozenset({"TD3Policy", "CnnPolicy", "MultiInputPolicy"}),
    "sb3_contrib.ars.policies": frozenset({"ARSPolicy", "ARSLinearPolicy"}),
    "sb3_contrib.common.maskable.policies": frozenset(
        {"MaskableActorCriticPolicy", "MaskableActorCriticCnnPolicy", "MaskableMultiInputActorCriticPolicy"}
    ),
    "sb3_contrib.common.recurrent.policies": frozenset(
        {"RecurrentActorCriticPolicy", "RecurrentActorCriticCnnPolicy", "RecurrentMultiInputActorCriticPolicy"}
    ),
    "sb3_contrib.qrdqn.policies": frozenset({"QRDQNPolicy", "CnnPolicy", "MultiInputPolicy"}),
    "sb3_contrib.tqc.policies": frozenset({"TQCPolicy", "CnnPolicy", "MultiInputPolicy"}),
}
# Keyword arguments with plain values, which decide what a policy computes.
_PLAIN = """clip_mean enable_critic_lstm features_extractor_kwargs full_std log_std_init lstm_hidden_size lstm_kwargs
    n_critics n_lstm_layers n_quantiles net_arch normalize_images share_features_extractor shared_lstm squash_output
    use_expln use_sde with_bias""".split()


class _Policy(Protocol):
    """What is used of SB3's BasePolicy."""

    def predict(self, observation: object, **options: object) -> tuple[NDArray[np.generic], object]: ...
    def obs_to_tensor(self, observation: object) -> tuple[object, bool]: ...
    def quantile_net(self, observation: object) -> torch.Tensor: ...
    def state_dict(self) -> Mapping[str, torch.Tensor]: ...
    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], *, strict: bool) -> object: ...


def native_of(
    found: Sb3Checkpoint,
    observation: ObservationSpace,
    action: ActionSpace,
    normaliser: Normaliser | None,
    *,
    recurrent: bool = False,
    cvar: float | None = None,
) -> tuple[Answers, str] | None:
    """Give the real library's answers and its name and version; None where it is not installed or cannot hold it.

    The policy is made from the zip's texts, by the name of a class that is on a list, and takes the same tensors. The
    answers are those of ``predict`` after VecNormalize's own arithmetic, which is worked out here in NumPy.
    """
    if found.policy_class not in _CLASSES.get(found.policy_module, ()):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module, spaces = (importlib.import_module(name) for name in (found.policy_module, "gymnasium.spaces"))
        except ImportError:
            return None
    policy = _policy(found, getattr(module, found.policy_class), spaces)
    if policy is None:
        return None
    library = importlib.import_module(found.policy_module.split(".")[0])
    name = f"{library.__name__.replace('_', '-')} {library.__version__}"
    space = space_of(found, "observation_space")
    parts = tuple(zip(observation.inputs, space.spaces or (("", space),), strict=True))

    def answers(inputs: Arrays) -> Arrays:
        by_key = {key: _seen(inputs[port.name], part.kind, key, normaliser) for port, (key, part) in parts}
        seen = by_key if space.spaces else by_key[""]
        if recurrent:
            return _remembering(policy, seen, inputs, action)
        if cvar is not None:
            return {"action": _cautious(policy, seen, cvar)}
        if MASK in inputs:
            chosen, _ = policy.predict(seen, deterministic=True, action_masks=inputs[MASK])
        else:
            chosen, _ = policy.predict(seen, deterministic=True)
        told = gaussian_of(policy, policy.obs_to_tensor(seen)[0]) if isinstance(action, Box) else {}
        return {"action": _action(chosen, action), **told}

    return answers, name


def _policy(found: Sb3Checkpoint, kind: Callable[..., _Policy], spaces: ModuleType) -> _Policy | None:
    """Make the real policy and give it the zip's tensors, all of them; None where it cannot hold them."""
    taken = inspect.signature(kind).parameters
    options = {key: value for key, value in _options(found).items() if key in taken}
    if "lr_schedule" in taken:
        options["lr_schedule"] = _no_learning
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            seen, done = (_gym(space_of(found, f"{name}_space"), spaces) for name in ("observation", "action"))
            policy = kind(seen, done, **options)
            policy.load_state_dict(_renamed(found.tensors, policy.state_dict()), strict=True)
        # Today's release does not know what some old ones could do, layers shared by actor and critic for instance.
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError):
            return None
    return policy


def _no_learning(_: float) -> float:
    return 0.0


def _options(found: Sb3Checkpoint) -> dict[str, object]:
    """Give the keyword arguments that the policy was made with."""
    options = {key: literal(found.kwargs[key]) for key in _PLAIN if found.kwargs.get(key) is not None}
    arch = options.get("net_arch")
    if isinstance(arch, list) and len(arch) == 1 and isinstance(arch[0], dict):
        options["net_arch"] = arch[0]
    # On-policy algorithms give this to the policy by themselves.
    options.setdefault("use_sde", found.texts.get("use_sde") is True)
    options["ortho_init"] = False
    if found.kwargs.get("activation_fn") is not None:
        options["activation_fn"] = activation(found, "ReLU")
    if found.kwargs.get("features_extractor_class") is not None:
        extractors = importlib.import_module("stable_baselines3.common.torch_layers")
        options["features_extractor_class"] = getattr(extractors, extractor_of(found))
    return options


def _renamed(tensors: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name tensors as today's release does: before 1.7 an extractor had one name where it has three today."""
    named = dict(tensors)
    for name in known.keys() - named.keys():
        for prefix in ("pi_", "vf_"):
            if name.startswith(f"{prefix}features_extractor.") and name.removeprefix(prefix) in tensors:
                named[name] = tensors[name.removeprefix(prefix)]
        # Before 1.7 sb3-contrib named a linear ARS policy's only layer without its number.
        if name == "action_net.0.weight" and "action_net.weight" in named:
            named[name] = named.pop("action_net.weight")
    return named


def _gym(space: Space, spaces: ModuleType) -> object:
    """Make the gymnasium space that a text describes."""
    if space.kind == "Dict":
        return spaces.Dict([(key, _gym(part, spaces)) for key, part in space.spaces])
    if space.kind == "Discrete":
        return spaces.Discrete(space.sizes[0], start=space.starts[0])
    if space.kind == "MultiDiscrete":
        return spaces.MultiDiscrete(list(space.sizes))
    if space.kind == "MultiBinary":
        return spaces.MultiBinary(space.shape if len(space.shape) > 1 else space.shape[0])
    if space.dtype == "uint8" and len(space.shape) == 3 and not space.image:
        # Its bounds may not be known in full; that they are not an image's is all that the policy sees of them.
        return spaces.Box(0, 254, space.shape, np.uint8)
    least, most = (0.0, 255.0) if space.dtype == "uint8" else (-np.inf, np.inf)
    low, high = (
        np.array([free if bound is None else bound for bound in side] or np.full(space.shape, free))
        .reshape(space.shape)
        .astype(space.dtype)
        for side, free in ((space.low, least), (space.high, most))
    )
    return spaces.Box(low, high, space.shape, np.dtype(space.dtype).type)


def _seen(rows: NDArray[np.generic], kind: str, key: str, normaliser: Normaliser | None) -> NDArray[np.generic]:
    """Give what the policy sees of one tensor: in SB3's form, and normalised as VecNormalize does it."""
    if kind == "Discrete":
        return rows[:, 0]
    if normaliser is None or not normaliser.norm_obs or key not in (normaliser.norm_obs_keys or normaliser.stats):
        return rows
    running = normaliser.stats[key]
    scaled = (rows.astype(np.float64) - running.mean) / np.sqrt(running.var + normaliser.epsilon)
    clipped: NDArray[np.float32] = np.clip(scaled, -normaliser.clip, normaliser.clip).astype(np.float32)
    return clipped


def _action(found: NDArray[np.generic], action: ActionSpace) -> NDArray[np.generic]:
    _, dtype, shape = action.port
    return found.reshape(-1, *shape).astype(dtype)


def _remembering(policy: _Policy, seen: object, inputs: Arrays, action: ActionSpace) -> Arrays:
    """Answer with a recurrent policy, whose own state has the layers first and the batch second."""
    state = tuple(np.moveaxis(inputs[f"memory.{name}.in"], 0, 1) for name in ("h", "c"))
    starts = np.zeros(state[0].shape[1], dtype=bool)
    found, after = policy.predict(seen, state=state, episode_start=starts, deterministic=True)
    if not isinstance(after, tuple):
        raise TypeError(after)
    memory = {f"memory.{name}.out": np.moveaxis(part, 0, 1) for name, part in zip(("h", "c"), after, strict=True)}
    told = gaussian_of(policy, policy.obs_to_tensor(seen)[0], state) if isinstance(action, Box) else {}
    return {"action": _action(found, action), **memory, **told}


def _cautious(policy: _Policy, seen: object, cvar: float) -> NDArray[np.generic]:
    """Choose by the mean of each action's lowest quantiles, which ``predict`` has no option for."""
    with torch.no_grad():
        tensors, _ = policy.obs_to_tensor(seen)
        quantiles = np.sort(policy.quantile_net(tensors).numpy(), axis=1)
    return np.asarray(quantiles[:, : lowest_of(quantiles.shape[1], cvar)].mean(axis=1).argmax(axis=1))
