"""Binding: what does not fit what the version observes, does, and how often, is refused with its place in the file."""

from pathlib import Path
from typing import Any

import pytest

from service.config import Config, ConfigInvalid
from service.log.ids import make_keyring
from service.startup import bound
from tests.fakes import SCHEMA, manifest_of

PID = {"kind": "pid", "of": "load", "target": 0.5, "ki": 1.0, "effect": {"up": 1, "down": -1, "hold": 0}}


def bind(folder: Path, baseline: dict[str, Any], period_s: float | None) -> None:
    """Bind a baseline to a version that decides so often."""
    config = Config.model_validate({"name": "demo", "policy": "demo.onnx", "baseline": baseline})
    bound(config, SCHEMA, manifest_of(control_period_s=period_s), make_keyring(folder / "keyring.json"))


def test_a_memory_that_is_forgotten_before_the_next_decision_is_refused(tmp_path: Path) -> None:
    """A controller that begins anew each time would never integrate, and nothing would show it."""
    with pytest.raises(ConfigInvalid) as error:
        bind(tmp_path, {**PID, "forget_seconds": 59.5}, 60.0)

    assert str(error.value) == (
        "baseline.forget_seconds: is 59.5, expected at least the policy's control period, 60.0 s, "
        "or it begins anew at each decision"
    )


@pytest.mark.parametrize(
    ("baseline", "period_s"),
    [
        ({**PID, "forget_seconds": 60.0}, 60.0),
        (PID, 60.0),
        ({**PID, "forget_seconds": 0.1}, None),
        ({"kind": "constant", "action": "hold"}, 600.0),
    ],
    ids=["as long", "by default", "no period", "no memory"],
)
def test_a_memory_that_lasts_is_not(tmp_path: Path, baseline: dict[str, Any], period_s: float | None) -> None:
    """Nor what has none, nor where nobody said how often it decides."""
    bind(tmp_path, baseline, period_s)

    assert (tmp_path / "keyring.json").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"of": "lead"}, "baseline.of: expression 'lead'"),
        (
            {"low": 5, "high": 6},
            "baseline.low, high: are 5.0 to 6.0, expected some of what the actions do: -1.0 to 1.0",
        ),
        ({"last_resort": "fly"}, "baseline.last_resort: the action 'fly' is not known"),
    ],
)
def test_a_mistake_in_the_baseline_has_its_place(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    """As it stands in the file."""
    with pytest.raises(ConfigInvalid) as error:
        bind(tmp_path, {**PID, **changes}, None)

    assert str(error.value).startswith(problem)
