"""A Stable-Baselines3 zip, read from its texts and tensors alone: neither SB3 nor gym, and nothing is unpickled."""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from export.archive import TENSOR_CAP, load_tensors_only, members_of, sha256_of, tensors_of
from export.errors import CheckpointRefused
from export.spec import Array, Discrete, Field, Fields, ObservationSpace

_DATA_CAP = 64 * 1024 * 1024
_TEXT_CAP = 1024 * 1024
# What gym once wrote for "no bound": the largest float32.
_UNBOUNDED = 3.4e38
# Keyword arguments of a policy that change training, or continuous actions, but not which action is best.
_HARMLESS = frozenset(
    """device full_std log_std_init lr_schedule n_critics normalize_images optimizer_class optimizer_kwargs ortho_init
    sde_net_arch share_features_extractor squash_output use_expln use_sde""".split()
)
_READ = frozenset({"activation_fn", "features_extractor_class", "features_extractor_kwargs", "net_arch"})
_FLATTEN = "<class 'stable_baselines3.common.torch_layers.FlattenExtractor'>"


@dataclass(frozen=True, slots=True)
class Sb3Checkpoint:
    """The texts and tensors of a zip; values that exist only in pickled form are not among them."""

    policy_module: str
    policy_class: str
    version: str
    sha256: str
    texts: Mapping[str, object] = field(repr=False)
    kwargs: Mapping[str, object] = field(repr=False)
    tensors: Mapping[str, torch.Tensor] = field(repr=False)


def read_sb3(data: bytes) -> Sb3Checkpoint:
    """Read a zip that ``model.save`` of Stable-Baselines3 1.0rc0 or later wrote.

    Raises CheckpointRefused where that cannot be done from texts and tensors alone.
    """
    caps = {"data": _DATA_CAP, "policy.pth": TENSOR_CAP, "_stable_baselines3_version": 64}
    members = members_of(data, caps)
    for name in ("data", "policy.pth"):
        if name not in members:
            msg = f"the zip has no member {name!r}: expected one that Stable-Baselines3 1.0 or later saved"
            raise CheckpointRefused(msg)
    texts = _texts(members["data"])
    policy_class = texts.get("policy_class")
    if not isinstance(policy_class, dict) or not isinstance(policy_class.get("__module__"), str):
        msg = "the zip's policy_class exists only in pickled form, which is never opened: save it anew with SB3 >= 1.0"
        raise CheckpointRefused(msg)
    named = re.match(r"<function (\w+)\.__init__ at", str(policy_class.get("__init__", "")))
    kwargs = texts.get("policy_kwargs") or {}
    if not isinstance(kwargs, dict):
        msg = f"policy_kwargs is a {type(kwargs).__name__}, expected a table"
        raise CheckpointRefused(msg)
    return Sb3Checkpoint(
        policy_module=policy_class["__module__"],
        policy_class=named[1] if named else "",
        version=members.get("_stable_baselines3_version", b"").decode("ascii", "replace").strip(),
        sha256=sha256_of(data),
        texts=texts,
        kwargs=_known(kwargs),
        tensors=tensors_of(load_tensors_only(members["policy.pth"], "policy.pth"), "policy.pth"),
    )


def _texts(data: bytes) -> dict[str, object]:
    """Parse ``data`` and drop what is pickled on sight."""

    def without_pickles(pairs: list[tuple[str, object]]) -> dict[str, object]:
        return {key: value for key, value in pairs if key != ":serialized:"}

    try:
        texts = json.loads(data, object_pairs_hook=without_pickles)
    except (ValueError, RecursionError) as error:
        msg = f"the zip's member 'data' is not JSON: {error}"
        raise CheckpointRefused(msg) from error
    if not isinstance(texts, dict):
        msg = "the zip's member 'data' is not a JSON object"
        raise CheckpointRefused(msg)
    return texts


def _known(kwargs: dict[str, object]) -> dict[str, object]:
    found = {key: value for key, value in kwargs.items() if key != ":type:"}
    for key in found.keys() - _HARMLESS - _READ:
        msg = f"policy_kwargs has {key!r}, which is not known here: a network built with it might be another one"
        raise CheckpointRefused(msg)
    extractor = found.get("features_extractor_class", _FLATTEN)
    if extractor != _FLATTEN or literal(found.get("features_extractor_kwargs", {})) != {}:
        msg = f"the features extractor is {extractor}, expected SB3's FlattenExtractor: custom code is never run"
        raise CheckpointRefused(msg)
    return found


def literal(value: object) -> object:
    """Give the plain value of what SB3 wrote as JSON or as the text of a Python literal; else refuse it."""
    if not isinstance(value, str):
        return value
    if len(value) > _TEXT_CAP:
        msg = f"the zip's text {value[:60]!r}... has {len(value)} characters, expected at most {_TEXT_CAP}"
        raise CheckpointRefused(msg)
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        msg = f"the zip's text {value[:60]!r} is not a plain value"
        raise CheckpointRefused(msg) from error


def layers(value: object, key: str) -> tuple[int, ...]:
    """Check a list of layer widths found in ``net_arch``."""
    if not isinstance(value, (list, tuple)) or len(value) > 64:
        msg = f"net_arch{key} is {value!r}, expected a list of layer widths"
        raise CheckpointRefused(msg)
    for width in value:
        if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= 65536:
            msg = f"net_arch{key} has {width!r}, expected widths between 1 and 65536"
            raise CheckpointRefused(msg)
    return tuple(value)


def actions_of(found: Sb3Checkpoint) -> Discrete:
    """Read the action space, which has to be Discrete; actions are named ``action_0`` and so on."""
    kind, text = _space(found, "action_space")
    if kind != "Discrete":
        msg = f"the action space is {kind}, expected Discrete: other ones are not written yet"
        raise CheckpointRefused(msg)
    count = _integer(text, "n", 65536)
    return Discrete(names=tuple(f"action_{index}" for index in range(count)))


def observations_of(found: Sb3Checkpoint) -> ObservationSpace:
    """Read the observation space: a Box of vectors or small arrays, or Discrete (one field ``state``)."""
    kind, text = _space(found, "observation_space")
    if kind == "Discrete":
        if literal(text.get("start", 0)) != 0:
            msg = f"the Discrete observation space starts at {text['start']}, expected 0"
            raise CheckpointRefused(msg)
        count = _integer(text, "n", 65536)
        return Fields(fields=(Field(name="state", low=0, high=count - 1),), dtype="int64")
    if kind != "Box":
        msg = f"the observation space is {kind}, expected Box or Discrete: other ones are not read yet"
        raise CheckpointRefused(msg)
    shape = literal(text.get("_shape", text.get("shape")))
    if not isinstance(shape, (list, tuple)) or not 1 <= len(shape) <= 4 or not all(_whole(size) for size in shape):
        msg = f"the observation space has the shape {shape!r}, expected one to four sizes"
        raise CheckpointRefused(msg)
    if len(shape) == 3 and text.get("dtype") == "uint8":
        msg = f"the observations are images of shape {shape!r}, expected vectors: images are not read yet"
        raise CheckpointRefused(msg)
    if len(shape) > 1:
        return Array(shape=tuple(shape))
    low, high = (bounds(text.get(key), shape[0]) for key in ("low", "high"))
    names = [f"obs_{index}" for index in range(shape[0])]
    return Fields(fields=tuple(Field(name=n, low=a, high=b) for n, a, b in zip(names, low, high, strict=True)))


def bounds(text: object, count: int) -> tuple[float | None, ...]:
    """Read ``count`` bounds from the text of an array; None for those that are infinite, left out or not printed."""
    words = str(text).replace("[", " ").replace("]", " ").split()
    # NumPy prints long arrays with "..." in the middle: then no bound is known.
    if len(words) != count:
        return (None,) * count
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        msg = f"the bounds {str(text)[:60]!r} of the observation space are not numbers"
        raise CheckpointRefused(msg) from error
    return tuple(value if abs(value) < _UNBOUNDED else None for value in values)


def _space(found: Sb3Checkpoint, key: str) -> tuple[str, Mapping[str, object]]:
    text = found.texts.get(key)
    named = re.search(r"(\w+)'>$", str(text.get(":type:", ""))) if isinstance(text, dict) else None
    if named is None or not isinstance(text, dict):
        msg = f"the zip's {key} exists only in pickled form, which is never opened"
        raise CheckpointRefused(msg)
    return named[1], text


def _integer(text: Mapping[str, object], key: str, most: int) -> int:
    value = literal(text.get(key))
    if not isinstance(value, int) or not _whole(value) or value > most:
        msg = f"the space's {key} is {value!r}, expected a whole number between 1 and {most}"
        raise CheckpointRefused(msg)
    return value


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
