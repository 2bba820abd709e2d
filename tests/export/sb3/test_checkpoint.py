"""Stable-Baselines3 zips that are odd, damaged or evil: read where that is safe, else refused by a sentence."""

import base64
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.errors import CheckpointRefused, TensorsUnaccounted
from export.sb3 import of_sb3, read_sb3
from export.sb3.checkpoint import literal
from export.spec import Discrete
from tests.export.sb3.zips import Gadget, changed, dqn_zip, saved, texts_of, with_policy, with_tensors, with_texts


def test_pickled_values_in_the_texts_are_never_opened(tmp_path: Path) -> None:
    """A malicious ``:serialized:`` anywhere in ``data`` does nothing: the export goes on without it."""
    canary = tmp_path / "canary"
    evil = base64.b64encode(pickle.dumps(Gadget(canary))).decode()
    space = texts_of(dqn_zip())["observation_space"]
    assert isinstance(space, dict)
    texts = {"observation_space": space | {":serialized:": evil}, "lr_schedule": {":type:": "x", ":serialized:": evil}}

    found = read_sb3(with_texts(dqn_zip(), **texts))

    assert evil not in str(found.texts)
    assert of_sb3(found).action == Discrete(names=("action_0", "action_1", "action_2"))
    assert not canary.exists()


def test_a_gadget_among_the_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    """``policy.pth`` with a ``__reduce__`` gadget is refused; its code does not run."""
    canary = tmp_path / "canary"
    evil = saved({"q_net.q_net.0.weight": Gadget(canary)})

    with pytest.raises(CheckpointRefused, match="holds more than tensors"):
        read_sb3(with_policy(dqn_zip(), evil))
    assert not canary.exists()


def test_a_gadget_in_a_member_that_is_not_read_is_left_alone(tmp_path: Path) -> None:
    """Optimisers and other variables may hold anything: they are never unpacked."""
    canary = tmp_path / "canary"
    evil = pickle.dumps(Gadget(canary))
    names = ("pytorch_variables.pth", "tensors.pth", "policy.optimizer.pth", "system_info.txt")
    data = changed(dqn_zip(), lambda members: members.update(dict.fromkeys(names, evil)))

    assert of_sb3(read_sb3(data)).family == "dqn"
    assert not canary.exists()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"policy_class": {":type:": "<class 'abc.ABCMeta'>"}}, "only in pickled form"),
        ({"policy_class": None}, "only in pickled form"),
        ({"policy_class": {"__module__": "mine", "__init__": "<function Net.__init__ at 0x1>"}}, "is mine.Net, exp"),
        ({"policy_kwargs": {"dueling": True}}, "'dueling', which is not known"),
        ({"policy_kwargs": {"net_arch": "[8, __import__('os')]"}}, "is not a plain value"),
        ({"policy_kwargs": {"net_arch": [8, -1]}}, "expected widths between"),
        ({"policy_kwargs": {"net_arch": {"qf": [8]}}}, "expected a list of layer widths"),
        ({"policy_kwargs": {"net_arch": [8, 8], "activation_fn": "<class 'mine.Act'>"}}, "the activation is"),
        (
            {"policy_kwargs": {"net_arch": [8, 8], "activation_fn": "<class 'mine.TanhX'>"}},
            r"mine.TanhX'>, expected of torch.nn one of Tanh, Hardtanh, Tanhshrink \(the nearest of 18\)",
        ),
        ({"policy_kwargs": {"net_arch": [8, 8], "normalize_images": 3}}, "expected true or false"),
        ({"policy_kwargs": 3}, "expected a table"),
    ],
)
def test_what_cannot_be_read_from_texts_alone_is_refused(texts: dict[str, object], message: str) -> None:
    """Each refusal is a sentence that says what was found and what was expected."""
    with pytest.raises(CheckpointRefused, match=message):
        of_sb3(read_sb3(with_texts(dqn_zip(), **texts)))


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
        (dict.clear, "no tensor 'q_net.q_net.0.weight'"),
    ],
)
def test_tensors_that_are_not_exactly_the_networks_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """A tensor too many, too few, or of another form refuses the export and is named: no network is ever empty."""
    with pytest.raises(TensorsUnaccounted, match=message):
        of_sb3(read_sb3(with_tensors(dqn_zip(), change)))


def test_a_weight_that_is_nan_is_refused() -> None:
    """A network that answers NaN is refused before it becomes a file."""
    with pytest.raises(CheckpointRefused, match=r"'q_net\.q_net\.0\.bias' holds NaN"):
        read_sb3(with_tensors(dqn_zip(), lambda tensors: tensors["q_net.q_net.0.bias"].fill_(float("nan"))))


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_a_zip_without_its_members_is_refused(name: str) -> None:
    """Any other zip is refused by the name of what is missing."""
    with pytest.raises(CheckpointRefused, match=f"no member '{name}'"):
        read_sb3(changed(dqn_zip(), lambda members: members.pop(name)))


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"[" * 200_000, b'{"policy_class": 1}'])
def test_data_that_is_no_table_is_refused(content: bytes) -> None:
    """Broken, deep or odd JSON is a sentence, not a traceback."""
    with pytest.raises(CheckpointRefused):
        read_sb3(changed(dqn_zip(), lambda members: members.update(data=content)))


def test_a_zip_without_a_version_is_read() -> None:
    """Releases before 0.10 did not write theirs: it is empty then."""
    found = read_sb3(dqn_zip())
    newer = read_sb3(changed(dqn_zip(), lambda members: members.update(_stable_baselines3_version=b"2.9.2\n")))

    assert (found.version, newer.version) == ("", "2.9.2")


def test_a_text_that_is_too_long_is_not_parsed() -> None:
    """The parser of literals never sees more than a bounded text."""
    with pytest.raises(CheckpointRefused, match="characters"):
        literal("[" + "1," * 1_000_000 + "]")


def test_damaged_zips_are_sentences() -> None:
    """Whatever is damaged in a zip or in its tensors, it is read or refused, and nothing else is raised."""
    generator = np.random.default_rng(0)
    refused = 0

    for round_ in range(600):
        damaged = bytearray(dqn_zip())
        for at in generator.integers(len(damaged), size=4):
            damaged[at] = generator.integers(256)
        if round_ % 2:
            tensors = bytearray(zipfile.ZipFile(io.BytesIO(dqn_zip())).read("policy.pth"))
            tensors[int(generator.integers(len(tensors)))] ^= 1 << int(generator.integers(8))
            damaged = bytearray(with_policy(dqn_zip(), bytes(tensors)))
        try:
            of_sb3(read_sb3(bytes(damaged)))
        except CheckpointRefused:
            refused += 1

    assert refused > 300
