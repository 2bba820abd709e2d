"""The app: batches, feedback and what can be read, as HTTP has them."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics

from service.api.routes import CHUNK
from service.config import ConfigInvalid
from service.log.ids import body_of, body_prefix
from service.log.records import Decision
from tests import ports
from tests.in_process import SEEN, Serving, asking, call, refusals, serving

BUSY = [1.0, 0.0, 3.0]
MARK = "MARKERX"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """The demo."""
    with serving(tmp_path) as served:
        yield served


def aged(served: Serving, seconds: float) -> str:
    """The id of a decision that this deployment made some time ago."""
    key, ms = served.application.keyring.current, int((served.application.journal.last_ms / 1000 - seconds) * 1000)
    return key.token(body_of(body_prefix(key, b"earlier!"), ms, 7, "stable"))


def full(*_: object) -> int:
    """A disk that takes nothing."""
    raise OSError(28, "No space left on device")


async def decided(served: Serving, session: str = "s") -> str:
    """The id of a decision."""
    token: str = (await served.act(session)).json()["decision_id"]
    return token


async def fed(served: Serving, told: object) -> list[dict[str, Any]]:
    """What feedback is answered."""
    reply = await served.post("/feedback", told)
    assert reply.status == 200, reply.body
    assert list(reply.json()) == ["results"]
    results: list[dict[str, Any]] = reply.json()["results"]
    return results


async def test_each_row_of_a_batch_has_its_own_verdict_in_order(served: Serving) -> None:
    """Decisions and errors stand where their requests stood."""
    rows: list[object] = [asking("a", BUSY), {"session": "b"}, asking("c"), 5, asking("d", BUSY, allowed=["hold"])]
    reply = await served.post("/act/batch", {"requests": rows})
    told = reply.json()["decisions"]

    assert reply.status == 200
    assert [one.get("action_name") for one in told] == ["scale_up", None, "hold", None, "hold"]
    assert [one["error"]["path"] for one in told if "error" in one] == ["$.requests[1]", "$.requests[3]"]
    assert [record.session for record in served.decisions()] == ["a", "c", "d"]
    assert served.application.stats.refused == {"does_not_fit": 2}


@pytest.mark.parametrize("rows", [[], [asking()]])
async def test_a_batch_may_be_small(served: Serving, rows: list[object]) -> None:
    """No request is no decision, and one is one."""
    reply = await served.post("/act/batch", {"requests": rows})

    assert (reply.status, len(reply.json()["decisions"])) == (200, len(rows))


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"", 400, "$"),
        (b"[]", 422, "$"),
        (b"{}", 422, "$"),
        (b'{"requests":{}}', 422, "$.requests"),
        (b'{"requests":null}', 422, "$.requests"),
        (b'{"requests":[],"MARKERX":1}', 422, "$"),
        (b'{"requests":[1,]}', 400, "$"),
        (b'{"requests":[]} MARKERX', 400, "$"),
        (b'{"requests":["\xff"]', 400, "$"),
        (b'{"requests":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}", 400, "$"),
        (b'{"requests":[1],"requests":[]}', 422, "$"),
        (b'{"requests":[1],"req\\u0075ests":[]}', 422, "$"),
        (b'{"r\\u0065quests":[1],"req\\u0075ests":[]}', 422, "$"),
    ],
)
async def test_a_batch_that_is_none_is_refused_whole(served: Serving, body: bytes, status: int, path: str) -> None:
    """What is not JSON, not a batch, or has its requests twice, however they are spelled."""
    reply = await served.call("POST", "/act/batch", body)

    assert reply.status == status
    assert refusals(reply, MARK)["path"] == path


async def test_a_key_twice_in_a_row_of_a_batch_is_refused(served: Serving) -> None:
    """Nobody guesses which of two was meant: at the top of a row or within it."""
    top = b'{"session":"a","session":"b","observation":[0,0,1]}'
    within = b'{"session":"a","observation":{"cpu":1,"cpu":0,"queue":0,"replicas":1}}'
    reply = await served.call("POST", "/act/batch", b'{"requests":[%b,%b]}' % (top, within))

    assert [one["error"]["path"] for one in reply.json()["decisions"]] == ["$.requests[0]", "$.requests[1]"]
    assert not served.decisions()


async def test_a_batch_has_a_largest_number_of_rows(tmp_path: Path) -> None:
    """More rows than the configuration takes are refused together."""
    with serving(tmp_path, limits={"batch_rows": 3}) as served:
        fine, refused = [await served.post("/act/batch", {"requests": [asking()] * n}) for n in (3, 4)]

        assert fine.status == 200
        assert (refused.status, refused.error["code"], refused.error["path"]) == (413, "too_large", "$.requests")


@pytest.mark.parametrize("path", ["/act/batch", "/feedback"])
async def test_a_body_of_countless_items_is_refused_whole(served: Serving, path: str) -> None:
    """Half a million items in a mebibyte are too many, for feedback as well: their errors alone would be 60 MB."""
    items = b"[" + b"1," * (512 * 1024) + b"1]"
    reply = await served.call("POST", path, items if path == "/feedback" else b'{"requests":%b}' % items)

    assert reply.status == 413
    assert refusals(reply, MARK)["code"] == "too_large"


@pytest.mark.parametrize("row", [asking("row", BUSY), {"session": "row"}], ids=["good", "refused"])
async def test_a_long_batch_lets_others_in_between(served: Serving, row: object) -> None:
    """A single request that comes with a batch is answered long before it, whether its rows are good or not."""
    order: list[str] = []

    async def timed(name: str, path: str, told: object) -> None:
        await served.post(path, told)
        order.append(name)

    batch = asyncio.create_task(timed("batch", "/act/batch", {"requests": [row] * (CHUNK * 20)}))
    single = asyncio.create_task(timed("single", "/act", asking("single")))
    await asyncio.gather(batch, single)
    places = [i for i, record in enumerate(served.decisions()) if record.session == "single"]

    assert order == ["single", "batch"]
    assert places[0] <= CHUNK * 2


async def test_rows_of_a_batch_are_decided_together(served: Serving) -> None:
    """What comes in one turn is one batch: 150 rows of a batch are three."""
    rows = [asking(f"s{i}", deadline_ms=10_000) for i in range(150)]
    await served.post("/act/batch", {"requests": rows})
    report = (await served.get("/report")).json()

    assert report["mean_batch"] == 50
    assert served.application.stats.batches == 3


async def test_feedback_is_one_or_many(served: Serving) -> None:
    """One object or a list: a result each, in order, and a record each in the journal."""
    tokens = [await decided(served, f"s{i}") for i in range(3)]
    one = await fed(served, {"decision_id": tokens[0], "reward": 1})
    many = await fed(served, [{"decision_id": tokens[1], "reward": 2}, {"decision_id": tokens[2], "truncated": True}])
    none = await fed(served, [])

    assert one == [{"status": "accepted", "decision_id": tokens[0]}]
    assert [result["decision_id"] for result in many] == tokens[1:]
    assert none == []
    assert [(told.decision_id, told.reward, told.truncated) for told in served.feedback()] == [
        (tokens[0], 1.0, False),
        (tokens[1], 2.0, False),
        (tokens[2], None, True),
    ]
    assert [record.seq for record in served.records()] == list(range(1, 8))


async def test_feedback_has_four_fates(tmp_path: Path) -> None:
    """Accepted, late, forged and invalid stand beside each other; only the first two are journalled."""
    with serving(tmp_path, rewards={"wait_seconds": 30}) as served:
        token, late = await decided(served), ""
        late = aged(served, 60)
        forged = token[:-1] + ("A" if token[-1] != "A" else "B")
        items = [
            {"decision_id": token, "reward": 1},
            {"decision_id": late, "reward": 1},
            {"decision_id": forged, "reward": 1},
            {"decision_id": token, "reward": 1, MARK: 1},
            {"decision_id": token},
            MARK,
        ]
        results = await fed(served, items)
        report = (await served.get("/report")).json()

        assert [result["status"] for result in results] == ["accepted", "late", "forged"] + ["invalid"] * 3
        assert [result["error"]["path"] for result in results[3:]] == ["$[3]", "$[4]", "$[5]"]
        assert MARK not in json.dumps(results)
        assert [(told.decision_id, told.late) for told in served.feedback()] == [(token, False), (late, True)]
        assert report["feedback"] == {"accepted": 1, "late": 1, "forged": 1, "invalid": 3}


@pytest.mark.parametrize("spaces", [b"", b" \n\t\r"])
async def test_feedback_with_a_key_twice_is_invalid(served: Serving, spaces: bytes) -> None:
    """Which of two rewards was meant is nobody's to guess."""
    token = (await decided(served)).encode()
    item = b'{"decision_id":"%b","reward":1,"reward":2}' % token
    one = await served.call("POST", "/feedback", spaces + item)
    many = await served.call("POST", "/feedback", spaces + b"[%b]" % item)

    assert [reply.json()["results"][0]["status"] for reply in (one, many)] == ["invalid", "invalid"]
    assert not served.feedback()


@pytest.mark.parametrize("how", ["forged", "invalid", "both", "one alone", "one in a list"])
async def test_feedback_of_which_nothing_can_be_taken_is_refused(served: Serving, how: str) -> None:
    """A 422 with one error, beside which each item has its verdict, and nothing in the journal."""
    token = await decided(served)
    forged = {"decision_id": token[:-1] + ("A" if token[-1] != "A" else "B"), "reward": 1}
    invalid = {"decision_id": token, "reward": MARK}
    told: Any = {
        "forged": [forged] * 3, "invalid": [invalid] * 2, "both": [forged, invalid], "one alone": forged,
        "one in a list": [invalid],
    }[how]  # fmt: skip
    reply = await served.post("/feedback", told)
    report = (await served.get("/report")).json()

    items = told if isinstance(told, list) else [told]
    statuses = ["forged" if item is forged else "invalid" for item in items]
    assert (reply.status, sorted(reply.json())) == (422, ["error", "results"])
    assert (reply.error["code"], reply.error["path"]) == (
        "does_not_fit",
        "$.decision_id" if how == "one alone" else "$",
    )
    assert [result["status"] for result in reply.json()["results"]] == statuses
    assert MARK.encode() not in reply.body
    assert not served.feedback()
    assert (report["feedback"], report["refused"]) == (dict(Counter(statuses)), {"does_not_fit": 1})


async def test_of_mixed_feedback_what_is_good_is_taken(served: Serving) -> None:
    """One good item among many is a 200; what comes too late was taken too, and is said to be late."""
    token = await decided(served)
    bad = {"decision_id": token}
    many = await fed(served, [bad] * 70 + [{"decision_id": token, "reward": 1}] + [bad] * 70)
    late = await fed(served, [bad, {"decision_id": aged(served, 3600), "reward": 1}])

    assert Counter(result["status"] for result in many) == {"invalid": 140, "accepted": 1}
    assert [result["status"] for result in late] == ["invalid", "late"]


async def test_rows_of_a_batch_are_late_when_the_batch_leaves(served: Serving) -> None:
    """A row may be decided in time and leave with the others after its own deadline: then it says so, and it alone."""
    rows = [asking("hurried", deadline_ms=1_000), asking("patient", deadline_ms=50_000), asking("bad", deadline_ms=0)]
    endpoint = served.application.endpoint
    endpoint._clock = lambda: time.monotonic() + 20
    reply = await served.post("/act/batch", {"requests": rows})
    hurried, patient, bad = reply.json()["decisions"]
    report = (await served.get("/report")).json()
    metrics = (await served.get("/metrics")).body.decode()

    assert (hurried["source"], hurried["late"]) == ("policy", True)
    assert (patient["source"], "late" in patient) == ("policy", False)
    assert list(bad) == ["error"]
    assert report["late_answers"] == {"policy": 1}
    assert 'actd_late_answers_total{policy="demo",source="policy"} 1.0' in metrics


@pytest.mark.parametrize("body", [b"", b"[", b"{", b'{"reward":1}}', b"[1,]", b"\xff", b"[" * 10**6, b"NaN"])
async def test_feedback_that_is_not_json_is_refused(served: Serving, body: bytes) -> None:
    """Broken JSON is one error for the whole body."""
    reply = await served.call("POST", "/feedback", body)

    assert reply.status == 400
    assert refusals(reply, MARK)["code"] == "not_json"


async def test_feedback_that_cannot_be_kept_is_a_503(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be written takes no feedback; later it does, in sequence."""
    token = await decided(served)
    with monkeypatch.context() as broken:
        broken.setattr(served.application.journal, "_write", full)
        refused = await served.post("/feedback", {"decision_id": token, "reward": 1})
    await fed(served, {"decision_id": token, "reward": 2})

    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "journal_unavailable", "1")
    assert [(told.reward, told.seq) for told in served.feedback()] == [(2.0, 3)]
    assert served.application.stats.feedback == {"accepted": 1}


@pytest.mark.parametrize("path", ["/report", "/metrics", "/policy", "/live", "/ready", "/openapi.json"])
async def test_what_is_read_is_not_posted(served: Serving, path: str) -> None:
    """A 405 in the shape of every error."""
    reply = await served.call("POST", path, b"{}")

    assert reply.status == 405
    assert refusals(reply, MARK)["code"] == "method_not_allowed"


async def test_ready_tells_how_the_rungs_below_the_policy_are(tmp_path: Path) -> None:
    """They are tried from the first decision on; what is told as stale leaves the service ready."""
    baseline = {"kind": "constant", "action": "hold", "last_resort": "hold"}
    never = {"kind": "rule", "name": "never hold", "forbid": "action == 'hold'"}
    with serving(tmp_path / "a", baseline=baseline) as served:
        await served.act()
        rungs = (await served.get("/ready")).json()["rungs"]
        metrics = (await served.get("/metrics")).body.decode()
    with serving(tmp_path / "b", baseline=baseline, constraints=[never]) as served:
        await served.act()
        refused = (await served.get("/ready")).json()

    assert {name: told["stale"] for name, told in rungs.items()} == {"baseline": False, "last_resort": False}
    assert all(0 <= told["last_success_s_ago"] < 10 for told in rungs.values())
    assert 'actd_rung_last_success_timestamp_seconds{policy="demo",rung="baseline"} 1.' in metrics
    assert refused["ready"] is True
    assert refused["rungs"]["baseline"] == {"last_success_s_ago": None, "stale": True}


async def test_a_version_that_keeps_failing_is_told_of(tmp_path: Path) -> None:
    """The breaker opens: in the answers, in the report and in the metrics."""
    breaker = {"consecutive": 2, "rest_seconds": 60, "longest_rest_seconds": 60}
    with serving(tmp_path, ports.recurrent(fails=True), breaker=breaker) as served:
        worse = {"cpu": 0.5, "queue": -1.0, "replicas": 3}
        reasons = [(await served.act(observation=worse, previous=None)).json()["reason"] for _ in range(3)]
        told = (await served.get("/report")).json()["breaker"]
        metrics = (await served.get("/metrics")).body.decode()

    assert reasons == ["InferenceFailed", "InferenceFailed", "BreakerOpen"]
    assert (told["demo-1"]["phase"], told["demo-1"]["openings"]) == ("resting", 1)
    assert 'actd_breaker_open{policy="demo",version="demo-1"} 1.0' in metrics
    assert 'actd_breaker_openings_total{policy="demo",version="demo-1"} 1.0' in metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "quorum", "at_most": 0.1}, "constraints.0, 'd': the artefact has no spread"),
        ({"kind": "novelty"}, "constraints.0, 'd': the artefact has no training statistics"),
        ({"kind": "fresh", "max_age_seconds": 1}, "constraints.0, 'd': needs guard_clock = 'service'"),
    ],
)
def test_a_doubt_that_the_artefact_gives_nothing_for_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    """At start, with its place in the file."""
    with (
        pytest.raises(ConfigInvalid, match=re.escape(message)),
        serving(tmp_path, guard_clock="observed_at", constraints=[{"name": "d", **settings}]),
    ):
        pass


async def test_an_ensemble_that_disagrees_is_answered_by_the_baseline(tmp_path: Path) -> None:
    """Its spread is on the record, and so is why; also the first calls, which nobody asked for, are doubted."""
    quorum = {"kind": "quorum", "name": "agreed", "at_most": 0.5}
    with serving(tmp_path, ports.ensemble(), constraints=[quorum]) as served:
        answers = [(await served.act(observation=[cpu, 0, 3])).json() for cpu in (0.25, 30.0)]
        decisions = served.decisions()

    assert [answer.get("reason") for answer in answers] == [None, "Disagreement"]
    assert answers[1]["violations"] == [{"constraint": "agreed", "verdict": "prevented", "mode": "deny"}]
    assert [decision.spread for decision in decisions] == [0.25, 30.0]


async def test_the_process_lives_and_is_ready(served: Serving) -> None:
    """Ready is who can decide; whether it may explore is said too."""
    live, ready = await served.get("/live"), await served.get("/ready")
    served.permit()
    permitted = await served.get("/ready")
    served.application.stopping = True
    stopping = await served.get("/ready")

    assert live.json() == {"live": True}
    rungs = {"baseline": {"last_success_s_ago": None, "stale": False}}
    told: dict[str, Any] = {"ready": True, "version": "demo-1", "explores": False, "agent": "silent", "rungs": rungs}
    told |= {"journal": "works", "resumed": {"sessions": 0, "incomplete": None}}
    assert (ready.status, ready.json()) == (200, told)
    assert (permitted.json()["explores"], permitted.json()["agent"]) == (True, "works")
    assert (stopping.status, stopping.json()["ready"]) == (503, False)


async def test_the_policy_is_described_by_name(tmp_path: Path) -> None:
    """What is observed, how it acts, and what overrules it."""
    rule = {"kind": "rule", "name": "r", "forbid": "cpu > 2"}
    with serving(tmp_path, facts=("price",), constraints=[rule]) as served:
        told = (await served.get("/policy")).json()

        assert [field["name"] for field in told["observation"]["fields"]] == list(SEEN)
        assert (told["actions"], told["facts"]) == (["scale_down", "hold", "scale_up"], ["price"])
        assert (told["name"], told["version"], told["digest"]) == ("demo", "demo-1", served.application.engine.digest)
        assert told["constraints"] == [{**rule, "mode": "deny", "on_error": "deny"}]
        assert told["config_digest"] == served.application.config.digest


@pytest.mark.parametrize(
    ("accept", "parse", "media_type"),
    [
        ("", plain_metrics, "text/plain"),
        ("*/*", plain_metrics, "text/plain"),
        ("application/openmetrics-text; version=1.0.0", open_metrics, "application/openmetrics-text"),
    ],
)
async def test_metrics_are_read_in_both_formats(tmp_path: Path, accept: str, parse: Any, media_type: str) -> None:
    """Both texts parse, and say what the journal says."""
    with serving(tmp_path) as served:
        for i in range(7):
            await served.act(f"s{i}", BUSY if i % 2 else None, allowed=["hold"])
        await served.act("x", [2.0, -1.0, 3.0])
        await served.call("POST", "/act", b"{")
        reply = await served.get("/metrics", accept=accept)
        families = {family.name: family for family in parse(reply.body.decode())}
        counted = families["actd_decisions"].samples
        histogram = [s for s in families["actd_stage_seconds"].samples if s.labels["stage"] == "total"]

        assert reply.headers["content-type"].startswith(media_type)
        assert sum(sample.value for sample in counted) == len(served.decisions()) == 8
        assert {sample.labels["version"] for sample in counted} == {"demo-1"}
        assert [s.value for s in histogram if s.labels.get("le") == "+Inf"] == [8]
        assert [s.value for s in histogram if s.name.endswith("_count")] == [8]
        assert {s.labels["code"]: s.value for s in families["actd_refused"].samples} == {"not_json": 1}
        assert {s.labels["field"] for s in families["actd_out_of_range"].samples} == {"cpu", "queue"}
        assert families["actd_violations"].samples[0].value == 3
        assert families["actd_journal_seq"].samples[0].value == served.application.journal.next_seq - 1


async def test_the_report_counts_what_the_journal_has(tmp_path: Path) -> None:
    """Decisions, actions, sources, violations and refusals are those of the records."""
    with serving(tmp_path, explore={"kind": "softmax", "temperature": 0.5}) as served:
        served.permit()
        for i in range(40):
            await served.act(f"s{i % 3}", BUSY, allowed=None if i % 2 else ["hold", "scale_down"])
        await served.act("late", BUSY, deadline_ms=1e-9)
        await served.call("POST", "/act", b"{}")
        report, records = (await served.get("/report")).json(), served.decisions()

        assert report["decisions"] == len(records) == 41
        assert report["actions"] == {
            name: sum(record.action == i for record in records)
            for i, name in enumerate(["scale_down", "hold", "scale_up"])
        }
        assert report["exploration_rate"] == pytest.approx(sum(record.explored for record in records) / 41)
        assert report["fallbacks"] == report["propensity_not_ok"]["by_reason"] == {"DeadlineExceeded": 1}
        assert report["sources"] == {"policy": 40, "baseline": 1}
        prevented = sum(len(record.violations) for record in records)
        assert report["safety_violations"]["prevented"] == {"total": prevented, "by_constraint": {"allowed": prevented}}
        assert report["refused"] == {"does_not_fit": 1}
        assert set(report["latency_ms"]["demo-1"]) == {"wait", "infer", "decide", "journal", "total"}
        assert report["writer"] == served.application.journal.writer.hex()


async def test_a_decision_that_could_not_be_journalled_is_counted(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusals that people have to see are in the report under their code, from every call that had them."""
    monkeypatch.setattr(served.application.journal, "_write", full)
    single = await served.act()
    batch = await served.post("/act/batch", {"requests": [asking("a"), asking("b")]})
    report = (await served.get("/report")).json()

    assert single.status == 503
    assert [one["error"]["code"] for one in batch.json()["decisions"]] == ["journal_unavailable"] * 2
    assert report["refused"] == {"journal_unavailable": 3}
    assert report["decisions"] == 0


@pytest.mark.parametrize("path", ["/report", "/metrics"])
async def test_nothing_to_tell_yet_is_no_fault(served: Serving, path: str) -> None:
    """Before the first decision the readings are empty."""
    reply = await served.get(path)

    assert reply.status == 200
    assert b"NaN" not in reply.body


async def test_the_route_behind_the_edge_answers_alike(served: Serving) -> None:
    """Whoever mounts the app without the edge has the same ``/act``."""
    app = served.application.asgi._app
    fine = await call(app, "POST", "/act", json.dumps(asking("s", BUSY)).encode())
    refused = await call(app, "POST", "/act", b"{}")

    assert fine.json()["decision_id"] == served.decisions()[0].id
    assert (refused.status, refusals(refused, MARK)["code"]) == (422, "does_not_fit")
    assert served.application.stats.refused == {"does_not_fit": 1}


async def test_its_life_begins_and_ends(tmp_path: Path) -> None:
    """While it lives it reads the agent's page; when it ends it says that it is not ready, and nothing is lost."""
    with serving(tmp_path) as served:
        async with served.application.alive():
            await served.act()
            ready = served.application.ready()["ready"]

        assert ready
        assert not served.application.ready()["ready"]
        assert isinstance(served.records()[-1], Decision)
