"""Stable-Baselines3 zips made or changed by hand: old, odd, damaged or evil ones."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "policies"
BOX = {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "float32", "_shape": "[5]"}
CHOICE = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "3", "start": "0"}


def shared(*parts: str) -> Path:
    """Give the path of a real policy's file; skips the test where it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the real policies are not there: {path.name}")
    return path


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
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", json.dumps(texts))
        archive.writestr("policy.pth", saved(tensors))
    return stream.getvalue()


def saved(value: object) -> bytes:
    """Give what ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@cache
def dqn_zip() -> bytes:
    """A DQN with its target network."""
    tensors: dict[str, torch.Tensor] = {}
    for network in ("q_net", "q_net_target"):
        tensors |= linear(f"{network}.q_net.0", 5, 8) | linear(f"{network}.q_net.2", 8, 8)
        tensors |= linear(f"{network}.q_net.4", 8, 3)
    kwargs: dict[str, object] = {":type:": "<class 'dict'>", "net_arch": "[8, 8]"}
    return a_zip(("stable_baselines3.dqn.policies", "DQNPolicy"), kwargs, tensors)


@cache
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


def texts_of(data: bytes) -> Mapping[str, object]:
    """Give the texts of a zip."""
    found: Mapping[str, object] = json.loads(zipfile.ZipFile(io.BytesIO(data)).read("data"))
    return found


def with_texts(data: bytes, **texts: object) -> bytes:
    """Give the zip with keys of its ``data`` replaced."""
    return changed(data, lambda members: members.update(data=json.dumps({**texts_of(data), **texts}).encode()))


def with_tensors(data: bytes, change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    """Give the zip with its tensors changed."""
    tensors = torch.load(io.BytesIO(zipfile.ZipFile(io.BytesIO(data)).read("policy.pth")), weights_only=True)
    change(tensors)
    return with_policy(data, saved(tensors))


class Gadget:
    """Pickles to a call that creates a directory."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)
