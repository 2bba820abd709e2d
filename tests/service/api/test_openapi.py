"""The OpenAPI page: valid, and true: what it allows is taken, and what is answered is what it says."""

import asyncio
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import pytest
import regress
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import artefacts, ports
from tests.in_process import SEEN, Reply, Serving, asking, call, serving

# As fast as can be and always the same: a failure is shown as it was found.
ONCE = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
METHODS = {"get", "post", "put", "delete", "patch", "options", "head"}
OURS = ("/act", "/act/batch", "/feedback")
# What JSON Schema cannot say: that a decision is one of this deployment, that some action is left to choose from (also
# to the baseline, where a deadline is missed), that a sequence is as long as another, that an outcome says something.
BEYOND = (
    *("is not a decision of this deployment", "none before this one", "forbids every action", "truths, expected"),
    *(
        "is not a list of actions, expected",
        "says nothing",
        "was used for another body",
        "holds nothing that could be taken",
        "has next_observation and final_observation",
        "no action is safe here: DeadlineExceeded",
    ),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The demo with a fact."""
    with serving(tmp_path_factory.mktemp("openapi"), facts=("price",)) as served:
        yield served


@pytest.fixture(scope="module")
def page(served: Serving) -> dict[str, Any]:
    """The page as it is served."""
    app: Any = served.application.asgi._app
    told: dict[str, Any] = app.openapi()
    return told


def body_schema(page: dict[str, Any], path: str) -> dict[str, Any]:
    """What a path takes."""
    schema: dict[str, Any] = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema


@cache
def validator(schema: str) -> Any:
    """What checks values against a schema, which is given as text."""
    return jsonschema.Draft202012Validator(json.loads(schema))


def validate(value: object, schema: dict[str, Any]) -> None:
    """Raise ValidationError where a value is not what a schema says."""
    validator(json.dumps(schema)).validate(value)


def fits(page: dict[str, Any], method: str, path: str, reply: Reply) -> None:
    """Fail where a reply is not declared: its status, or its body."""
    answers = page["paths"][path][method]["responses"]
    assert str(reply.status) in answers, (path, reply.status)
    content = answers[str(reply.status)].get("content", {}).get("application/json", {})
    if content.get("schema"):
        validate(reply.json(), content["schema"])


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object within a document."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from objects(inner)


async def test_the_page_is_served_and_whole(served: Serving, page: dict[str, Any]) -> None:
    """Every call of the data plane is on it, with a summary; no reference leads nowhere."""
    reply = await served.get("/openapi.json")

    assert reply.json() == json.loads(json.dumps(page))
    assert page["openapi"].startswith("3.1")
    assert {"/act", "/act/batch", "/feedback", "/report", "/metrics", "/policy", "/live", "/ready"} <= set(
        page["paths"]
    )
    for methods in page["paths"].values():
        assert set(methods) <= METHODS
        assert all(operation["summary"] and operation["responses"] for operation in methods.values())
    for node in objects(page):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/components/schemas/") in page["components"]["schemas"]


@pytest.mark.parametrize("path", OURS)
def test_every_schema_is_one(page: dict[str, Any], path: str) -> None:
    """Bodies and answers are valid JSON Schema of the draft that OpenAPI 3.1 means."""
    operation = page["paths"][path]["post"]
    schemas = [body_schema(page, path)]
    schemas += [answer["content"]["application/json"]["schema"] for answer in operation["responses"].values()]

    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", OURS)
def test_patterns_are_those_of_json_schema(page: dict[str, Any], path: str) -> None:
    """They mean to ECMA-262, which validators and generated clients use, what they mean to the decoder."""
    patterns = {node["pattern"] for node in objects(page["paths"][path]) if isinstance(node.get("pattern"), str)}

    assert patterns
    for pattern in patterns:
        found = regress.Regex(pattern, "u")
        for text in ("a", "x" * 52, "a-b_c", "a b", "a\n", "\n", "", "é"):
            assert (found.find(text) is not None) == (re.search(pattern.replace("$", r"\Z"), text) is not None)


@pytest.mark.parametrize(
    "body",
    [
        asking(),
        asking("s", [0.5, 1, 3]),
        asking(previous=None, allowed=["hold"], facts={"price": 1.5}, explore=False, deadline_ms=5, request_id="r"),
        asking(allowed=[True, False, True], observed_at=1e9, feedback={"reward": 1, "executed_action": "hold"}),
    ],
)
async def test_bodies_of_the_readme_are_declared(
    served: Serving, page: dict[str, Any], body: dict[str, object]
) -> None:
    """What is taken in practice is what the page allows."""
    validate(body, body_schema(page, "/act"))
    reply = await served.post("/act", body)

    assert reply.status == 200
    fits(page, "post", "/act", reply)


@pytest.mark.parametrize(
    "body",
    [
        {"session": "s"},
        asking("a b"),
        asking("x" * 129),
        asking("s", [1, 2]),
        asking("s", {**SEEN, "more": 1}),
        asking("s", ["1", 2, 3]),
        asking("s", [1e39, 0, 0]),
        asking(previous="short"),
        asking(allowed=[True] * 4),
        asking(deadline_ms=0),
        asking(observed_at=-1),
        asking(feedback={"executed_action": 3}),
        asking(explore=None),
        asking(more=1),
        asking(facts={"other": 1}),
        asking(allowed=["fly"]),
        asking(feedback={"executed_action": "fly", "reward": 1}),
    ],
)
async def test_bodies_that_are_refused_are_not_declared(
    served: Serving, page: dict[str, Any], body: dict[str, object]
) -> None:
    """A client that validates first is told the same: names of facts and actions too."""
    reply = await served.post("/act", body)

    assert reply.status == 422
    fits(page, "post", "/act", reply)
    with pytest.raises(jsonschema.ValidationError):
        validate(body, body_schema(page, "/act"))


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows."""
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return st.one_of([values({**schema, "type": one}) for one in kind])
    if kind == "object":
        return _objects(schema)
    if kind == "array":
        return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema.get("maxItems", 4))
    if kind == "string":
        return _texts(schema)
    if kind in ("number", "integer"):
        return _numbers(schema, whole=kind == "integer")
    return {"boolean": st.booleans(), "null": st.none()}[str(kind)]


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    told = {name: values(one) for name, one in schema.get("properties", {}).items()}
    needed = {name: told.pop(name) for name in schema.get("required", [])}
    known = st.fixed_dictionaries(needed, optional=told)
    more = schema.get("additionalProperties", True)
    if more is False:
        return known
    return known if not isinstance(more, dict) else st.dictionaries(st.sampled_from(["price"]), values(more))


def _texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 20)
    pattern = schema.get("pattern")
    letters = [chr(c) for c in range(32, 127) if pattern is None or re.search(pattern, chr(c))]
    return st.text(st.sampled_from(letters), min_size=least, max_size=most)


def _numbers(schema: dict[str, Any], *, whole: bool) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if whole:
        return st.integers(low, None if high is None else high - ("exclusiveMaximum" in schema))
    return st.floats(
        low, high, allow_nan=False, allow_infinity=False, exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
    )  # fmt: skip


@pytest.mark.parametrize("path", OURS)
def test_whatever_the_page_allows_is_taken(served: Serving, page: dict[str, Any], path: str) -> None:
    """Bodies made from the declared schema are decided, up to what no schema can say; the answers are as declared."""
    schema = body_schema(page, path)
    runner, taken = asyncio.Runner(), 0

    @settings(ONCE, max_examples=60 if path == "/act/batch" else 200)
    @given(values(schema), st.booleans())
    def property_holds(body: Any, ours: bool) -> None:
        nonlocal taken
        for item in objects(body) if ours and path == "/feedback" else ():
            if "decision_id" in item:
                item["decision_id"] = made
        validate(body, schema)
        reply = runner.run(call(served.app, "POST", path, json.dumps(body).encode()))
        fits(page, "post", path, reply)
        errors = [node["error"] for node in objects(reply.json()) if "message" in node.get("error", {})]
        assert not [error for error in errors if not any(text in error["message"] for text in BEYOND)], body
        taken += not errors

    with runner:
        made = runner.run(served.act("made")).json()["decision_id"]
        property_holds()

    assert taken > 10


async def test_every_refusal_has_the_declared_shape(served: Serving, page: dict[str, Any]) -> None:
    """Errors of every status that can be had here are as the page says."""
    body = json.dumps(asking()).encode()
    typed = ((b"content-type", b"text/plain"),)
    for path in OURS:
        fits(page, "post", path, await served.call("POST", path, b"{"))
        fits(page, "post", path, await served.call("POST", path, body, headers=typed))
        fits(page, "post", path, await served.call("POST", path, b" " * (5 * 2**20)))
    for i in range(2):
        fits(page, "post", "/act", await served.act("s", [0.1 * i, 0, 1], request_id="twice"))
    fits(page, "post", "/act/batch", await served.post("/act/batch", {"requests": [asking(), {}]}))
    nothing = await served.post("/feedback", [{}, {"decision_id": "A" * 52, "reward": 1}])
    fits(page, "post", "/feedback", nothing)
    assert (nothing.status, len(nothing.json()["results"])) == (422, 2)
    other = (await served.act("other")).json()["decision_id"]
    conflict = await served.act("s", previous=other)
    fits(page, "post", "/act", conflict)
    assert conflict.status == 409
    late = await served.act("s", deadline_ms=1e-9)
    fits(page, "post", "/act", late)
    assert late.json()["late"] is True
    for path in ("/report", "/metrics", "/policy", "/live", "/ready"):
        fits(page, "get", path, await served.get(path))


async def test_parts_of_an_observation_are_declared(tmp_path: Path) -> None:
    """Each by its key, in each of its forms; the page is as valid as for plain numbers."""
    told = {"image": [[0, 1, 2], [3, 4, 5]], "state": [0.5, 3], "lidar/front": [0.1, 2], "zone": [1]}
    named = {**told, "image": "AAECAwQF", "state": {"cpu": 0.5, "replicas": 3}}
    with serving(tmp_path, ports.parts()) as parts:
        page = (await parts.get("/openapi.json")).json()
        schema = body_schema(page, "/act")
        jsonschema.Draft202012Validator.check_schema(schema)
        for observation in (told, named):
            validate(asking("s", observation), schema)
            fits(page, "post", "/act", await parts.act("s", observation))
        for wrong in ({**told, "more": 1}, {**told, "image": [[0, 1, 2]]}, {**told, "zone": [9]}, [0.5]):
            reply = await parts.act("s", wrong)
            fits(page, "post", "/act", reply)
            with pytest.raises(jsonschema.ValidationError):
                validate(asking("s", wrong), schema)

            assert reply.status == 422


async def test_one_number_is_declared_and_taken_without_brackets(tmp_path: Path) -> None:
    """A state of a table may be sent as ``3``: on each route, in feedback, and as the page says; it is logged as a row.

    A state that the table does not have is 422 there too.
    """
    table = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
    forms: tuple[object, ...] = (2, [2], {"state": 2})
    with serving(tmp_path, artefacts.table(table), baseline={"kind": "constant", "action": "a0"}) as served:
        schema = body_schema((await served.get("/openapi.json")).json(), "/act")
        jsonschema.Draft202012Validator.check_schema(schema)
        for form in forms:
            validate(asking("s", form, feedback={"reward": 1, "next_observation": form}), schema)
        with pytest.raises(jsonschema.ValidationError):
            validate(asking("s", 3), schema)
        alone = await served.act("s", 2)
        decided = alone.json()["decision_id"]
        rows = [asking("t", form) for form in (*forms, 3)]
        batch = (await served.post("/act/batch", {"requests": rows})).json()["decisions"]
        told = await served.act("s", 0, feedback={"decision_id": decided, "reward": 1, "final_observation": 2})
        later = {"decision_id": told.json()["decision_id"], "reward": 1, "next_observation": 1}
        results = (await served.post("/feedback", later)).json()["results"]

        assert alone.status == 200
        assert alone.json()["action"] == 1
        assert [row.get("action", row.get("error", {}).get("path")) for row in batch] == [
            1,
            1,
            1,
            "$.requests[3].observation",
        ]
        assert [result["status"] for result in results] == ["accepted"]
        assert [decision.observation for decision in served.decisions()] == [[2.0], [2.0], [2.0], [2.0], [0.0]]
        assert [feedback.next_observation for feedback in served.feedback()] == [[2.0], [1.0]]
        assert (await served.act("s", 3)).status == 422
