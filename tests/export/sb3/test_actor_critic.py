"""PPO, A2C, TRPO and MaskablePPO with discrete actions: the real library's answers, from every vintage of zips."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from export.errors import TensorsUnaccounted
from export.sb3 import of_sb3, read_sb3
from export.sb3.actor_critic import OffAndOn
from export.spec import MASK, MultiDiscrete
from tests.export.sb3.discrete import balanced
from tests.export.sb3.models import IMAGE, PARTS, VECTOR, inputs_of, made, outputs_of, read
from tests.export.sb3.zips import actor_zip, with_tensors, with_texts

THREE = spaces.Discrete(3)
SEVERAL = spaces.MultiDiscrete([3, 2, 4])
BITS = spaces.MultiBinary(4)
FAMILIES = {"Discrete": "categorical", "MultiDiscrete": "multi_categorical", "MultiBinary": "bernoulli"}


@pytest.mark.parametrize("action", [THREE, SEVERAL, BITS], ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO"])
def test_actions_are_those_of_predict(algorithm: str, action: spaces.Space[Any]) -> None:
    """One choice, several at once, or bits: our module and the native reference act as ``predict`` does."""
    model = made(algorithm, action, VECTOR)
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)

    expected, _ = model.predict(seen, deterministic=True)

    assert len(np.unique(expected, axis=0)) > 2
    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)
    assert found.head == "logits"
    assert found.family == FAMILIES[type(action).__name__]
    assert found.source.algorithm == algorithm


@pytest.mark.parametrize(
    ("policy", "observation", "kwargs"),
    [
        ("MlpPolicy", VECTOR, {"net_arch": {"pi": [16], "vf": [8, 8]}, "activation_fn": torch.nn.ReLU}),
        ("MlpPolicy", VECTOR, {"net_arch": [12], "share_features_extractor": False}),
        ("MlpPolicy", VECTOR, {"net_arch": {"vf": [8]}}),
        ("MlpPolicy", spaces.Discrete(7), {}),
        ("MlpPolicy", spaces.MultiDiscrete([3, 2, 4]), {}),
        ("MlpPolicy", spaces.MultiBinary(5), {}),
        ("CnnPolicy", IMAGE, {"features_extractor_kwargs": {"features_dim": 16}}),
        ("CnnPolicy", IMAGE, {"features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": False}),
        ("CnnPolicy", spaces.Box(0, 255, (40, 36, 3), np.uint8), {"net_arch": [8]}),
        ("MultiInputPolicy", PARTS, {}),
        ("MultiInputPolicy", spaces.Dict({"a": IMAGE, "b": VECTOR}), {"share_features_extractor": False}),
    ],
)
def test_every_observation_and_form_of_network_is_read(
    policy: str, observation: spaces.Space[Any], kwargs: dict[str, Any]
) -> None:
    """Vectors, whole numbers, images and Dicts, with a features extractor shared by actor and critic or not."""
    model = made("PPO", THREE, observation, policy, **kwargs)
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)

    expected, _ = model.predict(seen, deterministic=True)

    assert len(np.unique(expected)) > 1
    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)


@pytest.mark.parametrize("action", [THREE, SEVERAL, BITS], ids=lambda space: type(space).__name__)
@pytest.mark.parametrize(("policy", "observation"), [("MlpPolicy", VECTOR), ("MultiInputPolicy", PARTS)])
def test_masked_actions_are_those_of_predict(
    action: spaces.Space[Any], policy: str, observation: spaces.Space[Any]
) -> None:
    """With masks the actions are ``predict``'s own, and without them they would be others."""
    model = made("MaskablePPO", action, observation, policy)
    seen = balanced(model)
    found = read(model)
    masks = _masks(found.action.sizes if isinstance(found.action, MultiDiscrete) else (found.action.width,))
    inputs = inputs_of(found, seen) | {MASK: masks}

    policy_of_library: Any = model.policy
    expected, _ = policy_of_library.predict(seen, deterministic=True, action_masks=masks)
    unmasked, _ = model.predict(seen, deterministic=True)

    assert found.mask
    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)
    assert not np.array_equal(unmasked, expected)


def _masks(sizes: tuple[int, ...]) -> np.ndarray:
    """Draw masks that leave something of every choice."""
    generator = np.random.default_rng(3)
    parts = []
    for size in sizes:
        part = generator.random((200, size)) < 0.5
        part[np.arange(200), generator.integers(0, size, 200)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def test_the_graph_itself_forbids_what_the_mask_does() -> None:
    """A forbidden action's logit is -1e8, as in SB3; the others are as they were."""
    model = made("MaskablePPO", THREE, net_arch=[8])
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)
    mask = np.tile(np.array([True, False, True]), (200, 1))

    free = outputs_of(found, inputs | {MASK: np.ones_like(mask)})["logits"]
    masked = outputs_of(found, inputs | {MASK: mask})["logits"]

    assert np.array_equal(masked[:, [0, 2]], free[:, [0, 2]])
    assert (masked[:, 1] == -1e8).all()


def test_logits_are_those_of_the_real_distribution() -> None:
    """Probabilities, of each choice of several too, are those that SB3 would sample with."""
    model = made("PPO", SEVERAL)
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)

    logits = torch.from_numpy(outputs_of(found, inputs)["logits"])

    policy: Any = model.policy
    real = policy.get_distribution(torch.from_numpy(inputs["obs"])).distribution
    for part, expected in zip(torch.split(logits, [3, 2, 4], dim=1), real, strict=True):
        assert (torch.softmax(part, dim=1) - expected.probs).abs().max() < 1e-6


def test_bits_are_on_with_the_real_probability_and_ties_are_off() -> None:
    """The logits (0, l) stand for sigmoid(l); at 0 a bit is off, which is how SB3 rounds one half."""
    model = made("PPO", BITS)
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)

    logits = torch.from_numpy(outputs_of(found, inputs)["logits"]).reshape(-1, 4, 2)

    policy: Any = model.policy
    real = policy.get_distribution(torch.from_numpy(inputs["obs"])).distribution
    assert (torch.softmax(logits, dim=2)[:, :, 1] - real.probs).abs().max() < 1e-6
    assert OffAndOn()(torch.tensor([[0.0, -1.0, 2.0]])).tolist() == [[0.0, 0.0, 0.0, -1.0, 0.0, 2.0]]
    assert torch.round(torch.sigmoid(torch.tensor(0.0))) == 0


def test_the_critic_is_set_aside_whole() -> None:
    """What an action does not depend on is named, extractors of the critic included."""
    kwargs: dict[str, Any] = {
        "features_extractor_kwargs": {"features_dim": 8},
        "share_features_extractor": False,
        "net_arch": [4],
    }

    found = read(made("PPO", THREE, IMAGE, "CnnPolicy", **kwargs))

    aside = {name.split(".")[0] for name in found.set_aside}
    assert aside == {"features_extractor", "vf_features_extractor", "mlp_extractor", "value_net"}


def test_layers_shared_before_sb3_1_8_are_read() -> None:
    """A zip with ``shared_net`` gives shared layers, then the actor's own; today's library holds no such policy."""

    def share(tensors: dict[str, torch.Tensor]) -> None:
        for key in ("weight", "bias"):
            tensors[f"mlp_extractor.shared_net.0.{key}"] = tensors.pop(f"mlp_extractor.policy_net.0.{key}")
            tensors[f"mlp_extractor.policy_net.0.{key}"] = tensors.pop(f"mlp_extractor.policy_net.2.{key}")

    new = of_sb3(read_sb3(actor_zip()))
    texts = {"policy_kwargs": {":type:": "<class 'dict'>", "net_arch": "[8, {'pi': [6], 'vf': [6]}]"}}
    old = of_sb3(read_sb3(with_texts(with_tensors(actor_zip(), share), **texts)))
    seen = {"obs": np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)}

    assert np.array_equal(old.answer(seen)["logits"], new.answer(seen)["logits"])
    assert old.native is None


@pytest.mark.parametrize("net_arch", ["[{'pi': [8, 6], 'vf': [8, 6]}]", {"pi": [8, 6]}, [{"pi": [8, 6]}]])
def test_every_spelling_of_net_arch_is_the_same_network(net_arch: object) -> None:
    """A list around the table was how releases before 1.8 wrote it."""
    seen = {"obs": np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)}
    expected = of_sb3(read_sb3(actor_zip())).answer(seen)["logits"]

    found = of_sb3(read_sb3(with_texts(actor_zip(), policy_kwargs={"net_arch": net_arch})))

    assert np.array_equal(found.answer(seen)["logits"], expected)


def test_one_list_before_sb3_1_8_was_shared_by_actor_and_critic() -> None:
    """``[8, 6]`` alone named layers of ``shared_net`` then, and names two like networks now."""

    def share(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "policy_net" in name]:
            tensors[name.replace("policy_net", "shared_net")] = tensors.pop(name)
        for name in [name for name in tensors if "mlp_extractor.value_net" in name]:
            del tensors[name]

    texts = {"policy_kwargs": {"net_arch": [8, 6]}}
    old = of_sb3(read_sb3(with_texts(with_tensors(actor_zip(), share), **texts)))
    seen = {"obs": np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)}

    assert np.array_equal(old.answer(seen)["logits"], of_sb3(read_sb3(actor_zip())).answer(seen)["logits"])


def test_an_actor_of_fewer_layers_than_its_tensors_is_refused() -> None:
    """A net_arch that leaves a layer out would answer plausibly and wrong: the tensors do not add up."""
    with pytest.raises(TensorsUnaccounted):
        of_sb3(read_sb3(with_texts(actor_zip(), policy_kwargs={"net_arch": {"pi": [8], "vf": [8, 6]}})))


def test_algorithms_that_share_a_policy_are_told_apart() -> None:
    """PPO, TRPO and A2C save the same policy class: their own settings name them."""
    settings: list[dict[str, object]] = [{"clip_range": {}}, {"cg_max_steps": 9}, {}]

    found = [of_sb3(read_sb3(with_texts(actor_zip(), **texts))) for texts in settings]

    assert [policy.source.algorithm for policy in found] == ["PPO", "TRPO", "A2C"]
    assert {policy.family for policy in found} == {"categorical"}
