"""Replicas and their workers as real processes: a session that wanders between them breaks nothing."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from export.spec.artefact import open_artefact
from guards.abstention import AnyConstraint
from guards.records import Schema
from service.log.ids import make_keyring
from tests import artefacts
from tests.in_process import asking
from tests.service.served_cost import toml
from tests.system.serving import Client, Service
from tests.walk import CONSTRAINTS, Walk

STEPS = 600
# Two replicas with two workers each: four processes, each a writer of its own.
PROCESSES = ("replica-1/worker-1", "replica-1/worker-2", "replica-2/worker-1", "replica-2/worker-2")


class Answer(NamedTuple):
    """An answer over HTTP."""

    status: int
    told: Any

    def json(self) -> Any:
        return self.told


class Remote:
    """A process that is asked over HTTP."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def act(self, session: str = "s", observation: object = None, **told: object) -> Answer:
        return Answer(*self._client.post("/act", asking(session, observation, **told)))


async def test_a_session_that_wanders_between_processes_breaks_nothing(tmp_path: Path) -> None:
    """600 steps of one session at two replicas with two workers each, under all constraints with a history."""
    (tmp_path / "demo-1.onnx").write_bytes(artefacts.demo())
    config = tmp_path / "policy.toml"
    config.write_text(
        'name = "demo"\npolicy = "demo-1.onnx"\nguard_clock = "observed_at"\nlimits = { deadline_ms = 30000 }\n'
        'baseline = { kind = "constant", action = "hold" }\n'
        f"constraints = {toml(CONSTRAINTS)}\n"
    )
    make_keyring(tmp_path / "keyring.json")
    schema = Schema.of(open_artefact(artefacts.demo()).manifest)
    constraints = TypeAdapter(list[AnyConstraint]).validate_python(CONSTRAINTS)

    with ExitStack() as running:
        clients = []
        for name in PROCESSES:
            data = tmp_path / name
            data.mkdir(parents=True)
            shutil.copy(tmp_path / "keyring.json", data)
            service = running.enter_context(Service(config, data))
            clients.append(running.enter_context(Client(service.port)))
        assert len({client.get("/report")[1]["writer"] for client in clients}) == len(PROCESSES)
        walk = Walk([Remote(client) for client in clients], constraints, schema, 1)
        await walk.go(STEPS)
        decided = sum(client.get("/report")[1]["decisions"] for client in clients)

    # What is refused is on the record as well.
    assert decided in (STEPS, STEPS - walk.found["nothing"])
    assert min(walk.found[one["name"]] for one in CONSTRAINTS) > 5
    assert min(walk.found[name] for name in ("hold", "scale_up", "scale_down")) > 5
