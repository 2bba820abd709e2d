"""Every policy family, served: over HTTP it acts as its source does, with torch's own odds for what it explores."""

import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.meaning import Arrays, Meaning
from export.parity import TOLERANCE, differing, near_ties
from export.questions import sizes_of
from export.spec import Box, Discrete
from tests.export.gallery import NAMES, artefact, shown
from tests.in_process import Serving, serving
from tests.system.families import SESSIONS, STEPS, Answered, Ask, odds, played, resolved, trial_of
from tests.system.serving import Client, Service

ROWS = 20
# A share of the range, for policies that have no spread of their own.
NOISE = 0.05
LIMITS = {"deadline_ms": 30_000}  # a busy machine must not turn an answer into the baseline's
# One for each kind of action, and one with memory.
REAL = {
    "discrete": "PPO (sb3)",
    "multi_discrete": "masked, MaskablePPO, MultiDiscrete (sb3-contrib)",
    "box": "SAC (sb3)",
    "memory": "recurrent, RecurrentPPO (sb3-contrib)",
}
CONFIG = """\
name = "{kind}"
policy = "{kind}-1.onnx"
baseline = {{ kind = "constant", action = {action} }}
limits = {{ deadline_ms = 30000 }}
"""


def baseline(meaning: Meaning) -> object:
    """Something to do in a space, for the baseline that no test here lets answer."""
    action = meaning.action
    if isinstance(action, Discrete):
        return action.names[0]
    if not isinstance(action, Box):
        return [0] * len(action.sizes)
    return [float(np.clip(0.0, low, high)) for low, high in zip(action.low, action.high, strict=True)]


def asking(service: Serving) -> Ask:
    """Ask a service in this process."""

    async def ask(request: dict[str, object]) -> Mapping[str, Any]:
        reply = await service.post("/act", request)
        assert reply.status == 200, reply.body
        told: Mapping[str, Any] = reply.json()
        return told

    return ask


def assert_acts_as_its_source(name: str, found: list[Answered]) -> None:
    """The actions are the source's own, by the policy, with certainty, in the space's form."""
    meaning, parity = shown(name).meaning, artefact(name).manifest.parity
    port = meaning.action.port
    executed = np.array([one.told["action"] for one in found], dtype=port.dtype).reshape(len(found), *port.shape)
    native = np.concatenate([one.native for one in found if one.native is not None]).reshape(executed.shape)
    wrong = differing(meaning, TOLERANCE, native, executed)
    if not isinstance(meaning.action, Box):
        wrong &= ~near_ties(meaning, parity, np.concatenate([one.head[meaning.outputs[0].name] for one in found]))

    assert not wrong.any()
    assert {one.told["source"] for one in found} == {"policy"}
    assert {(one.told["propensity"], one.told["propensity_ok"]) for one in found} == {(1.0, True)}
    assert {np.shape(one.told["action"]) for one in found} == {port.shape}
    assert len({str(one.told["action"]) for one in found}) > 1


@pytest.mark.parametrize("name", NAMES)
async def test_every_family_acts_as_its_source_does(name: str, tmp_path: Path) -> None:
    """Without exploration the source's own actions come out, with memory over two sessions and a new episode."""
    exhibit = shown(name)
    meaning, told = exhibit.meaning, {"kind": "constant", "action": baseline(exhibit.meaning)}

    with serving(tmp_path, artefact(name).data, baseline=told, limits=LIMITS) as service:
        found = await played(asking(service), exhibit, artefact(name), trial_of(meaning, ROWS), explore=False)

    assert len(found) == (STEPS * SESSIONS if meaning.memory else ROWS)
    assert_acts_as_its_source(name, found)


@pytest.mark.parametrize("name", NAMES)
async def test_every_family_explores_with_torchs_own_odds(name: str, tmp_path: Path) -> None:
    """Drawn from the policy's own distribution, each action has the propensity or density that torch gives it.

    What a request forbids is never executed, and the odds are those of what is left.
    """
    exhibit = shown(name)
    meaning, box = exhibit.meaning, isinstance(exhibit.meaning.action, Box)
    noise = NOISE if meaning.family == "deterministic" and bounded(meaning) else 0.0
    explorer = {"kind": "gaussian", "noise": noise} if box else {"kind": "softmax"}
    told = {"kind": "constant", "action": baseline(meaning)}

    with serving(tmp_path, artefact(name).data, baseline=told, explore=explorer, limits=LIMITS) as service:
        service.permit()
        found = await played(
            asking(service), exhibit, artefact(name), trial_of(meaning, ROWS), explore=True, masks=True
        )

    for one in found:
        assert one.served is not None
        expected, measure = odds(meaning, one, one.served, noise)
        assert one.told["source"] == "policy"
        assert one.told["propensity_ok"]
        assert one.told.get("measure", "mass") == measure
        assert not resolved(meaning, one) or one.told["propensity"] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        # A density that is narrow has more digits than float32 tells of its mean: there the heads are compared.
        assert box or one.told["propensity"] == pytest.approx(odds(meaning, one, one.head, noise)[0], abs=1e-5)
        assert_same_head(name, one.head, one.served)
        assert one.allowed is None or one.allowed[places(meaning, one.told["action"])].all()
    assert sum(resolved(meaning, one) for one in found) > len(found) / 2
    assert any(one.allowed is not None for one in found) != box


def assert_same_head(name: str, head: Arrays, served: Arrays) -> None:
    """The file's head is torch's, within the tolerance of the proof."""
    parity = artefact(name).manifest.parity
    for port in shown(name).meaning.outputs:
        assert parity.errors(head[port.name], served[port.name], port.name).max() <= TOLERANCE


def bounded(meaning: Meaning) -> bool:
    """Whether every number of a Box has two bounds."""
    return isinstance(meaning.action, Box) and bool(np.isfinite([meaning.action.low, meaning.action.high]).all())


def places(meaning: Meaning, action: int | list[int]) -> list[int]:
    """Where the choices of an action stand in a mask."""
    sizes = sizes_of(meaning)
    starts = np.cumsum(sizes) - sizes
    return [int(start + choice) for start, choice in zip(starts, np.atleast_1d(action), strict=True)]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Service]]:
    """A real process for one policy of each kind of action and one with memory, started side by side."""
    folder = tmp_path_factory.mktemp("families")
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        begun = {}
        for kind, name in REAL.items():
            (folder / f"{kind}-1.onnx").write_bytes(artefact(name).data)
            action = baseline(shown(name).meaning)
            text = CONFIG.format(kind=kind, action=f'"{action}"' if isinstance(action, str) else action)
            assert tomllib.loads(text)["name"] == kind
            (folder / f"{kind}.toml").write_text(text, "utf-8")
            begun[kind] = pool.submit(stack.enter_context, Service(folder / f"{kind}.toml", folder / kind))
        yield {kind: service.result() for kind, service in begun.items()}


@pytest.mark.parametrize("kind", REAL)
async def test_real_processes_act_as_the_sources_do(kind: str, services: Mapping[str, Service]) -> None:
    """The same over a socket: for each kind of action, and for sessions with memory that are interleaved."""
    name = REAL[kind]

    with Client(services[kind].port) as client:

        async def ask(request: dict[str, object]) -> Mapping[str, Any]:
            status, told = client.post("/act", request)
            assert status == 200, told
            answer: Mapping[str, Any] = told
            return answer

        found = await played(ask, shown(name), artefact(name), trial_of(shown(name).meaning, ROWS), explore=False)

    assert_acts_as_its_source(name, found)
