"""Preparation: the folder is the supervisor's once the process that made it so has ended, and not where it failed."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.supervisor import prepare
from tests.system.serving import MINIMAL, ROOT, demo


def test_the_folder_is_held_by_who_asked_for_it(tmp_path: Path) -> None:
    """The lock outlives the process that took it, is let go with the descriptor, and names the one who holds it."""
    config, data = demo(tmp_path), tmp_path / "data"

    hold = prepare(config, data)

    assert json.loads((data / "owner").read_text("utf-8"))["process"] == os.getpid()
    assert not os.get_inheritable(hold._descriptor)
    with (data / "owner").open("r+") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hold.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_second_one_is_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is told who has the folder, and the first one keeps it."""
    config, data = demo(tmp_path), tmp_path / "data"
    hold = prepare(config, data)

    with pytest.raises(subprocess.CalledProcessError) as refused:
        prepare(config, data)

    hold.close()
    assert refused.value.returncode == 2
    assert f"(process {os.getpid()})" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL.replace('name = "test"', "name = 3"), "name: was 3"),
        (MINIMAL + "[strange]\n", "strange: is not a setting"),
        ("name", "is not TOML"),
    ],
)
def test_a_wrong_configuration_makes_no_folder(
    text: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error, by the process that found it."""
    config = demo(tmp_path)
    config.write_text(text, "utf-8")

    with pytest.raises(subprocess.CalledProcessError, match="status 2"):
        prepare(config, tmp_path / "data")

    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("actd: ")
    assert said in line
    assert not (tmp_path / "data").exists()


def test_a_failure_that_is_no_refusal_is_a_sentence(tmp_path: Path) -> None:
    """A preparation that was ended, or could not run, is told by its status; nothing is served."""
    script = (
        "import sys; from service.__main__ import main; sys.executable = '/bin/false'; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "serve", str(demo(tmp_path)), "--data", str(tmp_path / "data")]

    done = subprocess.run([*command, "--port", "0"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr == "actd: the preparation ended with status 1\n"


def test_nobody_to_answer_lets_the_folder_go(tmp_path: Path) -> None:
    """A supervisor that was killed meanwhile has nothing that a later one would have to wait for."""
    config, data = demo(tmp_path), tmp_path / "data"
    ours, theirs = socket.socketpair()
    answer = str(theirs.fileno())
    command = [sys.executable, "-m", "service.preparation", str(config), "--data", str(data), "--answer", answer]
    ours.close()

    with theirs:
        done = subprocess.run(command, cwd=ROOT, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL, check=False)

    assert done.returncode == 2
    prepare(config, data).close()
