"""What a person installs, builds and starts: packages, pins, make targets, image and compose file."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
DEVELOPMENT = [Requirement(line) for lines in EXTRAS.values() for line in lines if not line.startswith("actd[")]
DEBIAN_12 = {"python_version": "3.11", "python_full_version": "3.11.2"}
TARGETS = {"serve", "drive", "train", "test", "check", "bench", "soak", "chaos", "clean", "help"}


def pins() -> dict[str, str]:
    """The pinned version of each distribution."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if not line.startswith("#"))
    }


def tree(requirements: list[Requirement]) -> set[str]:
    """The names of all distributions that come with these, on this Python and on Debian 12's."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(requirements)
    while waiting:
        wanted = waiting.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = importlib.metadata.requires(wanted.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # comes on the other Python only
        waiting += [needed for needed in map(Requirement, lines) if applies(needed, wanted.extras)]
    return {name for name, _ in seen}


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a requirement holds where its distribution was asked for with these extras."""
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate({**python, "extra": extra}) for python in ({}, DEBIAN_12) for extra in (extras or {""})
    )


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as a person would, whatever make runs this test."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    return subprocess.run(
        ["make", *arguments],  # noqa: S607 - the make on the PATH
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what make needs to install, and a Python that writes down how it is called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def stub(folder: Path, script: str) -> str:
    """A PYTHON=... argument that runs this shell script and notes each call in `calls`."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\necho "$*" | head -n 1 >> {folder}/calls\n{script}\n', "utf-8")
    path.chmod(0o755)
    return f"PYTHON={path}"


def services() -> dict[str, Any]:
    """The services of the compose file."""
    loaded: dict[str, Any] = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text("utf-8"))
    services: dict[str, Any] = loaded["services"]
    return services


def instructions() -> list[str]:
    """The instructions of the Dockerfile, one a line, without comments."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def expressions(panel: dict[str, Any]) -> Iterator[str]:
    """The queries of a dashboard's panel."""
    for target in panel["targets"]:
        yield target["expr"]


def test_every_package_folder_is_listed() -> None:
    """A package folder that pyproject.toml does not list would be missing from the image."""
    inside = {
        ".".join(found.parent.relative_to(ROOT).parts)
        for package in ("export", "guards", "service")
        for found in (ROOT / package).rglob("__init__.py")
    }

    assert set(PROJECT["tool"]["setuptools"]["packages"]) == inside


@pytest.mark.parametrize(
    ("covered", "passes"),
    [("whole.py", True), ("whole.py half.py", False), ("gone/* whole.py", False), ("whole.py gone.py", False)],
)
def test_what_has_to_be_covered_is_there_and_is_covered(tmp_path: Path, covered: str, passes: bool) -> None:
    """Of several patterns one that matches no file fails, though the others are covered whole."""
    (tmp_path / "whole.py").write_text("x = 1\n")
    (tmp_path / "half.py").write_text("if not __name__:\n    x = 2\n")
    (tmp_path / "run.py").write_text("import half\nimport whole\n")
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "coverage", "run", "--branch", "--source=.", "run.py"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)

    command = ["make", "-f", str(ROOT / "Makefile"), "covered", f"DEV={sys.executable}", f"COVERED={covered}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)

    assert (done.returncode == 0) == passes, done.stdout + done.stderr


def test_the_makefile_names_what_there_is_to_cover() -> None:
    """Every pattern of what the tests cover whole matches a file of the tree."""
    (covered,) = re.findall(r"^COVERED = (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)

    assert "service/decision/decide.py" in covered.split()
    assert all(list(ROOT.glob(pattern)) for pattern in covered.split())


def test_serving_installs_no_training_library() -> None:
    """The runtime brings neither torch nor a data-frame or training library, not even by way of another."""
    heavy = {"torch", "pandas", "gymnasium", "stable-baselines3", "onnxscript", "scipy", "matplotlib"}

    assert not tree(RUNTIME) & heavy


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    """What was tested is what pyproject.toml allows."""
    pinned = pins()

    for requirement in RUNTIME + DEVELOPMENT:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_everything_that_comes_along_is_pinned() -> None:
    """No distribution of the whole tree is left to the day it is installed on."""
    assert tree(RUNTIME + DEVELOPMENT) <= pins().keys()


def test_make_help_names_every_target() -> None:
    """`make` alone and `make help` list what there is."""
    shown = make("help")

    assert shown.returncode == 0
    assert {line.split()[1] for line in shown.stdout.splitlines()} == TARGETS
    assert make().stdout == shown.stdout


def test_make_serve_passes_its_variables_on() -> None:
    """The command takes make's place, so that a signal reaches it, and gets host, port and data folder."""
    shown = make(
        "--dry-run",
        "--assume-old=.venv/.installed",
        "--old-file=.venv/.installed",
        "serve",
        "PORT=9000",
        "DATA=some dir",
    )

    command = 'exec .venv/bin/actd serve policy.toml --host "127.0.0.1" --port "9000" --data "some dir"'
    assert shown.stdout.splitlines()[-1] == command


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("exit 1", "needs Python 3.11 or newer"),
        ('case "$*" in *version_info*) exit 0;; esac; exit 1', "pip 22.3 or newer"),
    ],
)
def test_an_unfit_python_gets_a_sentence(clone: Path, script: str, sentence: str) -> None:
    """An older Python or pip is told in words, before anything is made."""
    told = make("serve", stub(clone, script), folder=clone)

    assert told.returncode != 0
    assert sentence in told.stdout
    assert "Traceback" not in told.stdout + told.stderr
    assert not (clone / ".venv").exists()


def test_an_absent_python_gets_a_sentence(clone: Path) -> None:
    """A Python that is not there is told in words."""
    told = make("serve", "PYTHON=python0.0", folder=clone)

    assert told.returncode != 0
    assert "There is no python0.0 here" in told.stdout


def test_a_half_built_environment_is_made_anew(clone: Path) -> None:
    """An installation that was interrupted leaves no mark, and the next one starts from nothing."""
    python = stub(clone, 'case "$*" in *"-m venv"*) mkdir -p .venv;; *" install "*) exit 1;; esac')

    for _ in range(2):
        assert make(".venv/.installed", python, folder=clone).returncode != 0
        assert not (clone / ".venv/.installed").exists()
    calls = (clone / "calls").read_text("utf-8").splitlines()
    assert calls.count("-m venv --clear --without-pip .venv") == 2


def test_the_image_holds_every_package_and_starts_as_nobody() -> None:
    """What is copied into the image is what pyproject.toml lists, and its user has no rights."""
    lines = instructions()

    for package in {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}:
        assert f"COPY {package} {package}" in lines
    assert "USER 65532:65532" in lines
    assert json.loads(lines[-2].removeprefix("ENTRYPOINT ")) == ["actd"]
    assert json.loads(lines[-1].removeprefix("CMD "))[:2] == ["serve", "/app/policy.toml"]


def test_the_composed_service_can_write_to_its_volume_only() -> None:
    """The compose file takes from the service what it does not need."""
    service = services()["actd"]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["volumes"] == ["actd-data:/data"]


def test_composed_services_are_pinned_and_wait_for_health() -> None:
    """No image floats, every dependency is waited for until it is healthy, every mounted file is there."""
    for name, service in services().items():
        if name != "actd":
            assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)+(-\w+)?", service["image"]), service["image"]
        for needed in service.get("depends_on", {}).values():
            assert needed == {"condition": "service_healthy"}
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source


def test_redis_keeps_what_it_takes() -> None:
    """The composed Redis writes a log of its own and refuses rather than evicts."""
    command = " ".join(services()["redis"]["command"])

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_dashboard_shows_metrics_that_exist() -> None:
    """Every metric of the dashboard is one that the service exposes."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/actd.json").read_text("utf-8"))
    shown = {
        re.sub("_(total|bucket)$", "", name)
        for panel in dashboard["panels"]
        for expression in expressions(panel)
        for name in re.findall(r"\bactd_\w+", expression)
    }
    sources = "".join(
        (ROOT / "service" / name).read_text("utf-8") for name in ("telemetry/metrics.py", "application.py")
    )

    assert shown
    for name in shown:
        assert f'"{name}"' in sources or f'"{name.removeprefix("actd_")}": ' in sources, name


@pytest.mark.parametrize("script", [".ci/run", "deploy/image-check.sh"])
def test_scripts_can_be_run(script: str) -> None:
    """A script is executable and bash can read it."""
    assert os.access(ROOT / script, os.X_OK)

    subprocess.run(["bash", "-n", ROOT / script], check=True)  # noqa: S607 - the bash on the PATH
