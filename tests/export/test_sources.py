"""Sources: which reader a file goes to, and what a pickle is read as before anybody has to trust it."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import Declaration, parsed
from export.errors import CheckpointRefused, DeclarationInvalid, NeedsUnpickling
from export.sources import Asked, read

DECLARED: dict[str, object] = {"observation": {"shape": [3]}, "action": {"n": 2}, "network": {"hidden": [4]}}


def network() -> nn.Sequential:
    """A small network, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def declared(**network: object) -> Declaration:
    """A declaration of it."""
    return parsed({**DECLARED, "network": {"hidden": [4], **network}}, "net.toml")


def arrays() -> dict[str, np.ndarray]:
    """Its weights as NumPy's arrays."""
    return {name: tensor.numpy() for name, tensor in network().state_dict().items()}


def saved(value: object) -> bytes:
    """What ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (pickle.dumps(arrays()), ""),
        (pickle.dumps({"model": arrays(), "epsilon": 0.1}), "model"),
        (pickle.dumps([arrays(), {"gamma": 0.9}]), 0),
        (saved(network().state_dict()), ""),
    ],
)
def test_pickled_arrays_are_a_declared_network_without_trust(data: bytes, key: str | int, tmp_path: Path) -> None:
    """A dict of arrays, also at a key among settings, and torch's own files whatever they are called."""
    (tmp_path / "net.pkl").write_bytes(data)
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    policy = read(Asked(tmp_path / "net.pkl", declared(key=key)))

    expected = network()(torch.from_numpy(rows)).detach().numpy()
    found = policy.answer({"obs": rows})["q_values"].astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tensors_in_a_plain_pickle_need_trust_and_get_it(tmp_path: Path) -> None:
    """Tensors of torch are objects to pickle: refused with the reason, and read confined where somebody trusts them."""
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"gamma": 0.9, **network().state_dict()}))

    with pytest.raises(
        NeedsUnpickling, match=r"_rebuild_tensor_v2, expected arrays of numbers; nothing was run. Say --t"
    ):
        read(Asked(tmp_path / "net.pkl", declared()))

    policy = read(Asked(tmp_path / "net.pkl", declared(), trust=True))
    assert policy.answer({"obs": np.zeros((1, 3), np.float32)})["q_values"].shape == (1, 2)


def test_settings_among_declared_tensors_are_named(tmp_path: Path) -> None:
    """What is no tensor is no part of the network: the declaration's key says where that is."""
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"gamma": 0.9, **arrays()}))

    with pytest.raises(CheckpointRefused, match="'gamma' is a float, expected a tensor"):
        read(Asked(tmp_path / "net.pkl", declared()))


def test_torch_s_file_of_another_name_needs_a_declaration_too(tmp_path: Path) -> None:
    """As it would as a .pt."""
    (tmp_path / "net.pkl").write_bytes(saved(network().state_dict()))

    with pytest.raises(DeclarationInvalid, match=r"give --declare FILE.toml"):
        read(Asked(tmp_path / "net.pkl"))
