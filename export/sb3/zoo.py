"""RL Zoo's ``config.yml`` and ``args.yml`` beside a zip: what they say was done around the policy."""

import ast
import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from export.errors import CheckpointRefused
from export.inert_arrays import kind_of
from export.inert_yaml import Tagged, read_yaml

# Wrappers by the last part of their name that change rewards, endings and records, and nothing that a policy sees or
# does: of Gymnasium, Stable-Baselines3, sb3-contrib and RL Zoo.
_HARMLESS = frozenset(
    """Autoreset ClipReward ClipRewardEnv DelayedRewardWrapper DoneOnSuccessWrapper DummyVecEnv Monitor NoopResetEnv
    NormalizeReward OrderEnforcing PassiveEnvChecker RecordEpisodeStatistics RecordVideo SubprocVecEnv TimeLimit
    TransformReward VecCheckNan VecMonitor VecTransposeImage VecVideoRecorder""".split()
)
_STACKS = {"VecFrameStack": "n_stack", "FrameStack": "num_stack", "FrameStackObservation": "stack_size"}
_NO = frozenset({"", "false", "no", "off", "none", "null", "0"})
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class Zoo:
    """What a file says was around a policy as it was trained.

    ``normalised`` says whether its observations went through VecNormalize, None where a file that RL Zoo did not write
    says nothing of it. ``stacks`` and ``wrappers`` are each what the file says, and so many frames (0 for an unknown
    number), or the wrapper's name and its keyword arguments.
    """

    normalised: bool | None
    normalise: str
    stacks: tuple[tuple[str, int], ...]
    wrappers: tuple[tuple[str, Mapping[object, object]], ...]


@dataclass(frozen=True, slots=True)
class Given:
    """What an export does around the policy: ``normalised`` is None where people say that it is to do nothing."""

    normalised: bool | None
    frames: int | None = None
    time_feature: int | None = None


def read_zoo(data: bytes, name: str, *, foreign: bool = False) -> Zoo:
    """Read what RL Zoo wrote; raises CheckpointRefused where it cannot be read.

    ``foreign`` files lie where RL Zoo has none: they count only where they have what its own have.
    """
    value = read_yaml(data, name)
    table = _table(value)
    if table is None:
        msg = f"{name} holds {kind_of(value)}, expected a table, as RL Zoo writes it"
        raise CheckpointRefused(msg)
    # What args.yml has under hyperparams was said on the command line.
    told = {**(_table(table.get("hyperparams")) or {}), **table}
    whole = {"policy", "n_timesteps"} <= told.keys()
    if foreign and not (whole or {"algo", "env"} <= told.keys()):
        return Zoo(None, "", (), ())
    around = [*_wrappers(told.get("env_wrapper")), *_wrappers(told.get("vec_env_wrapper"))]
    normalised, text = _normalise(told, around)
    stacks = [("frame_stack", told.get("frame_stack"))]
    stacks += [(f"the wrapper {full}", options.get(_STACKS[last])) for full, last, options in around if last in _STACKS]
    left = tuple(
        (full, options)
        for full, last, options in around
        if last not in _HARMLESS and last not in _STACKS and last != "VecNormalize"
    )
    return Zoo(
        normalised=normalised if text or whole else None,
        normalise=text,
        stacks=tuple((what, number) for what, value in stacks if (number := _frames(value)) != 1),
        wrappers=left,
    )


def contradictions(zoo: Zoo, name: str, given: Given) -> Iterator[str]:
    """Say each thing that a file says of the training and that an export does not do, with the ways out."""
    if zoo.normalised and given.normalised is False:
        yield (
            f"{name} says {zoo.normalise}, but no statistics of observations are found or given: say --normalisation "
            "FILE with those of its training, or --ignore-normalisation to leave them out"
        )
    if zoo.normalised is False and given.normalised:
        yield (
            f"{name} says {zoo.normalise or 'nothing of normalize'}, so that observations were not normalised, but "
            "statistics lie beside the zip: say --ignore-normalisation, or --normalisation FILE if they are its own"
        )
    for what, frames in zoo.stacks:
        if given.frames is None or frames not in (0, given.frames):
            found = "is not given" if given.frames is None else f"is {given.frames}"
            yield (
                f"{name} says {what} = {frames or 'an unknown number'}, but --frame-stack {found}: say --frame-stack "
                f"{frames or 'FRAMES'}, or --ignore-config if callers send stacked frames"
            )
    for wrapper, options in zoo.wrappers:
        if wrapper.rpartition(".")[2] != "TimeFeatureWrapper":
            yield (
                f"{name} says env_wrapper = {wrapper}, which is not known here and may change what the policy sees or "
                "does: have callers do what it did, and say --ignore-config"
            )
        elif given.time_feature is None:
            yield (
                f"{name} says env_wrapper = {wrapper}, but --time-feature is not given: say --time-feature "
                f"{options.get('max_steps', 'STEPS')} (the steps of an episode), or --ignore-config if callers send it"
            )


def _table(value: object) -> Mapping[object, object] | None:
    """Give a table, plain or as YAML has an OrderedDict or another object's state; None for anything else."""
    if isinstance(value, Tagged):
        found = _pairs(value.value)
        return _table(value.value) if found is None else found
    return value if isinstance(value, Mapping) else {} if value is None else None


def _pairs(value: object) -> Mapping[object, object] | None:
    """Read the arguments of an OrderedDict: one list of pairs."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 2 for one in value):
        return None
    return {key: one for key, one in value if isinstance(key, str)}


def _normalise(
    told: Mapping[object, object], around: Sequence[tuple[str, str, Mapping[object, object]]]
) -> tuple[bool, str]:
    """Say whether observations were normalised, and what says so; an unknown way of saying something is a yes."""
    for full, last, options in around:
        if last == "VecNormalize" and options.get("norm_obs", True):
            return True, f"vec_env_wrapper = {full}"
    if "normalize" not in told:
        return False, ""
    value = _literal(told["normalize"])
    text = f"normalize = {_said(told['normalize'])}"
    kwargs = _table(told.get("normalize_kwargs")) or {}
    if isinstance(value, Mapping):
        kwargs = {**kwargs, **value}
    elif not value or (isinstance(value, str) and value.strip().lower() in _NO):
        return False, text
    return bool(kwargs.get("norm_obs", True)), text


def _literal(value: object) -> object:
    """Give what RL Zoo would evaluate a text to, where it is a plain value or ``dict(...)`` of some; else the text."""
    if isinstance(value, Tagged):
        return _table(value) or True
    if not isinstance(value, str):
        return value
    with (
        contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        node = ast.parse(value.strip(), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
        return ast.literal_eval(node)
    return value


def _frames(value: object) -> int:
    """Give how many frames are stacked, 1 for none and 0 for a number that cannot be read."""
    value = _literal(value)
    if value is None or value is False or (isinstance(value, str) and value.strip().lower() in _NO):
        return 1
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return max(int(value), 1)
    return 0


def _wrappers(value: object) -> Iterator[tuple[str, str, Mapping[object, object]]]:
    """Give the wrappers that a file names: full name, last part of it, keyword arguments."""
    value = value if isinstance(value, Tagged) else _literal(value)
    if isinstance(value, Mapping):
        for name, options in value.items():
            full = _said(name)
            yield full, full.rpartition(".")[2], _table(options) or {}
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _wrappers(one)
    elif value and not (isinstance(value, str) and value.strip().lower() in _NO):
        full = value.tag if isinstance(value, Tagged) else _said(value)
        yield full, full.rpartition(".")[2], {}


def _said(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
