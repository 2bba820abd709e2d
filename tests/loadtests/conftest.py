"""A policy that a test can serve, and the service itself serving it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.launch import Server
from tests.artefacts import demo

_CONFIG = """name = "demo"
policy = "demo-1.onnx"
[[constraints]]
kind = "rule"
name = "not below one"
forbid = "action == 'scale_down' and replicas <= 1"
[[constraints]]
kind = "cooldown"
name = "no flapping"
actions = ["scale_up"]
seconds = 0.5
[baseline]
kind = "constant"
action = "hold"
last_resort = "hold"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with its artefact beside it."""
    (tmp_path / "demo-1.onnx").write_bytes(demo())
    path = tmp_path / "policy.toml"
    path.write_text(_CONFIG, "utf-8")
    return path


@pytest.fixture
def service(config: Path, tmp_path: Path) -> Iterator[Server]:
    """The real service, serving ``config`` on a free port."""
    command = ["-m", "service", "serve", str(config), "--port", "0", "--data", str(tmp_path / "data")]
    with Server("act", command, tmp_path / "act.log") as server:
        yield server
