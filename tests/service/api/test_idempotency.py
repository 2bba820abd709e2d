"""Repeats: a request id is one decision for a minute, of one session and one body."""

import asyncio

import pytest

import service.api.idempotency
from service.api.idempotency import KEPT_S, Idempotency
from service.decision.batch import Outcome
from service.errors import Conflict


def future() -> "asyncio.Future[Outcome]":
    """An answer that is yet to come."""
    return asyncio.get_running_loop().create_future()


async def test_who_asks_again_gets_the_same_answer() -> None:
    """The very future that the first one waits for, until a minute is over."""
    idempotency, answer = Idempotency(), future()
    idempotency.remember("s", "r", "body", answer, 100.0 + KEPT_S)

    assert idempotency.earlier("s", "r", "body", 100.0) is answer
    assert idempotency.earlier("s", "r", "body", 100.0 + KEPT_S - 0.001) is answer
    assert idempotency.earlier("s", "r", "body", 100.0 + KEPT_S) is None
    assert repr(idempotency) == "<Idempotency 0 request ids>"


async def test_ids_are_a_session_s_own() -> None:
    """Another session's request id is another request."""
    idempotency = Idempotency()
    idempotency.remember("s", "r", "body", future(), KEPT_S)

    assert idempotency.earlier("t", "r", "body", 0.0) is None
    assert idempotency.earlier("s", "q", "body", 0.0) is None


async def test_another_body_is_a_conflict() -> None:
    """One byte of difference is another request under the same id."""
    idempotency = Idempotency()
    idempotency.remember("s", "r", "body", future(), KEPT_S)

    with pytest.raises(Conflict) as refused:
        idempotency.earlier("s", "r", "body ", 1.0)

    assert refused.value.path == "$.request_id"


async def test_ids_are_forgotten_one_by_one() -> None:
    """Each lives its own minute, whatever came after it."""
    idempotency = Idempotency()
    for second in range(5):
        idempotency.remember("s", f"r{second}", "", future(), KEPT_S + second)

    kept = [idempotency.earlier("s", f"r{second}", "", KEPT_S + 2) is not None for second in range(5)]

    assert kept == [False, False, False, True, True]


async def test_the_oldest_id_leaves_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded, and a flood of ids pushes out the oldest."""
    monkeypatch.setattr(service.api.idempotency, "_LIMIT", 3)
    idempotency = Idempotency()
    for i in range(5):
        idempotency.remember("s", f"r{i}", "", future(), KEPT_S)

    assert [idempotency.earlier("s", f"r{i}", "", 0.0) is not None for i in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
