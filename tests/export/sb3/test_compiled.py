"""Policies of which all or a part was compiled: ``torch.compile`` renames their tensors, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import save
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from export.archive import tensors_of
from export.declaration import parsed
from export.errors import CheckpointRefused
from export.sb3 import of_sb3, read_sb3
from export.sources import Asked
from export.sources import read as read_any
from export.tensorfile import tensor_file
from export.trained import About
from export.write import build
from tests.export.sb3.models import (
    SQUARE,
    UNEVEN,
    VECTOR,
    Options,
    Space,
    answered,
    inputs_of,
    made,
    read,
    seen_by,
    zipped,
)
from tests.export.sb3.zips import dqn_zip, saved, with_tensors

THREE = spaces.Discrete(3)
Compile = Callable[[BaseAlgorithm], None]


def _parts(*paths: str) -> Compile:
    """Compile parts of a policy, as people do before they train; nothing is compiled before it runs."""

    def compiled(model: BaseAlgorithm) -> None:
        for path in paths:
            parent, _, name = path.rpartition(".")
            part = torch.compile(model.policy.get_submodule(path), backend="eager")
            setattr(model.policy.get_submodule(parent), name, part)

    return compiled


def _whole(model: BaseAlgorithm) -> None:
    """Name the tensors of the whole policy, as torch does where all of it was compiled."""
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    model.policy.state_dict = lambda: tensors  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("algorithm", "action", "compiled"),
    [
        ("DQN", THREE, _parts("q_net")),
        pytest.param("PPO", UNEVEN, _parts("mlp_extractor.policy_net", "action_net"), marks=pytest.mark.soak),
        pytest.param("SAC", SQUARE, _parts("actor.latent_pi"), marks=pytest.mark.soak),
        ("A2C", THREE, _whole),
    ],
)
def test_a_compiled_policy_is_the_policy(algorithm: str, action: Space, compiled: Compile) -> None:
    """Whatever part was compiled, it is read as the same network, and the real library holds its tensors too."""
    kwargs: Options = {"net_arch": [8, 8]}
    model = made(algorithm, action, VECTOR, **kwargs)
    plain = read(model)
    compiled(model)
    data = zipped(model)
    assert b"_orig_mod" in data

    policy = of_sb3(read_sb3(data))

    seen = inputs_of(plain, seen_by(made(algorithm, action, VECTOR, **kwargs), 50))
    for name, told in answered(plain, seen).items():
        np.testing.assert_array_equal(answered(policy, seen)[name], told)
    assert policy.native is not None
    assert plain.native is not None
    np.testing.assert_array_equal(policy.native(seen)["action"], plain.native(seen)["action"])
    assert build(policy, About(name="a", version="1")).manifest.parity.reference.startswith("stable-baselines3")


def test_a_name_that_stands_twice_is_refused() -> None:
    """Which of the two the policy answers with, nothing says."""

    def both(tensors: dict[str, torch.Tensor]) -> None:
        tensors["q_net._orig_mod.q_net.0.weight"] = tensors["q_net.q_net.0.weight"].clone()

    with pytest.raises(
        CheckpointRefused, match=r"policy\.pth has the tensor 'q_net\.q_net\.0\.weight' compiled and not"
    ):
        read_sb3(with_tensors(dqn_zip(), both))
    with pytest.raises(CheckpointRefused, match=r"'a\.w' compiled and not compiled"):
        tensors_of({"a._orig_mod.w": torch.zeros(1), "_orig_mod.a.w": torch.zeros(1)}, "net.pt")
    assert list(tensors_of({"my_orig_mod.w": torch.zeros(1)}, "net.pt")) == ["my_orig_mod.w"]


@pytest.mark.parametrize("ending", [".pt", ".cleanrl_model", ".safetensors"])
@pytest.mark.parametrize("part", ["whole", "actor"])
@pytest.mark.parametrize("said", ["actor", "_orig_mod.actor", "actor._orig_mod"])
def test_compiled_networks_can_be_declared(tmp_path: Path, ending: str, part: str, said: str) -> None:
    """By the names that the network has, or by those in the file."""
    torch.manual_seed(0)
    agent = nn.ModuleDict(
        {"actor": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), "critic": nn.Linear(3, 1)}
    )
    names = dict(agent.state_dict())
    compiled = {name if part != "whole" else f"_orig_mod.{name}": tensor for name, tensor in names.items()}
    if part == "actor":
        compiled = {name.replace("actor.", "actor._orig_mod."): tensor for name, tensor in names.items()}
    path = tmp_path / f"net{ending}"
    path.write_bytes(save(compiled) if ending == ".safetensors" else saved(compiled))
    network = {"hidden": [4], "activation": "tanh", "layers": [f"{said}.0", f"{said}.2"], "ignore": ["critic."]}
    table: dict[str, object] = {"observation": {"shape": [3]}, "action": {"n": 2}, "network": network}

    policy = read_any(Asked(path, parsed(table, "net.toml")))

    obs = torch.randn(20, 3)
    with torch.no_grad():
        expected = agent["actor"](obs).numpy()
    np.testing.assert_allclose(np.float32(policy.answer({"obs": obs.numpy()})["q_values"]), expected, rtol=1e-6)


def test_a_key_leads_through_the_file_as_it_is() -> None:
    """A container may be called so itself: only names of tensors lose it."""
    table: dict[str, object] = {"observation": {"shape": [3]}, "action": {"n": 2}}
    declaration = parsed(
        table | {"network": {"hidden": [], "key": "_orig_mod.x", "layers": ["_orig_mod.0"]}}, "net.toml"
    )

    network = declaration.network.model_dump()
    assert (network["key"], network["layers"]) == ("_orig_mod.x", ("0",))


def test_a_safetensors_file_keeps_the_order_of_its_numbers() -> None:
    """Compiled in part, layers still go by how their names count."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}
    table: dict[str, object] = {"observation": {"shape": [3]}, "action": {"n": 2}, "network": {"hidden": [4, 4]}}

    policy = tensor_file(save(compiled), "net.safetensors", parsed(table, "net.toml"))

    obs = torch.randn(20, 3)
    with torch.no_grad():
        np.testing.assert_allclose(
            np.float32(policy.answer({"obs": obs.numpy()})["q_values"]), network(obs).numpy(), rtol=1e-5
        )
