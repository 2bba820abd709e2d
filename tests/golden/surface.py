"""The surface: what callers, operators and dashboards see of the service, each part as plain data."""

import asyncio
import hashlib
import io
import json
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as families

from export.spec.artefact import open_artefact
from tests import artefacts
from tests.acting import ARM, SWITCHES, factors, gaussian
from tests.in_process import Serving, serving

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "policies"
HERE = Path(__file__).parent
PAGE, SURFACE, JOURNAL = HERE / "openapi.json", HERE / "surface.json", HERE / "journal.log"
# How each of the policies of others is exported: words before and after the file.
EXPORTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sb3/ars_CartPole-v1.zip": ((), ()),
    "sb3/dqn_CartPole-v1.zip": ((), ()),
    "sb3/dqn_LunarLander-v2.zip": ((), ()),
    "sb3/ppo_LunarLander-v2.zip": ((), ()),
    "sb3/ppo_LunarLanderContinuous-v2.zip": ((), ()),
    "sb3/ppo_MountainCar-v0.zip": ((), ()),
    "sb3/sac_Pendulum-v1.zip": ((), ()),
    "onnx/mlagents_3DBall.onnx": (("adopt",), ()),
    "onnx/mlagents_Hallway_recurrent.onnx": (("adopt",), ()),
    "onnx/godot_JumperHard.onnx": (("adopt",), ("--head", "logits")),
}
CONFIG = """\
name = "demo"
policy = "demo-1.onnx"
[baseline]
kind = "constant"
action = "hold"
"""
HOLE = """
[[constraints]]
kind = "rule"
name = "never"
forbid = "cpu > 0.5"
"""
Mistake = tuple[str, ...]
# Command lines, in a folder with ``policy.toml`` (sound) and what ``MADE`` adds to it; what each ends with is golden.
MISTAKES: dict[str, Mistake] = {
    "actd: no command": ("service",),
    "actd: an unknown command": ("service", "server"),
    "actd: help": ("service", "--help"),
    "actd serve: no configuration": ("service", "serve"),
    "actd serve: a configuration that is not there": ("service", "serve", "missing.toml", "--port", "0"),
    "actd serve: no TOML": ("service", "serve", "broken.toml", "--port", "0"),
    "actd serve: an unknown setting": ("service", "serve", "unknown.toml", "--port", "0"),
    "actd serve: an unknown kind": ("service", "serve", "kind.toml", "--port", "0"),
    "actd serve: no port": ("service", "serve", "policy.toml", "--port", "65536"),
    "actd serve: an unknown option": ("service", "serve", "policy.toml", "--workers", "4"),
    "actd serve: a data folder that is a file": ("service", "serve", "policy.toml", "--port", "0", "--data", "a-file"),
    "actd serve: a keyring that is none": ("service", "serve", "policy.toml", "--port", "0", "--data", "keyless"),
    "actd serve: another service's folder": ("service", "serve", "policy.toml", "--port", "0", "--data", "others"),
    "actd plane: a policy that is not there": ("service", "plane", "lost.toml", "--data", "d1", "--descriptor", "0"),
    "actd plane: no artefact": ("service", "plane", "no-artefact.toml", "--data", "d2", "--descriptor", "0"),
    "actd plane: a rule that is wrong": ("service", "plane", "rule.toml", "--data", "d3", "--descriptor", "0"),
    "actd plane: a hole that is refused": ("service", "plane", "refused.toml", "--data", "d4", "--descriptor", "0"),
    "agent: no configuration": ("service.agent", "--data", "d5"),
    "agent: a configuration that is not there": ("service.agent", "--config", "missing.toml", "--data", "d5"),
    "guards: no command": ("guards",),
    "guards prove: sound": ("guards", "prove", "policy.toml"),
    "guards prove: a hole": ("guards", "prove", "hole.toml"),
    "guards prove: no time": ("guards", "prove", "hole.toml", "--seconds", "0"),
    "guards prove: a configuration that is not there": ("guards", "prove", "missing.toml"),
    "guards explain: no observation": ("guards", "explain", "policy.toml"),
    "guards explain: an observation that is too short": ("guards", "explain", "policy.toml", "--observation", "[1]"),
    "guards explain: sound": ("guards", "explain", "policy.toml", "--observation", "[0.5, 0, 3]"),
    "actd-export: nothing": ("export",),
    "actd-export: a checkpoint that is not there": ("export", "missing.zip", "-o", "x-1.onnx"),
    "actd-export: a checkpoint that is none": ("export", "policy.toml", "-o", "x-1.onnx"),
    "actd-export show: an artefact": ("export", "show", "demo-1.onnx"),
    "actd-export show: no artefact": ("export", "show", "no-artefact.onnx"),
    "actd-export verify: an artefact": ("export", "verify", "demo-1.onnx"),
    "actd-export verify: no artefact": ("export", "verify", "no-artefact.onnx"),
    "actd-export adopt: no ONNX": ("export", "adopt", "no-artefact.onnx", "-o", "x-1.onnx"),
}


def made(folder: Path) -> None:
    """What the mistakes are made with."""
    (folder / "demo-1.onnx").write_bytes(artefacts.demo())
    (folder / "no-artefact.onnx").write_bytes(b"none")
    (folder / "a-file").touch()
    for name, text in {
        "policy": CONFIG,
        "broken": "name = ",
        "unknown": CONFIG + "[metrics]\n",
        "kind": CONFIG.replace("constant", "oracle"),
        "lost": CONFIG.replace("demo-1", "lost-1"),
        "no-artefact": CONFIG.replace("demo-1", "no-artefact"),
        "rule": CONFIG + HOLE.replace("cpu", "cpus"),
        "hole": CONFIG + HOLE,
        "refused": CONFIG + '[proof]\nat_start = "refuse"\n' + HOLE,
    }.items():
        (folder / f"{name}.toml").write_text(text, "utf-8")
    (folder / "keyless").mkdir()
    (folder / "keyless" / "keyring.json").write_text("{}", "utf-8")
    (folder / "others").mkdir()
    owner = {"service": "other", "key_fingerprint": "00" * 8, "process": 1, "since": 0.0}
    (folder / "others" / "owner").write_text(json.dumps(owner), "utf-8")


def exit_code(folder: Path, mistake: Mistake) -> int:
    """What a command line ends with in a folder, in this process."""
    module, *words = mistake
    told, mask, where, argv = io.StringIO(), os.umask(0o077), Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = [module, *words]
    try:
        with warnings.catch_warnings(), redirect_stdout(told), redirect_stderr(told):
            # A test may have imported the command as a module before.
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
        os.chdir(where)
        os.umask(mask)
    return 0


def digest(told: object) -> str:
    """The digest of what can be written as JSON."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def services(folder: Path) -> Iterator[Mapping[str, Serving]]:
    """A service of each kind of action space."""
    rule = {"kind": "rule", "name": "keep two", "forbid": "action == 'scale_down' and replicas <= 2"}
    rest = {"kind": "cooldown", "name": "rest", "actions": ["scale_up"], "seconds": 60, "mode": "warn"}
    explore = {"kind": "epsilon_greedy", "epsilon": 0.5}
    demo = serving(folder / "1", facts=("price",), constraints=[rule, rest], explore=explore)
    several = serving(folder / "2", factors(SWITCHES), baseline={"kind": "constant", "action": [0, 0, 0]})
    box = serving(folder / "3", gaussian(ARM), baseline={"kind": "constant", "action": [0.0, 0.0, 0.0]})
    with demo as one, several as two, box as three:
        yield {"discrete": one, "multi_discrete": two, "box": three}


async def page(service: Serving) -> Any:
    """The OpenAPI document."""
    return (await service.get("/openapi.json")).json()


async def metrics(service: Serving) -> dict[str, Any]:
    """Names, types and labels of all metrics, and the closed sets of values that labels have."""
    service.permit()
    for i in range(8):
        await service.act(f"s{i}", {"cpu": 2.0 if i else -1.0, "queue": 0, "replicas": 1})
    for _ in range(2):
        told = (await service.act("again", {"cpu": 1.0, "queue": 0, "replicas": 1})).json()
    await service.act("slow", deadline_ms=1e-6)
    await service.post("/feedback", {"decision_id": told["decision_id"], "reward": 1})
    await service.post("/act", {})
    text = (await service.get("/metrics", accept="text/plain")).body.decode()
    found: dict[str, Any] = {}
    for family in families(text):
        samples = sorted({sample.name for sample in family.samples})
        labels = sorted({name for sample in family.samples for name in sample.labels})
        found[family.name] = {"type": family.type, "samples": samples, "labels": labels}
        for label in {"stage", "what", "rung", "le"} & set(labels):
            found[family.name][label] = sorted({one.labels[label] for one in family.samples if label in one.labels})
    return found


async def seen(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The demo's OpenAPI document; digests of all, and the metrics."""
    with services(folder) as running:
        pages = {name: await page(service) for name, service in running.items()}
        told = {"openapi": {name: digest(one) for name, one in pages.items()}}
        return pages["discrete"], {**told, "metrics": await metrics(running["discrete"])}


def exported(name: str, folder: Path, main: Callable[[list[str]], int]) -> str:
    """The digest of a shared policy's artefact, exported anew."""
    before, after = EXPORTS[name]
    written = folder / "policy-1.onnx"
    with redirect_stdout(io.StringIO()):
        status = main([*before, str(SHARED / name), "-o", str(written), *after])
    assert status == 0
    return open_artefact(written.read_bytes()).digest


def everything(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The OpenAPI document and all the rest, as they are now; but what the policies of others are exported to."""
    document, told = asyncio.run(seen(folder))
    made(folder)
    codes = {name: exit_code(folder, mistake) for name, mistake in MISTAKES.items()}
    bundled = {
        path.name: open_artefact(path.read_bytes()).digest for path in sorted((ROOT / "policies").glob("*.onnx"))
    }
    return document, {**told, "exit codes": codes, "policies": bundled}
