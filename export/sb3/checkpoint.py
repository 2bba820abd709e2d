"""A Stable-Baselines3 zip, read from its texts and tensors alone: neither SB3 nor gym, and nothing is unpickled."""

import ast
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from export.archive import TENSOR_CAP, load_tensors_only, members_of, sha256_of, tensors_of
from export.errors import CheckpointRefused, OptionInvalid
from export.networks import ACTIVATIONS
from export.sb3.pickled_spaces import Bounds, bounds_by_key, types_in
from export.spec import Source
from export.spec.nearest import one_of

_DATA_CAP = 64 * 1024 * 1024
_TEXT_CAP = 1024 * 1024
_NAME = 200
# Where SB3 puts a value's pickle, beside its texts, and whose pickles are read as data.
_PICKLED = ":serialized:"
_SPACES = frozenset({"observation_space", "action_space"})
_SEEN, _BEFORE = "_last_obs", "_last_original_obs"
# What only algorithms with a replay buffer save.
_OFF_POLICY = frozenset({"replay_buffer_class", "buffer_size", "learning_starts"})
# Keyword arguments of a policy that change training, but not what the network answers.
_HARMLESS = frozenset("device lr_schedule n_critics optimizer_class optimizer_kwargs ortho_init".split())
# Those that the families read, or that a family needs to know of only where its actions are real numbers.
_READ = frozenset(
    """activation_fn clip_mean enable_critic_lstm features_extractor_class features_extractor_kwargs full_std
    log_std_init lstm_hidden_size lstm_kwargs n_lstm_layers n_quantiles net_arch normalize_images sde_net_arch
    share_features_extractor shared_lstm squash_output use_expln use_sde with_bias""".split()
)


@dataclass(frozen=True, slots=True)
class Sb3Checkpoint:
    """The texts and tensors of a zip; values that exist only in pickled form are not among them.

    ``bounds`` are those of the Boxes of a space, by the space's name and their key: see ``bounds_by_key``.
    """

    policy_module: str
    policy_class: str
    version: str
    sha256: str
    texts: Mapping[str, object] = field(repr=False)
    kwargs: Mapping[str, object] = field(repr=False)
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    bounds: Mapping[str, Mapping[str, Bounds]] = field(repr=False, default_factory=dict)

    def flag(self, key: str, default: bool) -> bool:
        """Give a keyword argument of the policy that says yes or no."""
        value = literal(self.kwargs.get(key, default))
        if not isinstance(value, bool):
            msg = f"policy_kwargs has {key} = {value!r}, expected true or false"
            raise CheckpointRefused(msg)
        return value

    def whole(self, key: str, default: int) -> int:
        """Give a keyword argument of the policy that is a whole number from 1 to 65536."""
        return whole(literal(self.kwargs.get(key, default)), f"policy_kwargs' {key}")


def read_sb3(data: bytes) -> Sb3Checkpoint:
    """Read a zip that ``model.save`` of Stable-Baselines3 or sb3-contrib wrote, from 0.8 (``tensors.pth``) to today's.

    Raises CheckpointRefused where that cannot be done from texts and tensors alone.
    """
    caps = {"data": _DATA_CAP, "policy.pth": TENSOR_CAP, "_stable_baselines3_version": 64}
    members = members_of(data, caps)
    for name in ("data", "policy.pth"):
        if name not in members:
            msg = f"the zip has no member {name!r}: expected one that Stable-Baselines3 saved"
            raise CheckpointRefused(msg)
    pickled: dict[str, object] = {}
    texts = _texts(members["data"], pickled)
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
        bounds={name: bounds_by_key(pickled.get(name)) for name in sorted(_SPACES)},
    )


def shows_vec_normalize(data: bytes) -> bool:
    """Say whether a zip shows by itself that a VecNormalize was around its policy as it was trained.

    On-policy algorithms, and ARS, keep the observation before normalisation only then. Off-policy ones always keep one,
    which shows something only where it is of another type than the one that the policy saw: VecNormalize gives float32.
    A file that is no such zip shows nothing.
    """
    with contextlib.suppress(CheckpointRefused):
        pickled: dict[str, object] = {}
        texts = _texts(members_of(data, {"data": _DATA_CAP}).get("data", b""), pickled)
        if texts.get(_BEFORE) is None:
            return False
        if not _OFF_POLICY & texts.keys():
            return True
        seen, before = (types_in(pickled.get(name)) for name in (_SEEN, _BEFORE))
        return any(key in before and before[key] != kind for key, kind in seen.items())
    return False


def _texts(data: bytes, pickled: dict[str, object] | None = None) -> dict[str, object]:
    """Parse ``data`` and take what is pickled out of it; what is read as data goes into ``pickled`` by its name."""
    try:
        texts = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"the zip's member 'data' is not JSON: {error}"
        raise CheckpointRefused(msg) from error
    if not isinstance(texts, dict):
        msg = "the zip's member 'data' is not a JSON object"
        raise CheckpointRefused(msg)
    for key, value in texts.items():
        found = value.pop(_PICKLED, None) if isinstance(value, dict) else None
        if pickled is not None and found is not None and key in (*_SPACES, _SEEN, _BEFORE):
            pickled[key] = found
    return {key: value for key, value in texts.items() if key != _PICKLED}


def _known(kwargs: dict[str, object]) -> dict[str, object]:
    found = {key: value for key, value in kwargs.items() if key != ":type:"}
    for key in found.keys() - _HARMLESS - _READ:
        msg = f"policy_kwargs has {key!r}, which is not known here: a network built with it might be another one"
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


def whole(value: object, what: str, most: int = 65536) -> int:
    """Check a whole number from 1 to ``most``; ``what`` names it in the refusal."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        msg = f"{what} is {value!r}, expected a whole number between 1 and {most}"
        raise CheckpointRefused(msg)
    return value


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


def activation(found: Sb3Checkpoint, default: str) -> type[torch.nn.Module]:
    """Give the activation that ``activation_fn`` names; ``default`` is the family's own."""
    text = found.kwargs.get("activation_fn")
    if text is None:
        return ACTIVATIONS[default]
    for name, kind in ACTIVATIONS.items():
        if text == f"<class 'torch.nn.modules.activation.{name}'>" or text == str(kind):
            return kind
    named = str(text)[:_NAME].rpartition(".")[2].rstrip("'>")
    msg = f"the activation is {str(text)[:80]}, expected of torch.nn {one_of(named, ACTIVATIONS)}"
    raise CheckpointRefused(msg)


def source_of(found: Sb3Checkpoint, algorithm: str) -> Source:
    """Say where a policy comes from."""
    return Source(
        library="stable-baselines3",
        algorithm=algorithm,
        library_version=found.version,
        checkpoint_sha256=found.sha256,
    )


def refuse_cvar(cvar: float | None) -> None:
    """Raise OptionInvalid where the worst outcomes are asked of a network that knows no distribution of them."""
    if cvar is not None:
        msg = f"the CVaR of {cvar:g} needs a network that knows a distribution of outcomes, which this family does not"
        raise OptionInvalid(msg)
