"""Stable-Baselines3 zips that are old, odd, damaged or evil: read where that is safe, else refused by a sentence."""

import base64
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.errors import CheckpointRefused, TensorsUnaccounted
from export.families import of_sb3
from export.sb3 import bounds, literal, read_sb3
from export.spec import Discrete

torch.set_num_threads(1)

BOX = {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "float32", "_shape": "[5]"}
CHOICE = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "3", "start": "0"}


def linear(name: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
    """Give the tensors of a layer."""
    return {f"{name}.weight": torch.randn(outputs, inputs), f"{name}.bias": torch.randn(outputs)}


def a_zip(policy: tuple[str, str], kwargs: dict[str, object], tensors: dict[str, torch.Tensor]) -> bytes:
    """Give a zip as SB3 writes it, made by hand."""
    module, name = policy
    texts = {
        "policy_class": {"__module__": module, "__init__": f"<function {name}.__init__ at 0x7f>"},
        "policy_kwargs": kwargs,
        "observation_space": BOX,
        "action_space": CHOICE,
    }
    weights = io.BytesIO()
    torch.save(tensors, weights)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", json.dumps(texts))
        archive.writestr("policy.pth", weights.getvalue())
    return stream.getvalue()


@pytest.fixture(scope="module")
def dqn_zip() -> bytes:
    """A DQN with its target network."""
    tensors: dict[str, torch.Tensor] = {}
    for network in ("q_net", "q_net_target"):
        tensors |= linear(f"{network}.q_net.0", 5, 8) | linear(f"{network}.q_net.2", 8, 8)
        tensors |= linear(f"{network}.q_net.4", 8, 3)
    kwargs: dict[str, object] = {":type:": "<class 'dict'>", "net_arch": "[8, 8]"}
    return a_zip(("stable_baselines3.dqn.policies", "DQNPolicy"), kwargs, tensors)


@pytest.fixture(scope="module")
def actor_zip() -> bytes:
    """An actor and its critic."""
    tensors = linear("action_net", 6, 3) | linear("value_net", 6, 1)
    for network in ("policy_net", "value_net"):
        tensors |= linear(f"mlp_extractor.{network}.0", 5, 8) | linear(f"mlp_extractor.{network}.2", 8, 6)
    kwargs: dict[str, object] = {"net_arch": {"pi": [8, 6], "vf": [8, 6]}}
    return a_zip(("stable_baselines3.common.policies", "ActorCriticPolicy"), kwargs, tensors)


def changed(data: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """Give the zip with its members changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def with_policy(data: bytes, tensors: bytes) -> bytes:
    """Give the zip with other bytes for its tensors."""
    return changed(data, lambda members: members.update({"policy.pth": tensors}))


def with_texts(data: bytes, **texts: object) -> bytes:
    """Give the zip with keys of its ``data`` replaced."""

    found = json.loads(zipfile.ZipFile(io.BytesIO(data)).read("data"))
    return changed(data, lambda members: members.update(data=json.dumps(found | texts).encode()))


def with_tensors(data: bytes, change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    """Give the zip with its tensors changed."""

    tensors = torch.load(io.BytesIO(zipfile.ZipFile(io.BytesIO(data)).read("policy.pth")), weights_only=True)
    change(tensors)
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return with_policy(data, stream.getvalue())


def test_layers_shared_before_sb3_1_8_are_read(actor_zip: bytes) -> None:
    """A zip with ``shared_net`` gives shared layers, then the actor's own."""

    def share(tensors: dict[str, torch.Tensor]) -> None:
        for key in ("weight", "bias"):
            tensors[f"mlp_extractor.shared_net.0.{key}"] = tensors.pop(f"mlp_extractor.policy_net.0.{key}")
            tensors[f"mlp_extractor.policy_net.0.{key}"] = tensors.pop(f"mlp_extractor.policy_net.2.{key}")

    new = of_sb3(read_sb3(actor_zip))
    texts = {"policy_kwargs": {":type:": "<class 'dict'>", "net_arch": "[8, {'pi': [6], 'vf': [6]}]"}}
    old = of_sb3(read_sb3(with_texts(with_tensors(actor_zip, share), **texts)))
    seen = np.ones((1, 5), dtype=np.float32)

    assert np.array_equal(old.answer(seen), new.answer(seen))


class Gadget:
    """Pickles to a call that creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def test_pickled_values_in_the_texts_are_never_opened(dqn_zip: bytes, tmp_path: Path) -> None:
    """A malicious ``:serialized:`` anywhere in ``data`` does nothing: the export goes on without it."""
    canary = tmp_path / "canary"
    evil = base64.b64encode(pickle.dumps(Gadget(canary))).decode()
    texts = json.loads(zipfile.ZipFile(io.BytesIO(dqn_zip)).read("data"))
    space = texts["observation_space"] | {":serialized:": evil}
    data = with_texts(dqn_zip, observation_space=space, lr_schedule={":type:": "x", ":serialized:": evil})

    found = read_sb3(data)

    assert evil not in str(found.texts)
    assert of_sb3(found).action == Discrete(names=("action_0", "action_1", "action_2"))
    assert not canary.exists()


def test_a_gadget_among_the_tensors_is_refused_and_not_run(dqn_zip: bytes, tmp_path: Path) -> None:
    """``policy.pth`` with a ``__reduce__`` gadget is refused; its code does not run."""
    canary = tmp_path / "canary"

    stream = io.BytesIO()
    torch.save({"q_net.q_net.0.weight": Gadget(canary)}, stream)

    with pytest.raises(CheckpointRefused, match="holds more than tensors"):
        read_sb3(with_policy(dqn_zip, stream.getvalue()))
    assert not canary.exists()


@pytest.mark.parametrize("text", ["<class 'evil.Extractor'>", "__import__('os').getcwd()"])
def test_custom_code_named_in_the_texts_is_refused(dqn_zip: bytes, text: str) -> None:
    """A features extractor of somebody's own would have to be run, so the zip is refused."""
    with pytest.raises(CheckpointRefused, match="FlattenExtractor"):
        read_sb3(with_texts(dqn_zip, policy_kwargs={"features_extractor_class": text}))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"policy_class": {":type:": "<class 'abc.ABCMeta'>"}}, "only in pickled form"),
        ({"policy_class": {"__module__": "mine", "__init__": "<function Net.__init__ at 0x1>"}}, "is mine.Net, exp"),
        ({"policy_kwargs": {"dueling": True}}, "'dueling', which is not known"),
        ({"policy_kwargs": {"net_arch": "[8, __import__('os')]"}}, "is not a plain value"),
        ({"policy_kwargs": {"net_arch": [8, -1]}}, "expected widths between"),
        ({"policy_kwargs": {"net_arch": {"qf": [8]}}}, "expected a list of layer widths"),
        ({"policy_kwargs": {"net_arch": [8, 8], "activation_fn": "<class 'mine.Act'>"}}, "the activation is"),
        ({"policy_kwargs": 3}, "expected a table"),
        ({"action_space": {":type:": "<class 'gymnasium.spaces.box.Box'>"}}, "expected Discrete"),
        ({"action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "0"}}, "expected a whole"),
        ({"observation_space": None}, "only in pickled form"),
        ({"observation_space": {":type:": "<class 'gym.spaces.Dict'>"}}, "expected Box or Discrete"),
        ({"observation_space": {":type:": "<class 'gym.spaces.Box'>", "shape": "[]"}}, "expected one to four"),
        (
            {"observation_space": {":type:": "<class 'gym.Box'>", "shape": "[3, 8, 8]", "dtype": "uint8"}},
            "images are not read",
        ),
        ({"observation_space": {":type:": "<class 'gym.Discrete'>", "n": "4", "start": "1"}}, "starts at 1"),
        ({"observation_space": {":type:": "<class 'gym.Box'>", "shape": "[2]", "low": "[a b]"}}, "are not numbers"),
    ],
)
def test_what_cannot_be_read_from_texts_alone_is_refused(
    dqn_zip: bytes, texts: dict[str, object], message: str
) -> None:
    """Each refusal is a sentence that says what was found and what was expected."""
    with pytest.raises(CheckpointRefused, match=message):
        of_sb3(read_sb3(with_texts(dqn_zip, **texts)))


def _extra(tensors: dict[str, torch.Tensor]) -> None:
    tensors["q_net.features_extractor.cnn.0.weight"] = torch.zeros(3)


def _missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["q_net.q_net.2.weight"]


def _resized(tensors: dict[str, torch.Tensor]) -> None:
    tensors["q_net.q_net.2.weight"] = torch.zeros(8, 9)


def _retyped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["q_net.q_net.2.bias"] = torch.zeros(8, dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_extra, "does not use: q_net.features_extractor.cnn.0.weight"),
        (_missing, "no tensor 'q_net.q_net.2.weight'"),
        (_resized, r"'q_net.q_net.2.weight' is float32\[8, 9\], expected float32\[8, 8\]"),
        (_retyped, "is float64"),
    ],
)
def test_tensors_that_are_not_exactly_the_networks_are_refused(
    dqn_zip: bytes, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """A tensor too many, too few, or of another form refuses the export and is named."""
    with pytest.raises(TensorsUnaccounted, match=message):
        of_sb3(read_sb3(with_tensors(dqn_zip, change)))


def test_a_weight_that_is_nan_is_refused(dqn_zip: bytes) -> None:
    """A network that answers NaN is refused before it becomes a file."""
    with pytest.raises(CheckpointRefused, match=r"'q_net\.q_net\.0\.bias' holds NaN"):
        read_sb3(with_tensors(dqn_zip, lambda tensors: tensors["q_net.q_net.0.bias"].fill_(float("nan"))))


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_a_zip_without_its_members_is_refused(dqn_zip: bytes, name: str) -> None:
    """What SB3 before 1.0 wrote, or any other zip, is refused by the name of what is missing."""
    with pytest.raises(CheckpointRefused, match=f"no member '{name}'"):
        read_sb3(changed(dqn_zip, lambda members: members.pop(name)))


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"[" * 200_000, b'{"policy_class": 1}'])
def test_data_that_is_no_table_is_refused(dqn_zip: bytes, content: bytes) -> None:
    """Broken, deep or odd JSON is a sentence, not a traceback."""
    with pytest.raises(CheckpointRefused):
        read_sb3(changed(dqn_zip, lambda members: members.update(data=content)))


def test_bounds_of_a_long_array_are_unknown() -> None:
    """NumPy leaves out the middle of a long array: then no bound is made up."""
    assert bounds("[-1.000e+00 -2.000e+00 ... -1.3e+03]", 1300) == (None,) * 1300
    assert bounds("[-1. inf]", 2) == (-1.0, None)
    assert bounds(None, 2) == (None, None)


def test_a_text_that_is_too_long_is_not_parsed() -> None:
    """The parser of literals never sees more than a bounded text."""
    with pytest.raises(CheckpointRefused, match="characters"):
        literal("[" + "1," * 1_000_000 + "]")


def test_algorithms_that_share_a_policy_are_told_apart(actor_zip: bytes) -> None:
    """PPO, TRPO and A2C save the same policy class: their own settings name them."""
    settings: list[dict[str, object]] = [{"clip_range": {}}, {"cg_max_steps": 9}, {}]

    found = [of_sb3(read_sb3(with_texts(actor_zip, **texts))) for texts in settings]

    assert [policy.source.algorithm for policy in found] == ["PPO", "TRPO", "A2C"]
    assert {policy.family for policy in found} == {"categorical"}


def test_damaged_zips_are_sentences(dqn_zip: bytes) -> None:
    """Whatever is damaged in a zip or in its tensors, it is read or refused, and nothing else is raised."""
    generator = np.random.default_rng(0)
    refused = 0

    for round_ in range(600):
        damaged = bytearray(dqn_zip)
        for at in generator.integers(len(damaged), size=4):
            damaged[at] = generator.integers(256)
        if round_ % 2:
            tensors = bytearray(zipfile.ZipFile(io.BytesIO(dqn_zip)).read("policy.pth"))
            tensors[int(generator.integers(len(tensors)))] ^= 1 << int(generator.integers(8))
            damaged = bytearray(with_policy(dqn_zip, bytes(tensors)))
        try:
            of_sb3(read_sb3(bytes(damaged)))
        except CheckpointRefused:
            refused += 1

    assert refused > 300
