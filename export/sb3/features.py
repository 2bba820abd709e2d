"""What Stable-Baselines3 does with an observation before the first layer, as one module."""

import math
from dataclasses import dataclass

from torch import nn

from export.errors import CheckpointRefused
from export.networks import Float, Joined, Normalised, OneHots, Tensors
from export.sb3.checkpoint import Sb3Checkpoint, literal, whole
from export.sb3.normaliser import Normaliser
from export.sb3.texts import Space, space_of
from export.spec.spaces import ObservationSpace

_LAYERS = "stable_baselines3.common.torch_layers"
_FLATTEN, _NATURE, _COMBINED = "FlattenExtractor", "NatureCNN", "CombinedExtractor"
# The three convolutions of the DQN Nature paper (Mnih et al., 2015): channels out, kernel, stride.
_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


@dataclass(frozen=True, slots=True)
class Features:
    """From observation to features: ``module`` takes the observation's tensors in order, gives float32 ``[N, width]``.

    ``inside`` says for people what it does.
    """

    module: nn.Module
    width: int
    inside: tuple[str, ...]


def extractor_of(found: Sb3Checkpoint) -> str:
    """Name the class of SB3's that extracts features; refuses any other, since its code would have to be run."""
    text = found.kwargs.get("features_extractor_class")
    if text is None:
        name = found.policy_class
        return _NATURE if "Cnn" in name else _COMBINED if "MultiInput" in name else _FLATTEN
    for name in (_FLATTEN, _NATURE, _COMBINED):
        if text == f"<class '{_LAYERS}.{name}'>":
            return name
    msg = (
        f"the features extractor is {text}, expected SB3's {_FLATTEN}, {_NATURE} or {_COMBINED}: custom code never runs"
    )
    raise CheckpointRefused(msg)


def arch_of(found: Sb3Checkpoint) -> object:
    """Give ``net_arch`` as it was given; None where the policy took its default."""
    return literal(found.kwargs.get("net_arch"))


def features_of(
    found: Sb3Checkpoint,
    tensors: Tensors,
    observation: ObservationSpace,
    normaliser: Normaliser | None,
    prefix: str = "features_extractor.",
) -> Features:
    """Build what comes before the first layer: VecNormalize, SB3's preprocessing, and its features extractor.

    ``prefix`` is what the extractor's tensors are named with. Raises CheckpointRefused for an extractor that is not
    SB3's own and for statistics of another shape, TensorsUnaccounted where its tensors are not there.
    """
    extractor = _extractor(found)
    space = space_of(found, "observation_space")
    parts = space.spaces or (("", space),)
    if bool(space.spaces) != (extractor.name == _COMBINED):
        msg = f"the features extractor is {extractor.name} for a {space.kind}, expected {_COMBINED} for a Dict alone"
        raise CheckpointRefused(msg)
    _refuse_unknown_keys(normaliser, dict(parts))
    built = []
    for (key, part), port in zip(parts, observation.inputs, strict=True):
        before = _joined(_normalised(part, key, normaliser, port.name), _preprocessed(found, part, port.name))
        name = f"{prefix}extractors.{key}." if key else prefix
        built.append(_joined(before, _extracted(extractor, tensors, name, part, port.name)))
    inside = tuple(step for part in built for step in part.inside)
    if space.spaces:
        inside += (f"joined in the order {', '.join(key for key, _ in parts)}",)
    return Features(Joined([part.module for part in built]), sum(part.width for part in built), inside)


def actor_prefix(found: Sb3Checkpoint, tensors: Tensors) -> str:
    """Name the extractor that the actor of an actor-critic reads, and set the other copies and the critic's aside.

    Since SB3 1.8 a state dict has it under ``pi_features_extractor`` and again under ``features_extractor``.
    """
    if not tensors.has("pi_features_extractor."):
        return "features_extractor."
    tensors.set_copy_aside("features_extractor.", of="pi_features_extractor.")
    if found.flag("share_features_extractor", default=True):
        tensors.set_copy_aside("vf_features_extractor.", of="pi_features_extractor.")
    tensors.set_aside("vf_features_extractor.")
    return "pi_features_extractor."


@dataclass(frozen=True, slots=True)
class _Extractor:
    """A features extractor: its class, how many features each image gives, whether any three axes are an image."""

    name: str
    size: int
    normalised: bool


def _extractor(found: Sb3Checkpoint) -> _Extractor:
    """Read ``features_extractor_kwargs``; refuses what the extractor does not have."""
    name = extractor_of(found)
    option, default = {_NATURE: ("features_dim", 512), _COMBINED: ("cnn_output_dim", 256)}.get(name, ("", 1))
    options = literal(found.kwargs.get("features_extractor_kwargs") or {})
    known = {option, "normalized_image"} if option else set()
    if not isinstance(options, dict) or options.keys() - known:
        msg = f"features_extractor_kwargs is {options!r}, expected no other keys than {sorted(known)}: this is {name}"
        raise CheckpointRefused(msg)
    size = whole(options.get(option, default), f"features_extractor_kwargs' {option}")
    normalised = options.get("normalized_image") is True or not found.flag("normalize_images", default=True)
    return _Extractor(name, size, normalised)


def _refuse_unknown_keys(normaliser: Normaliser | None, parts: dict[str, Space]) -> None:
    if normaliser is None or not normaliser.norm_obs:
        return
    for key in normaliser.norm_obs_keys or normaliser.stats:
        if key not in parts or key not in normaliser.stats:
            where = f"for the key {key!r}" if key else "for a single observation"
            msg = (
                f"{normaliser.name}: the statistics are {where}, expected ones for this policy's observation: "
                f"{sorted(parts)}"
            )
            raise CheckpointRefused(msg)


def _joined(first: Features, second: Features) -> Features:
    """Put two steps one after the other."""
    return Features(nn.Sequential(first.module, second.module), second.width, first.inside + second.inside)


def _normalised(part: Space, key: str, normaliser: Normaliser | None, port: str) -> Features:
    """What VecNormalize does with one tensor."""
    width = math.prod(part.shape)
    if normaliser is None or not normaliser.norm_obs or key not in (normaliser.norm_obs_keys or normaliser.stats):
        return Features(nn.Identity(), width, ())
    running = normaliser.stats[key]
    if running.mean.shape != part.shape:
        msg = (
            f"{normaliser.name}: the statistics of {port} have the shape {list(running.mean.shape)}, expected "
            f"{list(part.shape)}, that of the policy's observation: --normalisation FILE names others"
        )
        raise CheckpointRefused(msg)
    module = Normalised(running.mean, running.var, normaliser.epsilon, normaliser.clip)
    return Features(module, width, (f"{port}: VecNormalize in float64, clipped to {normaliser.clip:g}",))


def _preprocessed(found: Sb3Checkpoint, part: Space, port: str) -> Features:
    """What SB3's ``preprocess_obs`` does with one tensor."""
    if part.kind in ("Discrete", "MultiDiscrete"):
        states = " + ".join(map(str, part.sizes))
        return Features(
            OneHots(part.sizes), sum(part.sizes), (f"{port}: one-hot over {states} states; NaN for others",)
        )
    if part.image and found.flag("normalize_images", default=True):
        return Features(Float(255.0), math.prod(part.shape), (f"{port}: divided by 255",))
    return Features(Float(), math.prod(part.shape), ())


def _extracted(extractor: _Extractor, tensors: Tensors, name: str, part: Space, port: str) -> Features:
    """What the features extractor does with one tensor: convolutions for an image, else one long row."""
    image = part.image or (extractor.normalised and part.kind == "Box" and len(part.shape) == 3)
    if extractor.name == _NATURE or (extractor.name == _COMBINED and image):
        inside = (f"{port}: NatureCNN to {extractor.size} features",)
        return Features(_nature(tensors, name, part.shape, extractor.size), extractor.size, inside)
    width = sum(part.sizes) or math.prod(part.shape)
    if len(part.shape) < 2:
        return Features(nn.Identity(), width, ())
    return Features(nn.Flatten(), width, (f"{port}: flatten {list(part.shape)} to {width} numbers",))


def _nature(tensors: Tensors, prefix: str, shape: tuple[int, ...], size: int) -> nn.Module:
    """Take SB3's NatureCNN, for images with channels first."""
    if len(shape) != 3:
        msg = f"the observation has the shape {list(shape)}, expected an image of three axes, channels first"
        raise CheckpointRefused(msg)
    channels, rows, columns = shape
    modules: list[nn.Module] = []
    for at, (outputs, kernel, stride) in enumerate(_CONVOLUTIONS):
        modules += [tensors.conv(f"{prefix}cnn.{2 * at}", channels, outputs, kernel, stride), nn.ReLU()]
        channels, rows, columns = outputs, (rows - kernel) // stride + 1, (columns - kernel) // stride + 1
    if rows < 1 or columns < 1:
        msg = f"the image {list(shape)} is too small for the convolutions, expected at least 36 rows and columns"
        raise CheckpointRefused(msg)
    modules += [nn.Flatten(), tensors.linear(f"{prefix}linear.0", channels * rows * columns, size), nn.ReLU()]
    return nn.Sequential(*modules)
