"""Told again: whatever a client sends twice because a reply was lost, its reward is counted once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.agent.join import Joiner
from service.agent.stores import Position
from service.config import Rewards
from tests.in_process import Serving, asking, serving

WAIT = {"wait_seconds": 10.0, "aggregation": "sum"}
BUSY = [1.0, 0.0, 3.0]
NEVER = {"kind": "rule", "name": "nothing goes", "forbid": "cpu > 0.9"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """The demo, whose rewards are added up."""
    with serving(tmp_path, rewards=WAIT) as served:
        yield served


def rewards_of(served: Serving, aggregation: Any = "sum") -> dict[str, float]:
    """What a joiner makes of the journal at the end of all waits: the reward of each decision that was carried out."""
    writer, records = served.application.journal.writer.hex(), served.records()
    config = Rewards(wait_seconds=10.0, aggregation=aggregation)
    joiner = Joiner(rewards=config, place=served.application.keyring.place, joined={})
    now = records[-1].ms / 1000 + 1000
    joiner.order.knows(writer, Position(0, 0), Position(records[-1].ms, records[-1].seq), now)
    for record in records:
        joiner.order.feed(writer, record, now)
    joiner.order.ended(writer)
    joiner.advance(now)
    # Waits end by what passes after the records have come.
    joiner.advance(now + 1000)
    made: dict[str, float] = {}
    for batch in joiner.batches():
        made |= {one.decision_id: one.reward for one in batch.transitions}
        joiner.committed(batch)
    return made


async def decided(served: Serving, session: str = "s", **told: Any) -> str:
    """The id of a decision."""
    token: str = (await served.act(session, **told)).json()["decision_id"]
    return token


@pytest.mark.parametrize("how", ["one after the other", "in one list", "at once", "beside an act"])
async def test_a_report_repeated_is_one_report(served: Serving, how: str) -> None:
    """Sent again after a lost reply, twice in one list, by two tasks, or on both ways: 1.0 is 1.0."""
    token = await decided(served)
    item = {"decision_id": token, "feedback_id": "r1", "reward": 1}
    if how == "in one list":
        reply = await served.post("/feedback", [item, item])
        assert [one["status"] for one in reply.json()["results"]] == ["accepted"] * 2
    elif how == "at once":
        await asyncio.gather(*(served.post("/feedback", item) for _ in range(3)))
    elif how == "beside an act":
        await served.act(previous=token, feedback={"feedback_id": "r1", "reward": 1.0})
        await served.post("/feedback", item)
    else:
        for _ in range(3):
            await served.post("/feedback", item)
    await served.post("/feedback", {"decision_id": token, "feedback_id": "r2", "reward": 0.5})

    assert rewards_of(served)[token] == 1.5


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("named", [False, True])
async def test_an_act_that_is_asked_again_tells_its_feedback_once(served: Serving, named: bool, batch: bool) -> None:
    """Without a request id each is a decision of its own; the report is one, also where ``previous`` is left out."""
    first = await decided(served)
    told: dict[str, Any] = {"feedback": {"feedback_id": "r1", "reward": 1}}
    told |= {"previous": first} if named else {}
    if batch:
        await served.post("/act/batch", {"requests": [asking("s", **told)] * 3})
    else:
        for _ in range(3):
            await served.act("s", **told)

    assert len(served.decisions()) == 4
    assert [one.decision_id for one in served.feedback()] == [first] * 3
    assert rewards_of(served)[first] == 1.0


async def test_the_next_report_is_of_the_next_decision(served: Serving) -> None:
    """A loop that counts its reports, or has one name for all of them and says what it means, loses none."""
    first = await decided(served, "a")
    second = await decided(served, "a", feedback={"feedback_id": "1", "reward": 1})
    await decided(served, "a", feedback={"feedback_id": "2", "reward": 1})
    third = await decided(served, "b")
    fourth = await decided(served, "b", previous=third, feedback={"feedback_id": "x", "reward": 1})
    await decided(served, "b", previous=fourth, feedback={"feedback_id": "x", "reward": 1})
    made = rewards_of(served)

    assert [made[token] for token in (first, second, third, fourth)] == [1.0] * 4


async def test_a_request_id_counts_its_feedback_once(served: Serving) -> None:
    """The repetition has the first one's answer, and nothing of it is journalled again."""
    first = await decided(served)
    told = asking("s", request_id="q", feedback={"reward": 1})
    replies = [await served.post("/act", told) for _ in range(3)]

    assert len({reply.body for reply in replies}) == 1
    assert len(served.feedback()) == 1
    assert rewards_of(served)[first] == 1.0


@pytest.mark.parametrize("name", [{"request_id": "q"}, {"feedback_id": "r1"}, {"request_id": "q", "feedback_id": "r1"}])
@pytest.mark.parametrize("fault", ["kept in part", "no safe action"])
async def test_what_an_error_kept_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: dict[str, str], fault: str
) -> None:
    """A 503 may have journalled the feedback and not the decision: asked again, the report is the same."""
    with serving(tmp_path, rewards=WAIT, constraints=[NEVER]) as served:
        first = await decided(served)
        feedback = {"reward": 1} | {key: name[key] for key in name if key == "feedback_id"}
        told: dict[str, Any] = {"feedback": feedback} | {key: name[key] for key in name if key == "request_id"}
        with monkeypatch.context() as broken:
            if fault == "kept in part":
                broken.setattr(served.application.journal, "_write", _one_line(served.application.journal._write))
            refused = await served.act(observation=BUSY, **told)
        again = await served.act(observation=[0.0, 0.0, 3.0] if fault == "no safe action" else BUSY, **told)

        assert refused.status == 503
        assert again.status == (200 if fault == "no safe action" else 503)
        assert [one.decision_id for one in served.feedback()] == [first] * 2
        assert rewards_of(served)[first] == 1.0


def _one_line(write: Any) -> Any:
    """A disk that is full after the first line, and stays so when the journal tries again with its reserve."""
    room = [1]

    def some(file: int, data: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        room.pop()
        written: int = write(file, data[: data.index(b"\n") + 1])
        return written

    return some


@pytest.mark.parametrize("aggregation", ["first", "sum", "last"])
async def test_another_report_under_its_name_counts_nothing(tmp_path: Path, aggregation: str) -> None:
    """It is taken into the log, where it is a conflict; the first one holds."""
    with serving(tmp_path, rewards={**WAIT, "aggregation": aggregation}) as served:
        token = await decided(served)
        items = [{"decision_id": token, "feedback_id": "r1", "reward": reward} for reward in (1, 2, 1)]
        await served.post("/feedback", items)

        assert rewards_of(served, aggregation)[token] == 1.0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    told=st.lists(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc")), max_size=6), max_size=6),
    ways=st.lists(st.sampled_from(["list", "singly", "act"]), min_size=6, max_size=6),
)
async def test_any_way_of_repeating_gives_the_reward_of_each_once(
    served: Serving, told: list[list[tuple[int, str]]], ways: list[str]
) -> None:
    """Any multiset of reports about three decisions, in lists, singly and with requests, is each of them once."""
    tokens = [await decided(served, f"s{i}", previous=None) for i in range(3)]
    worth = {"a": 1.0, "b": -2.5, "c": 1.0}
    for items, way in zip(told, ways, strict=False):
        reports = [{"decision_id": tokens[i], "feedback_id": n, "reward": worth[n]} for i, n in items]
        if way == "list":
            await served.post("/feedback", reports)
        for (i, _), report in zip(items, reports, strict=True):
            if way == "singly":
                await served.post("/feedback", report)
            elif way == "act":
                await served.act(f"s{i}", previous=tokens[i], feedback=report)
    made = rewards_of(served)

    once = {one for items in told for one in items}
    assert [made[token] for token in tokens] == [sum(worth[n] for j, n in once if j == i) for i in range(3)]
