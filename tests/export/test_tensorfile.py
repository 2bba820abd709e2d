"""Safetensors files: the tensors of a declared network, or a sentence before the library sees a byte."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from export.declaration import parsed
from export.errors import CheckpointRefused, DeclarationInvalid, ExportError
from export.tensorfile import tensor_file, tensors_in

DECLARATION = parsed({"observation": {"shape": [3]}, "action": {"n": 2}, "network": {"hidden": [4]}}, "net.toml")


def module() -> nn.Sequential:
    """Make a small network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def written(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """Write a file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(**change: object) -> dict[str, object]:
    """Describe one tensor of two numbers."""
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change


def test_layers_are_in_the_order_that_their_names_count() -> None:
    """The library gives tensors in another order every time; ten and more layers are told apart by their numbers."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(3, 4)]
    for _ in range(6):
        layers += [nn.ReLU(), nn.Linear(4, 4)]
    network = nn.Sequential(*layers, nn.ReLU(), nn.Linear(4, 2))
    table = {"observation": {"shape": [3]}, "action": {"n": 2}, "network": {"hidden": [4] * 7}}
    obs = torch.randn((50, 3))

    policy = tensor_file(save(dict(network.state_dict())), "net.safetensors", parsed(table, "net.toml"))

    found = policy.answer({"obs": obs.numpy()})["q_values"]
    assert np.abs(found - network(obs).detach().numpy()).max() < 1e-6


def test_layers_of_one_shape_whose_names_do_not_count_have_to_be_named() -> None:
    """Sorted names are no order: which of two like layers comes first is not guessed."""
    network = nn.ModuleDict({"into": nn.Linear(3, 4), "before": nn.Linear(4, 4), "after": nn.Linear(4, 4)})
    network["out"] = nn.Linear(4, 2)
    data = save(dict(network.state_dict()))
    table = {"observation": {"shape": [3]}, "action": {"n": 2}, "network": {"hidden": [4, 4, 4]}}
    named = {"hidden": [4, 4, 4], "layers": ["into", "before", "after", "out"]}

    with pytest.raises(DeclarationInvalid, match="which comes first"):
        tensor_file(data, "net.safetensors", parsed(table, "net.toml"))
    assert tensor_file(data, "net.safetensors", parsed(table | {"network": named}, "net.toml")).family == "dqn"


def test_a_safetensors_file_answers_as_its_module() -> None:
    """The same declaration as for a state dict, and the file's own library in the card."""
    network = module()
    data = save(dict(network.state_dict()), metadata={"format": "pt"})
    obs = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)

    policy = tensor_file(data, "net.safetensors", DECLARATION)
    found = policy.answer({"obs": obs})

    with torch.no_grad():
        own = network(torch.from_numpy(obs)).numpy()
    assert np.abs(found["q_values"] - own).max() < 1e-6
    assert np.array_equal(found["action"], own.argmax(1))
    assert policy.source.library == "safetensors"


def test_tensors_without_a_declaration_are_refused() -> None:
    """Tensors alone do not say what network they belong to."""
    with pytest.raises(DeclarationInvalid, match=r"net\.safetensors holds tensors alone"):
        tensor_file(save(dict(module().state_dict())), "net.safetensors", None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its header has 0 bytes"),
        (b"\xff" * 64, "its header has 18446744073709551615 bytes"),
        (written({}, length=10**9), "its header has 1000000000 bytes"),
        (written(b"[1]"), "a header that is a list"),
        (written(b"{]"), "a header that is not JSON"),
        (written(b"[" * 5000), "a header that is not JSON"),
        (written(b'{"a": 1, "a": 2}'), "'a' stands twice"),
        (written({"__metadata__": {}}), "has 0 tensors"),
        (written({"a": 7}), "is described by 7"),
        (written({"a": entry(extra=1)}, bytes(8)), "expected dtype, shape and data_offsets"),
        (written({"a": entry(dtype="F8_E4M3")}, bytes(8)), "has the dtype 'F8_E4M3'"),
        (written({"a": entry(shape=[-2])}, bytes(8)), r"has the shape \[-2\]"),
        (written({"a": entry(shape=[True, 2])}, bytes(8)), r"has the shape \[True, 2\]"),
        (written({"a": entry(shape=[1] * 9)}, bytes(8)), "expected at most 8 whole numbers"),
        (written({"a": entry(shape=[2**40, 2**40])}, bytes(8)), "bytes, expected at most 268435456"),
        (written({"a": entry(data_offsets=[0, 12])}, bytes(12)), "expected 8 bytes for F32"),
        (written({"a": entry(data_offsets=[8, 16])}, bytes(16)), "begin at 8, expected 0: no gap"),
        (written({"a": entry(), "b": entry(data_offsets=[4, 12])}, bytes(12)), "begin at 4, expected 8"),
        (written({"a": entry()}, bytes(7)), "has 7 bytes of tensors, expected 8"),
        (written({"a": entry()}, bytes(9)), "has 9 bytes of tensors, expected 8"),
        (written({"a": entry()}, struct.pack("<2f", float("nan"), 0)), "holds NaN or infinite values"),
    ],
)
def test_a_malformed_file_is_refused(data: bytes, message: str) -> None:
    """Every part of the header is checked against the others and against the file's size."""
    with pytest.raises(CheckpointRefused, match=message):
        tensors_in(data, "net.safetensors")


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.integers(0, 40))
def test_a_damaged_file_is_refused_or_read_whole(at: int, bit: int, cut: int) -> None:
    """A flipped bit and a lost end are refusals, or other numbers of the same shapes: never another exception."""
    good = save(dict(module().state_dict()))
    damaged = bytearray(good[: len(good) - cut] if cut < 20 else good)
    damaged[at % len(damaged)] ^= 1 << bit

    try:
        found = tensors_in(bytes(damaged), "net.safetensors")
    except ExportError:
        return

    assert sum(tensor.numel() * tensor.element_size() for tensor in found.values()) <= len(damaged)
