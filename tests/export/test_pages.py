"""The page for people: its declarations read CleanRL's own files, and its commands are commands."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from export.__main__ import _parser
from export.adopt.command import _parser as _adopt_parser
from export.declaration import parsed
from export.declared import cleanrl
from tests.export.cleanrl import (
    ACTIONS,
    OBS,
    Actor,
    Agent,
    ContinuousAgent,
    Critic,
    LstmAgent,
    QNetwork,
    SoftActor,
    nature,
    rows,
)
from tests.export.test_declared_cleanrl import saved

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
BLOCKS = {block.split(".toml")[0]: block for block in re.findall(r"```toml\n# (.*?)```", PAGE, re.DOTALL)}
COMMANDS = re.findall(r"^\$ actd-export (.*)$", PAGE, re.MULTILINE)
SAVED: dict[str, object] = {
    "dqn": QNetwork(rows((OBS, 120, 84, ACTIONS), nn.ReLU)).state_dict(),
    "c51": {
        "model_weights": QNetwork(
            rows((OBS, 120, 84, ACTIONS * 101), nn.ReLU), torch.linspace(-100, 100, 101)
        ).state_dict()
    },
    "dqn_atari": QNetwork(nn.Sequential(*nature(4), nn.Linear(512, ACTIONS))).state_dict(),
    "ppo": Agent().state_dict(),
    "ppo_continuous_action": ContinuousAgent().state_dict(),
    "ppo_atari_lstm": LstmAgent().state_dict(),
    "sac_continuous_action": (SoftActor().state_dict(), Critic().state_dict(), Critic().state_dict()),
    "td3_continuous_action": (Actor().state_dict(), Critic().state_dict()),
}


@pytest.mark.parametrize("algorithm", SAVED)
def test_the_declaration_of_an_algorithm_reads_its_file(algorithm: str) -> None:
    """What CleanRL saves is read with the declaration on the page, every tensor accounted for."""
    declaration = parsed(tomllib.loads(f"# {BLOCKS[algorithm]}"), f"{algorithm}.toml")

    policy = cleanrl(saved(SAVED[algorithm]), f"{algorithm}.cleanrl_model", declaration)

    assert policy.source.library == "cleanrl"


def test_every_declaration_on_the_page_is_one() -> None:
    """The blocks of TOML that are of no algorithm of CleanRL's are declarations too."""
    others = [block for name, block in BLOCKS.items() if name not in SAVED]

    assert others
    for block in others:
        assert parsed(tomllib.loads(f"# {block}"), "page").outputs > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_on_the_page_is_one(command: str) -> None:
    """Its options exist and take what the page gives them."""
    words = shlex.split(command)

    if words[0] == "adopt":
        assert _adopt_parser().parse_args(words[1:]).output.suffix == ".onnx"
    elif words[0] not in ("verify", "show"):
        assert _parser().parse_args(words).output.suffix == ".onnx"
    else:
        assert words[1].endswith(".onnx")
