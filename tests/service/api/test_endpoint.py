"""The endpoint: what is asked on ``/act``, field by field, what is answered, and that a repeat is no other decision."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from export.spec import Field, Fields
from service.api.endpoint import STATUS
from service.api.idempotency import digest_of
from service.api.schemas import Answer
from service.errors import RequestRefused
from service.log.ids import body_of, body_prefix
from service.log.records import Decision, Refused
from tests import artefacts
from tests.in_process import SEEN, Reply, Serving, asking, serving

COOLDOWN = {"kind": "cooldown", "name": "rest", "actions": ["scale_up"], "seconds": 60}
BUSY = [1.0, 0.0, 3.0]
IDLE = [0.0, 0.0, 3.0]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """The demo with one fact, on the caller's clock."""
    with serving(tmp_path, facts=("price",), guard_clock="observed_at") as served:
        yield served


def whole(reply: Reply) -> dict[str, Any]:
    """The answer of a decision: it has what the wire says, and nothing else."""
    assert reply.status == 200, reply.body
    msgspec.json.decode(reply.body, type=Answer)
    told: dict[str, Any] = reply.json()
    assert set(told) - {"reason", "late"} == {
        "decision_id", "action", "action_name", "propensity", "propensity_ok", "policy", "version", "track", "source",
        "violations", "durability",
    }  # fmt: skip
    return told


@pytest.mark.parametrize(
    ("observation", "action"),
    [(BUSY, 2), (SEEN, 1), ({"replicas": 3, "queue": 0, "cpu": 0}, 0), ([0.25, 10, 3], 2)],
)
async def test_an_answer_is_the_record_of_the_journal(served: Serving, observation: Any, action: int) -> None:
    """What is answered is what was logged; the observation may be a list or an object."""
    told = whole(await served.act("s", observation))
    record = served.decisions()[0]

    assert (told["action"], told["action_name"]) == (action, ["scale_down", "hold", "scale_up"][action])
    assert (told["decision_id"], told["action"], told["propensity"]) == (record.id, record.action, record.propensity)
    assert (told["policy"], told["version"], told["track"]) == ("demo", "demo-1", "stable")
    assert (told["source"], told["propensity_ok"], told["violations"]) == ("policy", True, [])
    assert told["durability"] == record.durability == "journal"
    assert record.observation == (
        observation if isinstance(observation, list) else [observation[name] for name in SEEN]
    )


async def test_previous_names_the_history_that_is_continued(served: Serving) -> None:
    """An id continues that decision, null begins an episode, left out continues what is remembered."""
    first = whole(await served.act(previous=None))["decision_id"]
    second = whole(await served.act(previous=first))["decision_id"]
    await served.act()
    await served.act(previous=None)
    records = served.decisions()

    assert [record.previous for record in records] == [None, first, second, None]
    assert [record.step for record in records] == [0, 1, 2, 0]
    assert len({record.episode for record in records[:3]}) == 1
    assert records[3].episode != records[0].episode


async def test_feedback_means_the_decision_before(served: Serving) -> None:
    """Feedback that names no decision is of ``previous``; it stands before the decision that it came with."""
    first = whole(await served.act())["decision_id"]
    told = {"reward": -1.5, "next_observation": [0.5, 1, 2], "executed_action": "scale_up"}
    whole(await served.act(feedback=told))
    feedback, decision = served.records()[-2:]

    assert feedback == served.feedback()[0]
    assert (feedback.decision_id, feedback.reward, feedback.executed_action) == (first, -1.5, 2)
    assert feedback.next_observation == [0.5, 1.0, 2.0]
    assert isinstance(decision, Decision)


async def test_feedback_may_name_any_decision_of_its_session(served: Serving) -> None:
    """One that is long gone can be told about too."""
    first = whole(await served.act("a"))["decision_id"]
    for _ in range(6):
        whole(await served.act("a"))
    whole(await served.act("a", feedback={"decision_id": first, "reward": 2, "terminated": True}))

    assert [(told.decision_id, told.reward, told.terminated) for told in served.feedback()] == [(first, 2.0, True)]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("how", ["previous", "previous with feedback", "feedback that names it", "both"])
async def test_a_decision_of_another_session_is_a_conflict(served: Serving, how: str, batch: bool) -> None:
    """Whoever takes another session's decision for its own is told so, and nothing of it reaches the journal."""
    other = whole(await served.act("a"))["decision_id"]
    own = whole(await served.act("b"))["decision_id"]
    told: dict[str, Any] = {
        "previous": {"previous": other},
        "previous with feedback": {"previous": other, "feedback": {"reward": 1}},
        "feedback that names it": {"previous": own, "feedback": {"decision_id": other, "reward": 1}},
        "both": {"previous": other, "feedback": {"decision_id": other, "reward": 1}},
    }[how]
    asked = asking("b", **told)
    if batch:
        reply = await served.post("/act/batch", {"requests": [asked, asking("a", previous=other)]})
        refused, fine = reply.json()["decisions"]
        error, before = refused["error"], "$.requests[0]"
        assert fine["source"] == "policy"
    else:
        reply = await served.act("b", **told)
        assert reply.status == 409
        error, before = reply.error, "$"

    place = "feedback.decision_id" if how == "feedback that names it" else "previous"
    assert (error["code"], error["path"]) == ("conflict", f"{before}.{place}")
    assert "another session" in error["message"]
    assert served.feedback() == []
    assert len(served.decisions()) == 2 + batch


async def test_a_decision_of_one_s_own_is_none_however_long_ago(served: Serving) -> None:
    """Also one that the session does not remember any more, and one that this process did not make."""
    first = whole(await served.act("a"))["decision_id"]
    for _ in range(9):
        whole(await served.act("a"))
        whole(await served.act("b"))
    key = served.application.keyring.current
    elsewhere = key.token(body_of(body_prefix(key, b"another!"), served.application.journal.last_ms, 2, "stable"))
    told = [await served.act("a", previous=previous, feedback={"reward": 1}) for previous in (first, elsewhere)]

    assert [reply.status for reply in told] == [200, 200]
    assert [(one.decision_id, one.session) for one in served.feedback()] == [(first, "a"), (elsewhere, "a")]


async def test_the_same_request_id_of_two_sessions_is_two_requests(served: Serving) -> None:
    """In a batch, beside each other and one after the other."""
    rows = [asking(name, BUSY, request_id="r") for name in ("a", "b", "a", "b")]
    reply = await served.post("/act/batch", {"requests": rows})
    later = [whole(await served.post("/act", row))["decision_id"] for row in rows[:2]]
    ids = [one["decision_id"] for one in reply.json()["decisions"]]

    assert ids[:2] == ids[2:] == later
    assert ids[0] != ids[1]
    assert [record.session for record in served.decisions()] == ["a", "b"]


@pytest.mark.parametrize("durability", ["journal", "disk"])
@pytest.mark.parametrize(("source", "again"), [("policy", False), ("baseline", False), ("policy", True)])
async def test_an_answer_that_leaves_late_says_so(tmp_path: Path, durability: str, source: str, again: bool) -> None:
    """Whoever decided and however it is kept, each answer by its own request's deadline; and it is counted."""
    with serving(tmp_path, durability=durability) as served:
        told: dict[str, Any] = {"deadline_ms": 1_000, "request_id": "r" if again else None}
        if source == "baseline":
            told |= {"deadline_ms": 1e-9}
        if again:
            assert "late" not in whole(await served.act("s", BUSY, **told))
        served.application.endpoint._clock = lambda: time.monotonic() + 2.0
        late = whole(await served.act("s", BUSY, **told))
        served.application.endpoint._clock = time.monotonic
        fine = whole(await served.act("s", BUSY, deadline_ms=60_000))
        report = (await served.get("/report")).json()

        assert (late["source"], late["late"]) == (source, True)
        assert "late" not in fine
        assert report["late_answers"] == {source: 1}
        assert len(served.decisions()) == 2


@pytest.mark.parametrize(
    "allowed", [["hold", "scale_down"], [True, True, False], [1, 1, 0], [1.0, 1.0, 0.0], [True, 1, 0.0]]
)
async def test_allowed_masks_an_action_and_says_so(served: Serving, allowed: list[object]) -> None:
    """A proposal that the request's mask forbids is replaced by the next best, as a prevented violation."""
    told = whole(await served.act("s", BUSY, allowed=allowed))
    record = served.decisions()[0]

    assert told["action_name"] == "hold"
    assert told["violations"] == [{"constraint": "allowed", "verdict": "prevented", "mode": "deny"}]
    assert (record.mask, record.allowed, record.proposed) == ([True, True, False], [True, True, False], 2)


async def test_facts_are_seen_by_the_rules_alone(tmp_path: Path) -> None:
    """A rule reads a fact that the policy never sees, and fails closed where it was not told."""
    rule = {"kind": "rule", "name": "dear", "forbid": "action == 'scale_up' and price > 3"}
    with serving(tmp_path, facts=("price",), constraints=[rule]) as served:
        told: list[dict[str, object]] = [{"facts": {"price": 5}}, {"facts": {"price": 1}}, {}]
        names = [whole(await served.act("s", BUSY, **facts))["action_name"] for facts in told]

        assert names == ["hold", "scale_up", "hold"]
        assert [record.facts for record in served.decisions()] == [{"price": 5.0}, {"price": 1.0}, None]


async def test_observed_at_is_the_clock_of_the_cooldown_where_it_is_trusted(tmp_path: Path) -> None:
    """A controller on simulated time waits simulated seconds."""
    with serving(tmp_path, constraints=[COOLDOWN], guard_clock="observed_at") as served:
        await served.act("s", BUSY, observed_at=1000, previous=None)
        await served.act("s", BUSY, observed_at=1059)
        await served.act("s", BUSY, observed_at=1061)
        records = served.decisions()

        assert [record.action for record in records] == [2, 1, 2]
        assert [record.observed_at for record in records] == [1000.0, 1059.0, 1061.0]


async def test_a_deadline_that_is_over_takes_the_baseline(served: Serving) -> None:
    """A billionth of a millisecond is over before anything was inferred: the reason says so."""
    told = whole(await served.act("s", BUSY, deadline_ms=1e-9))
    record = served.decisions()[0]

    assert (told["source"], told["reason"], told["action_name"]) == ("baseline", "DeadlineExceeded", "hold")
    assert (told["propensity_ok"], record.why_not_ok) == (False, "DeadlineExceeded")
    assert told["late"] is True
    assert record.options == {"deadline_ms": 1e-9}


async def test_exploration_needs_the_lease_and_the_caller(tmp_path: Path) -> None:
    """Only while the agent lives, and not where the caller wants none, is anything drawn."""
    explore = {"kind": "epsilon_greedy", "epsilon": 1.0}
    with serving(tmp_path, explore=explore) as served:
        without = whole(await served.act("s"))
        served.permit()
        drawn = [whole(await served.act("s")) for _ in range(30)]
        greedy = whole(await served.act("s", explore=False))
        records = served.decisions()

        assert without["propensity"] == greedy["propensity"] == 1.0
        assert {told["action"] for told in drawn} == {0, 1, 2}
        assert [told["propensity"] for told in drawn] == pytest.approx([1 / 3] * 30)
        assert [record.explorer for record in (records[0], records[1], records[-1])] == [
            "greedy", "epsilon_greedy", "greedy",
        ]  # fmt: skip
        assert records[-1].options == {"explore": False}


async def test_of_a_key_that_stands_twice_the_last_counts_and_is_logged(served: Serving) -> None:
    """The decision, its record and its answer all go by the last."""
    body = b'{"session":"a","observation":[0,0,3],"session":"b","observation":[1,0,3],"explore":true,"explore":false}'
    told = whole(await served.call("POST", "/act", body))
    record = served.decisions()[0]

    assert told["action_name"] == "scale_up"
    assert (record.session, record.observation, record.options) == ("b", [1.0, 0.0, 3.0], {"explore": False})


async def test_the_same_request_id_is_one_decision(served: Serving) -> None:
    """Asked together or one after the other, in this session, the same body has the same answer and one record."""
    asked = asking("s", BUSY, request_id="r1")
    together = await asyncio.gather(*(served.post("/act", asked) for _ in range(5)))
    later = await served.post("/act", asked)

    assert len({reply.body for reply in (*together, later)}) == 1
    assert len(served.decisions()) == 1
    assert served.decisions()[0].options == {
        "request_id": "r1",
        "request_digest": digest_of(json.dumps(asked).encode()),
    }


async def test_a_request_id_is_one_body_s(served: Serving) -> None:
    """Another body under the same id is a conflict; another session may use the id too."""
    await served.act("s", BUSY, request_id="r")
    other = await served.act("s", IDLE, request_id="r")
    elsewhere = await served.act("t", IDLE, request_id="r")

    assert (other.status, other.error["code"], other.error["path"]) == (409, "conflict", "$.request_id")
    assert whole(elsewhere)["action_name"] == "scale_down"
    assert len(served.decisions()) == 2


async def test_a_request_id_holds_for_a_minute(tmp_path: Path) -> None:
    """After 60 s on the endpoint's clock the same body is decided anew."""
    clock = iter((0.0, 0.0, 59.9, 59.9, 60.1, 60.1))
    with serving(tmp_path) as served:
        # Each request reads it twice: to find earlier ones, and to see whether its answer is late.
        served.application.asgi._endpoint._clock = lambda: next(clock)
        replies = [await served.act(request_id="r") for _ in range(3)]
        first, again, anew = (whole(reply)["decision_id"] for reply in replies)

        assert first == again != anew
        assert len(served.decisions()) == 2


async def test_a_caller_that_leaves_takes_nobody_s_answer_along(served: Serving) -> None:
    """Of two that wait for one decision, one is cancelled; the other is answered."""
    asked = asking(request_id="r")
    leaving, staying = (asyncio.create_task(served.post("/act", asked)) for _ in range(2))
    asyncio.get_running_loop().call_soon(leaving.cancel)
    reply = await staying

    assert whole(reply)["action_name"] == "hold"
    assert len(served.decisions()) == 1


async def test_a_decision_that_was_not_made_is_not_remembered(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 503 is no decision: the same request id is decided once the journal can be written again."""

    def full(_: int, data: bytes) -> int:
        raise OSError(28, f"No space left for {len(data)} bytes")

    with monkeypatch.context() as broken:
        broken.setattr(served.application.journal, "_write", full)
        refused = await served.act(request_id="r")
    again = await served.act(request_id="r")

    assert (refused.status, refused.error["code"]) == (503, "journal_unavailable")
    assert whole(again)["action_name"] == "hold"


async def test_no_safe_action_is_a_503_and_on_the_record(tmp_path: Path) -> None:
    """Where policy, baseline and last resort are all refused, the answer says so, and so does the journal."""
    never = {"kind": "rule", "name": "nothing goes", "forbid": "cpu > 0.9"}
    with serving(tmp_path, constraints=[never]) as served:
        reply = await served.act("s", BUSY)
        fine = await served.act("s", IDLE)
        record = served.records()[1]

        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "no_safe_action", "1")
        assert isinstance(record, Refused)
        assert record.reason == "NoSafeAction"
        assert fine.status == 200


async def test_a_last_resort_that_was_refused_is_an_executed_violation(tmp_path: Path) -> None:
    """What is done against a constraint because nothing else is left is said, in the answer too."""
    never = {"kind": "rule", "name": "nothing goes", "forbid": "cpu > 0.9"}
    baseline = {"kind": "constant", "action": "hold", "last_resort": "hold"}
    with serving(tmp_path, constraints=[never], baseline=baseline) as served:
        told = whole(await served.act("s", BUSY))

        assert (told["source"], told["reason"], told["propensity_ok"]) == ("last_resort", "NoSafeAction", True)
        assert {"constraint": "nothing goes", "verdict": "executed", "mode": "deny"} in told["violations"]


async def test_two_rows_of_a_session_in_one_batch_see_each_other(tmp_path: Path) -> None:
    """The second row of a batch stands under the cooldown that the first one began."""
    with serving(tmp_path, constraints=[COOLDOWN]) as served:
        rows = [asking("s", BUSY, previous=None), asking("s", BUSY), asking("t", BUSY, previous=None)]
        reply = await served.post("/act/batch", {"requests": rows})
        first, second, other = reply.json()["decisions"]
        records = {record.id: record for record in served.decisions()}

        assert [first["action_name"], second["action_name"], other["action_name"]] == ["scale_up", "hold", "scale_up"]
        assert second["violations"] == [{"constraint": "rest", "verdict": "prevented", "mode": "deny"}]
        assert records[second["decision_id"]].previous == first["decision_id"]
        assert records[second["decision_id"]].state.step == 1


async def test_concurrent_requests_of_a_session_see_each_other(tmp_path: Path) -> None:
    """Of ten requests at once one scales up, and the others rest; each continues the one before."""
    with serving(tmp_path, constraints=[COOLDOWN]) as served:
        await served.act("s", IDLE, previous=None)
        replies = await asyncio.gather(*(served.act("s", BUSY) for _ in range(10)))
        records = served.decisions()

        assert [whole(reply)["action_name"] for reply in replies] == ["scale_up"] + ["hold"] * 9
        assert [record.previous for record in records[1:]] == [record.id for record in records[:-1]]
        assert [record.step for record in records] == list(range(11))
        assert {record.state.used[2] for record in records[2:]} == {records[1].at}


async def test_history_that_is_not_here_is_not_assumed(tmp_path: Path) -> None:
    """A session that is seen for the first time rests as if it had just scaled up elsewhere."""
    with serving(tmp_path, constraints=[COOLDOWN]) as served:
        stranger = whole(await served.act("s", BUSY))
        begun = whole(await served.act("t", BUSY, previous=None))
        record = served.decisions()[0]

        assert (stranger["action_name"], begun["action_name"]) == ("hold", "scale_up")
        assert (record.step, record.state.known) == (None, False)


@pytest.mark.parametrize("stray", [[0, 3], {"a": 0, "b": 3}])
async def test_a_stray_index_harms_nobody_else(tmp_path: Path, stray: object) -> None:
    """A row that names an entry no table has is refused, or falls back alone; the row beside it is the policy's."""
    space = Fields(fields=(Field(name="a", low=0, high=3), Field(name="b", low=0, high=1)), dtype="int64")
    nodes = [
        helper.make_node("Gather", ["obs", "second"], ["index"], axis=1),
        helper.make_node("Gather", ["values", "index"], ["q_values"], axis=0),
    ]
    values = np.array([[0, 5, 0], [0, 0, 5]], dtype=np.float32)
    constants = {"second": np.array(1, dtype=np.int64), "values": values}
    with serving(tmp_path, artefacts.built(nodes, constants, space, artefacts.ACTIONS)) as served:
        bad, fine = await asyncio.gather(served.act("s", stray), served.act("t", [3, 1]))

        assert bad.status == 422 or bad.json()["reason"] == "InferenceFailed"
        assert (whole(fine)["source"], whole(fine)["action_name"]) == ("policy", "scale_up")


def test_every_refusal_has_a_status() -> None:
    """Each code is on the one table of HTTP statuses, as a client error, a fault or a wait."""
    kinds: list[type[RequestRefused]] = [RequestRefused, *RequestRefused.__subclasses__()]
    codes = {kind.code for kind in kinds}

    assert codes == set(STATUS)
    assert all(400 <= status < 504 for status in STATUS.values())
