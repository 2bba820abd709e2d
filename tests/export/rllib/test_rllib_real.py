"""Behaviour against the real RLlib, in a throw-away environment of its own: its checkpoints, and its own answers."""

import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from export.rllib import of_rllib, read_rllib

ANSWERS = Path(__file__).with_name("answers.py")
ROWS = 1000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of all kinds with their answers, written by RLlib."""
    folder = tmp_path_factory.mktemp("rllib")
    python = os.environ.get("ACTD_RLLIB_PYTHON", "")
    if not python:
        venv.create(folder / "env", with_pip=True)
        python = str(folder / "env" / "bin" / "python")
        for packages in (["torch==2.13.0"], ["ray[rllib]>=2.50"]):
            pip = [python, "-m", "pip", "install", "--quiet", *packages]
            if subprocess.run(pip, check=False).returncode:
                pytest.skip(f"{packages[0]} cannot be installed here")
    environment = os.environ | {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    subprocess.run([python, str(ANSWERS), str(folder / "saved")], check=True, env=environment, timeout=300)
    return folder / "saved"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_module_answers_as_rllib_does(saved: Path) -> None:
    """On a thousand observations each: the same choices, and actions, means and deviations to float32."""
    folders = sorted(saved.iterdir())

    assert len(folders) >= 13
    for folder in folders:
        told = np.load(folder / "answers.npz")
        found = of_rllib(read_rllib(folder))
        given = found.answer({"obs": told["obs"]})
        answer = {name: np.asarray(array, np.float64) for name, array in given.items()}
        assert len(told["obs"]) == ROWS
        if found.head != "gaussian":
            assert np.array_equal(answer["action"], told["action"]), folder.name
            np.testing.assert_allclose(answer[found.head], told[found.head], atol=1e-5, err_msg=folder.name)
            continue
        np.testing.assert_allclose(answer["action"], told["action"], atol=1e-5, err_msg=folder.name)
        reach = 1.0 if found.squash == "tanh" else np.array([1.5, 5.0])
        np.testing.assert_allclose(answer["std"], told["scale"] * reach, rtol=1e-5, err_msg=folder.name)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_rllib_still_leaves_the_squash_out_of_its_greedy_action(saved: Path) -> None:
    """Its sampled actions are squashed and its greedy ones are not (ray issue 51544): ours always are."""
    told = np.load(saved / "sac-box" / "answers.npz")

    np.testing.assert_allclose(told["greedy"], [-2, 0] + (np.clip(told["loc"], -1, 1) + 1) / 2 * [3, 10], atol=1e-5)
    assert np.abs(told["greedy"] - told["action"]).max() > 0.1
