"""The servers that ``/act`` is measured beside are what they are said to be."""

import ast
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from export.spec import Array, Field, Fields
from loadtests.launch import ROOT, Server
from loadtests.observations import act_body
from loadtests.servers import act_model
from loadtests.stage import asked
from service.api.fast_path import ActProtocol

FIELDS = Fields(fields=(Field(name="cpu", low=0, high=1), Field(name="queue", low=0)))
MATRIX = Array(shape=(3, 2))
ANSWER = {
    "decision_id": "x" * 52,
    "action": 1,
    "action_name": "hold",
    "propensity": 0.95,
    "propensity_ok": True,
    "policy": "demo",
    "version": "demo-1",
    "track": "stable",
    "source": "policy",
    "violations": [{"constraint": "no flapping", "verdict": "prevented", "mode": "deny"}],
    "durability": "journal",
}


def seeded() -> random.Random:
    """The generator of a test."""
    return random.Random(1)  # noqa: S311 - made-up observations are no secrets


def told(space: Fields | Array) -> dict[str, Any]:
    """The part of ``GET /policy`` that the models are made from."""
    return {"observation": space.model_dump(mode="json"), "facts": []}


def uvicorn_settings(path: Path) -> dict[str, object]:
    """What a module gives ``uvicorn.Config`` by name; constants of the module are looked up."""
    tree = ast.parse(path.read_text("utf-8"))
    constants = {
        statement.targets[0].id: ast.unparse(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
    }
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "uvicorn.Config"
    ]
    return {
        str(keyword.arg): constants.get(ast.unparse(keyword.value), ast.unparse(keyword.value))
        for keyword in calls[0].keywords
    }


def test_uvicorn_is_set_as_the_service_sets_it() -> None:
    """All three run under the same settings; the service's protocol is httptools' with a shorter way to ``/act``."""
    ours, theirs = (uvicorn_settings(ROOT / name) for name in ("loadtests/servers.py", "service/server.py"))

    assert (ours.pop("http"), theirs.pop("http")) == ("'httptools'", "protocol")
    assert issubclass(ActProtocol, HttpToolsProtocol)
    assert ours == theirs


@pytest.mark.parametrize(("space", "listed"), [(FIELDS, False), (FIELDS, True), (MATRIX, False)])
def test_the_model_takes_the_benchs_bodies(space: Fields | Array, listed: bool) -> None:
    """The route validates the very bodies that ``/act`` is sent, and finds in them what was sent."""
    model = act_model(told(space), listed=listed)
    body = act_body(told(space), "s1", seeded(), listed=listed)

    assert model.model_validate(body).model_dump(exclude_none=True) == body


@pytest.mark.parametrize(
    "wrong",
    [
        {"observation": {"cpu": "high", "queue": 1}},
        {"observation": {"cpu": 1}},
        {"observation": {"cpu": 1, "queue": 1, "x": 1}},
        {"session": ""},
        {"stranger": 1},
    ],
)
def test_the_model_refuses_what_does_not_fit(wrong: dict[str, Any]) -> None:
    """It does validate: a wrong type, a missing field, a stranger."""
    model = act_model(told(FIELDS), listed=False)

    with pytest.raises(ValidationError):
        model.model_validate({"session": "s", "observation": {"cpu": 1, "queue": 1}, **wrong})


@pytest.mark.parametrize("name", ["bare", "fastapi"])
def test_both_answer_what_a_decision_answers(name: str, tmp_path: Path) -> None:
    """Both answer the typical decision's bytes: neither has less to send."""
    like = tmp_path / "like.json"
    like.write_text(json.dumps({"policy": told(FIELDS), "answer": ANSWER, "listed": False}), "utf-8")
    body = json.dumps(act_body(told(FIELDS), "s1", seeded())).encode()

    with Server(name, ["-m", "loadtests.servers", name, "--like", str(like)], tmp_path / "log") as server:
        content = asked(f"{server.serving.url}/act", body)

    assert content == json.dumps(ANSWER, separators=(",", ":")).encode()
