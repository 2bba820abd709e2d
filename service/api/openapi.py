"""What the OpenAPI page says of the routes that decode their bodies themselves: the decoders' own schemas."""

from typing import Any

import msgspec

from service.api.action_json import Actions
from service.api.schemas import Answer, Codec, FeedbackResult

_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("code", "path", "message")},
            "required": ["code", "path", "message"],
        }
    },
    "required": ["error"],
}
_REFUSALS = {
    "400": "The body is not JSON",
    "408": "The body did not arrive in time",
    "409": "The request id was used for another body, or the decision named is another session's",
    "413": "The body is too large",
    "415": "The body is not declared as JSON",
    "422": "The body does not fit the schema",
    "503": "No action is safe, or nothing can be made durable",
}


def declared(codec: Codec) -> dict[str, dict[str, Any]]:
    """For each of ``act``, ``batch`` and ``feedback``: its request body and its answers, as OpenAPI has them."""
    act, answer, outcome, result = (
        _inlined(type_) for type_ in (codec.act_type, Answer, codec.outcome_type, FeedbackResult)
    )
    _name(act, outcome, codec)
    _answer(answer, codec.actions)
    outcome = {**outcome, "required": ["decision_id"]}
    batch = _object(requests={"type": "array", "items": act})
    decisions = _object(decisions={"type": "array", "items": {"anyOf": [answer, _ERROR]}})
    told = {"anyOf": [outcome, {"type": "array", "items": outcome}]}
    return {
        "act": _operation(act, answer, "The decision", ("400", "408", "409", "413", "415", "422", "503")),
        "batch": _operation(batch, decisions, "A decision or an error for each request, in order", _BATCH),
        "feedback": _feedback(told, result),
    }


def _feedback(told: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The operation ``/feedback``: where no item could be taken, the error says so beside the results."""
    results = {"type": "array", "items": result}
    operation = _operation(told, _object(results=results), "What became of each item, in order", (*_BATCH, "503"))
    refused = operation["responses"]["422"]
    refused["description"] = "The body does not fit the schema, or no item of it could be taken"
    schema = {**_ERROR, "properties": {"results": results, **_ERROR["properties"]}}
    refused["content"] = {"application/json": {"schema": schema}}
    return operation


_BATCH = ("400", "408", "413", "415", "422")


def _name(act: dict[str, Any], outcome: dict[str, Any], codec: Codec) -> None:
    """Say which actions and facts there are: the decoder leaves that to ``decoding.py``, which knows them by name."""
    allowed, executed, _ = codec.actions.schemas()
    facts = {"type": "object", "properties": {name: {"type": "number"} for name in codec.schema.facts}}
    properties = act["properties"]
    properties["allowed"] = {"anyOf": [allowed, {"type": "null"}], "default": None}
    properties["facts"] = {"anyOf": [{**facts, "additionalProperties": False}, {"type": "null"}], "default": None}
    for told in (outcome, *properties["feedback"].get("anyOf", [properties["feedback"]])):
        if "properties" in told:
            told["properties"]["executed_action"] = {"anyOf": [executed, {"type": "null"}], "default": None}


def _answer(answer: dict[str, Any], actions: Actions) -> None:
    """Say what an answered action looks like in this space."""
    _, _, said = actions.schemas()
    properties = answer["properties"]
    for name in ("action_name", "action_names"):
        if name not in said:
            del properties[name]
    properties.update(said)
    answer["required"] = [name for name in properties if name in said or name in answer["required"]]


def _operation(body: dict[str, Any], answer: dict[str, Any], said: str, refusals: tuple[str, ...]) -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": said, "content": {"application/json": {"schema": answer}}},
            **{
                status: {"description": _REFUSALS[status], "content": {"application/json": {"schema": _ERROR}}}
                for status in refusals
            },
        },
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _inlined(type_: Any) -> dict[str, Any]:
    """A type's JSON schema with its references put in place: an operation's own schema has nowhere to refer to."""
    schema = msgspec.json.schema(type_)
    parts = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(parts[node["$ref"].rpartition("/")[2]])
        # Python's `\\Z` is everybody else's `$`.
        return {key: value.replace("\\Z", "$") if key == "pattern" else resolved(value) for key, value in node.items()}

    inlined: dict[str, Any] = resolved(schema)
    return inlined
