"""Made-up observations fit the schema that they were made from."""

import json
import random
from typing import Any

import msgspec
import pytest

from export.spec import Array, Discrete, Field, Fields
from guards.records import Schema
from loadtests.observations import act_body, observation
from service.api.schemas import Codec

SPACES: dict[str, Fields | Array] = {
    "bounded": Fields(fields=(Field(name="cpu", low=0, high=1), Field(name="queue", low=0))),
    "open": Fields(fields=(Field(name="x"), Field(name="y", high=-3), Field(name="z", low=-3.4e38, high=3.4e38))),
    "indices": Fields(fields=(Field(name="state", low=0, high=7), Field(name="other", low=-2, high=2)), dtype="int64"),
    "open indices": Fields(fields=(Field(name="count"), Field(name="debt", high=0)), dtype="int64"),
    "picture": Array(shape=(2, 3, 4), dtype="uint8", low=0, high=255),
    "matrix": Array(shape=(3, 2), dtype="float32"),
}


def seeded(seed: int) -> random.Random:
    """The generator of a test."""
    return random.Random(seed)  # noqa: S311 - made-up observations are no secrets


def told(space: Fields | Array, facts: tuple[str, ...] = ()) -> dict[str, Any]:
    """The part of ``GET /policy`` that bodies are made from, as it comes over the wire."""
    policy: dict[str, Any] = json.loads(json.dumps({"observation": space.model_dump(mode="json"), "facts": facts}))
    return policy


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_bodies_are_taken_by_the_services_own_decoder(name: str, listed: bool) -> None:
    """Every body made up for a space decodes as ``/act`` decodes it, in both forms of an observation."""
    codec = Codec(Schema(SPACES[name], Discrete(names=("stay", "go")), ("stock",)))
    policy, rng = told(SPACES[name], ("stock",)), seeded(3)

    acts: list[Any] = [codec.decode_act(json.dumps(act_body(policy, f"s{i}", rng, listed=listed))) for i in range(200)]

    assert [act.session for act in acts] == [f"s{i}" for i in range(200)]
    assert all(0 <= act.facts["stock"] <= 1 for act in acts)
    assert len({msgspec.json.encode(act.observation) for act in acts}) > 20


def test_bounded_numbers_stay_in_their_bounds() -> None:
    """Numbers with bounds are made up within them: the service would count others as out of range."""
    space, rng = told(SPACES["bounded"])["observation"], seeded(4)

    seen = [observation(space, rng) for _ in range(500)]

    assert all(0 <= one["cpu"] <= 1 and one["queue"] >= 0 for one in seen)


def test_a_policy_without_facts_gets_bodies_without_facts() -> None:
    """What the policy does not declare is not sent."""
    body = act_body(told(SPACES["bounded"]), "s", seeded(5))

    assert set(body) == {"session", "observation"}


def test_the_same_seed_makes_the_same_body() -> None:
    """The generator is an argument, so a run can be repeated."""
    policy = told(SPACES["matrix"])

    first, second = (act_body(policy, "s", seeded(6)) for _ in range(2))

    assert first == second
