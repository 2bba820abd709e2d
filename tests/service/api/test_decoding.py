"""Decoding: whatever is wrong with a body, it is one clear error, at once, that gives nothing of the body back."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.spec import Discrete
from guards.records import Schema
from service.api.decoding import RequestDecoder
from service.api.schemas import Codec
from service.clock import Clock
from service.config import Config
from service.decision.batch import Outcome, Request
from service.errors import DoesNotFit, NotJson, RequestRefused
from service.log.ids import Key, Keyring, body_of, body_prefix
from tests import artefacts
from tests.in_process import Serving, asking, refusals, serving

MARK = "MARKERX"
CPU_S = 0.005
NOW = 1_700_000_000.0
KEY = Key(1, b"k" * 32)
SCHEMA = Schema(observation=artefacts.FIELDS, action=Discrete(names=artefacts.ACTIONS), facts=("price",))


def told(**changed: object) -> bytes:
    """A body with one thing changed; the marker is in every one of them."""
    return json.dumps({**asking(session=MARK), **changed}).encode()


def seen(number: bytes) -> bytes:
    """A body that observes a number as it is written here."""
    return b'{"session":"%b","observation":[0.5,%b,1]}' % (MARK.encode(), number)


def plus(more: bytes) -> bytes:
    """A good body with one more member."""
    return told()[:-1] + b"," + more + b"}"


def nested(depth: int, before: bytes) -> bytes:
    """Arrays in arrays after ``before``, as deep as the cap has room for."""
    depth = min(depth, 130_000)
    return before + b"[" * depth + b"]" * depth + b"}"


def token(ms: int = int(NOW * 1000), key: Key = KEY) -> str:
    """A decision's id of this deployment, or of another's with another key."""
    return key.token(body_of(body_prefix(key, b"w" * 8), ms, 1, "stable"))


OTHERS = token(key=Key(1, b"x" * 32))
OBSERVED = f'{{"session":"{MARK}","observation":'.encode()
UNKNOWN = told()[:-1] + b',"MARKERX":'
FED = told()[:-1] + b',"feedback":{"next_observation":'
DEEP = (10, 100, 1000, 10_000, 100_000, 1_000_000)
# In a batch, what is nested so deeply cannot be told from what is not JSON: it ends the whole body.
TOO_DEEP = tuple(f"{depth} deep" for depth in DEEP[2:])

BAD: dict[str, tuple[bytes, int, str]] = {
    "NaN": (seen(b"NaN"), 400, "$"),
    "Infinity": (seen(b"Infinity"), 400, "$"),
    "-Infinity": (seen(b"-Infinity"), 400, "$"),
    "1e999": (seen(b"1e999"), 422, "$.observation[1]"),
    "-1e999": (seen(b"-1e999"), 422, "$.observation[1]"),
    "1e39": (seen(b"1e39"), 422, "$.observation[1]"),
    "integer of 5000 digits": (seen(b"9" * 5000), 422, "$.observation[1]"),
    "exponent of 5000 digits": (seen(b"1e" + b"9" * 5000), 422, "$.observation[1]"),
    "5000 digits for an action": (
        plus(b'"feedback":{"executed_action":-%b}' % (b"9" * 5000)),
        422,
        "$.feedback.executed_action",
    ),
    "5000 digits for a fact": (plus(b'"facts":{"price":%b}' % (b"9" * 5000)), 422, "$.facts[...]"),
    "bool for a number": (seen(b"true"), 422, "$.observation[1]"),
    "string for a number": (seen(b'"MARKERX"'), 422, "$.observation[1]"),
    "numeric string": (seen(b'"1"'), 422, "$.observation[1]"),
    "null for a number": (seen(b"null"), 422, "$.observation[1]"),
    "plus sign": (seen(b"+1"), 400, "$"),
    "leading zero": (seen(b"01"), 400, "$"),
    "hexadecimal": (seen(b"0x10"), 400, "$"),
    "bare fraction": (seen(b".5"), 400, "$"),
    "too short": (told(observation=[1, 2]), 422, "$.observation"),
    "too long": (told(observation=[1, 2, 3, 4]), 422, "$.observation"),
    "empty observation": (told(observation=[]), 422, "$.observation"),
    "null observation": (told(observation=None), 422, "$.observation"),
    "number for an observation": (told(observation=5), 422, "$.observation"),
    "nested observation": (told(observation=[[1, 2, 3]]), 422, "$.observation[0]"),
    "unknown field": (told(MARKERX=1), 422, "$"),
    "unknown field with a path in it": (told(**{"x` - at `$.MARKERX": 1}), 422, "$"),
    "unknown field of the observation": (told(observation={"cpu": 1, "queue": 1, "MARKERX": 1}), 422, "$.observation"),
    "missing field of the observation": (told(observation={"cpu": 1, "queue": 1}), 422, "$.observation"),
    "unknown field of the feedback": (told(feedback={"MARKERX": 1}), 422, "$.feedback"),
    "missing observation": (json.dumps({"session": MARK}).encode(), 422, "$"),
    "missing session": (b'{"observation":[0,0,0],"request_id":"MARKERX"}', 422, "$"),
    "number for a session": (told(session=5, request_id=MARK), 422, "$.session"),
    "null for a session": (told(session=None, request_id=MARK), 422, "$.session"),
    "empty session": (told(session="", request_id=MARK), 422, "$.session"),
    "129 characters": (told(session=MARK + "x" * 122), 422, "$.session"),
    "NUL in a session": (told(session=f"{MARK}\0"), 422, "$.session"),
    "newline after a session": (told(session=f"{MARK}\n"), 422, "$.session"),
    "ANSI in a session": (told(session=f"\x1b[31m{MARK}"), 422, "$.session"),
    "space in a session": (told(session=f"a {MARK}"), 422, "$.session"),
    "line separator in a session": (told(session=f"\u2028{MARK}"), 422, "$.session"),
    "lone surrogate in a session": (told(session=f"\ud800{MARK}"), 400, "$"),
    "low surrogate in a session": (told(session=f"{MARK}\udc00"), 400, "$"),
    "lone surrogate in a field": (told(**{f"\ud800{MARK}": 1}), 400, "$"),
    "surrogate as bytes": (told().replace(b"MARK", b"MARK\xed\xa0\x80"), 400, "$"),
    "broken UTF-8 in a session": (told().replace(b"MARK", b"MARK\xff"), 400, "$"),
    "broken UTF-8 in a field": (plus(b'"MARKERX\xc3":1'), 400, "$"),
    "broken UTF-8 in an action": (plus(b'"allowed":["\xf5MARKERX"]'), 400, "$"),
    "overlong UTF-8": (told().replace(b"MARK", b"MARK\xc0\xaf"), 400, "$"),
    "UTF-16": (told().decode().encode("utf-16"), 400, "$"),
    "byte order mark": (b"\xef\xbb\xbf" + told(), 400, "$"),
    "bytes after the end": (told() + b"MARKERX", 400, "$"),
    "two bodies": (told() + told(), 400, "$"),
    "NUL after the end": (told() + b"\0", 400, "$"),
    "cut short": (told()[:-1], 400, "$"),
    "cut in a string": (told()[:15], 400, "$"),
    "empty body": (b"", 400, "$"),
    "spaces": (b" \r\n\t", 400, "$"),
    "a form": (b"session=MARKERX&observation=1", 400, "$"),
    "single quotes": (b"{'session':'MARKERX'}", 400, "$"),
    "a comment": (told() + b"// MARKERX", 400, "$"),
    "a trailing comma": (told()[:-1] + b",}", 400, "$"),
    "a list": (b"[" + told() + b"]", 422, "$"),
    "a string": (b'"MARKERX"', 422, "$"),
    "null": (b"null", 422, "$"),
    "forged previous": (told(previous=OTHERS), 422, "$.previous"),
    "altered previous": (told(previous="MARKERX" + "A" * 45), 422, "$.previous"),
    "short previous": (told(previous=MARK), 422, "$.previous"),
    "number for previous": (told(previous=1), 422, "$.previous"),
    "forged feedback": (told(feedback={"decision_id": OTHERS, "reward": 1}), 422, "$.feedback.decision_id"),
    "feedback about nothing before": (told(feedback={"reward": 1}), 422, "$.feedback"),
    "feedback that says nothing": (told(feedback={}), 422, "$.feedback"),
    "two next observations": (
        told(feedback={"next_observation": [1, 2, 3], "final_observation": [1, 2, 3]}),
        422,
        "$.feedback",
    ),
    "unknown executed action": (told(feedback={"executed_action": MARK}), 422, "$.feedback.executed_action"),
    "executed action out of range": (told(feedback={"executed_action": 3}), 422, "$.feedback.executed_action"),
    "infinite reward": (plus(b'"feedback":{"reward":1e400}'), 422, "$.feedback.reward"),
    "unknown allowed action": (told(allowed=["hold", MARK]), 422, "$.allowed"),
    "mask that is too short": (told(allowed=[True]), 422, "$.allowed"),
    "mask that is too long": (told(allowed=[True] * 4), 422, "$.allowed"),
    "empty mask": (told(allowed=[]), 422, "$.allowed"),
    "mask of truths and names": (told(allowed=[True, "hold", False]), 422, "$.allowed"),
    "2 in a mask": (told(allowed=[1, 0, 2]), 422, "$.allowed[2]"),
    "half a truth in a mask": (told(allowed=[1, 0.5, 0]), 422, "$.allowed[1]"),
    "-1 in a mask": (told(allowed=[-1, 0, 1]), 422, "$.allowed[0]"),
    "mask of zeros": (told(allowed=[0, 0, 0.0]), 422, "$.allowed"),
    "truths and names in a mask": (told(allowed=[1, 0, "hold"]), 422, "$.allowed"),
    "half an action": (plus(b'"feedback":{"executed_action":1.5}'), 422, "$.feedback.executed_action"),
    "an action too many": (plus(b'"feedback":{"executed_action":3.0}'), 422, "$.feedback.executed_action"),
    "a truth for an action": (plus(b'"feedback":{"executed_action":true}'), 422, "$.feedback.executed_action"),
    "an empty feedback_id": (plus(b'"feedback":{"reward":1,"feedback_id":""}'), 422, "$.feedback.feedback_id"),
    "a long feedback_id": (
        plus(b'"feedback":{"reward":1,"feedback_id":"%b"}' % (b"x" * 65)),
        422,
        "$.feedback.feedback_id",
    ),
    "a number for a feedback_id": (plus(b'"feedback":{"reward":1,"feedback_id":7}'), 422, "$.feedback.feedback_id"),
    "mask that forbids everything": (told(allowed=[False] * 3), 422, "$.allowed"),
    "unknown fact": (told(facts={MARK: 1}), 422, "$.facts"),
    "text for a fact": (told(facts={"price": MARK}), 422, "$.facts[...]"),
    "list of facts": (told(facts=[1]), 422, "$.facts"),
    "negative time": (told(observed_at=-1), 422, "$.observed_at"),
    "text for a time": (told(observed_at=MARK), 422, "$.observed_at"),
    "time in milliseconds": (told(observed_at=1.7e12), 422, "$.observed_at"),
    "no deadline": (told(deadline_ms=0), 422, "$.deadline_ms"),
    "endless deadline": (told(deadline_ms=1e300), 422, "$.deadline_ms"),
    "long request id": (told(request_id=MARK * 30), 422, "$.request_id"),
    "number for a truth": (told(explore=1), 422, "$.explore"),
    **{f"{depth} deep in a known field": (nested(depth, OBSERVED), 422, "$.observation[0]") for depth in DEEP},
    **{f"{depth} deep in an unknown field": (nested(depth, UNKNOWN), 422, "$") for depth in DEEP},
    **{
        f"{depth} deep in feedback": (nested(depth, FED) + b"}", 422, "$.feedback.next_observation[0]")
        for depth in DEEP
    },
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One data plane for all bad bodies: none of them leaves a trace."""
    with serving(tmp_path_factory.mktemp("intake"), facts=("price",)) as served:
        yield served


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_body_is_one_error_at_its_place_and_costs_nothing(served: Serving, name: str) -> None:
    """Every bad body is a 4xx that names the place, echoes nothing, and takes under 5 ms of CPU."""
    body, status, path = BAD[name]

    spent, reply = [], None
    for _ in range(3):
        began = time.process_time()
        reply = await served.call("POST", "/act", body)
        spent.append(time.process_time() - began)

    assert reply is not None
    assert refusals(reply, MARK)["path"] == path
    assert reply.status == status
    assert min(spent) < CPU_S
    assert not served.decisions()


@pytest.mark.parametrize("name", [n for n in BAD if BAD[n][1] == 422 and not n.startswith(TOO_DEEP)])
async def test_a_bad_row_of_a_batch_is_alone_with_its_error(tmp_path: Path, name: str) -> None:
    """Rows before and after a row that does not fit are decided; its path starts with its place in the batch."""
    body, _, path = BAD[name]

    with serving(tmp_path, facts=("price",)) as served:
        good = told(session="good")
        reply = await served.call("POST", "/act/batch", b'{"requests":[%b,%b,%b]}' % (good, body, good))
        first, refused, last = reply.json()["decisions"]

        assert [first["action_name"], last["action_name"]] == ["hold", "hold"]
        assert refused["error"]["path"] == "$.requests[1]" + path[1:]
        assert MARK.encode() not in reply.body
        assert len(served.decisions()) == 2


@pytest.mark.parametrize("number", [b"-0.0", b"5e-324", b"1e-999", b"0." + b"3" * 5000, b"3.4028234663852886e38"])
async def test_odd_numbers_are_fine(tmp_path: Path, number: bytes) -> None:
    """Negative zero, what is too small to be told from zero, many digits, the largest number of the network."""
    with serving(tmp_path) as served:
        reply = await served.call("POST", "/act", seen(number))

        assert reply.status == 200
        assert served.decisions()[0].observation == [0.5, float(number), 1.0]


class Clocks:
    """A monotonic clock and the time of day, both set by hand."""

    def __init__(self) -> None:
        self.monotonic = 50.0
        self.wall = NOW


def decoder_of(clocks: Clocks, **settings: object) -> RequestDecoder:
    """A decoder by these clocks."""
    config = Config.model_validate(
        {"name": "n", "policy": "p.onnx", "baseline": {"kind": "constant", "action": "hold"}, **settings}
    )
    keyring = Keyring({1: KEY})
    now = Clock(lambda: clocks.wall, lambda: clocks.monotonic).now
    return RequestDecoder(Codec(SCHEMA), config, keyring, clock=lambda: clocks.monotonic, now=now)


class Nobody:
    """Waits for no outcome."""

    def done(self) -> bool:
        return True

    def set_result(self, outcome: Outcome, /) -> None:
        raise AssertionError(outcome)


def read(decoder: RequestDecoder, body: bytes, arrived: float = 50.0) -> Request:
    """The request in a body; nobody waits for its answer."""
    return decoder.request(body, Nobody(), arrived)


async def test_a_request_knows_when_it_came_and_until_when_it_waits() -> None:
    """The deadline is the configuration's or the caller's, on the monotonic clock, from its first byte on."""
    clocks = Clocks()
    decoder = decoder_of(clocks, limits={"deadline_ms": 40})

    plain, hurried = read(decoder, told(), 49.99), read(decoder, told(deadline_ms=3.5))

    assert (plain.at, plain.now, plain.arrived, plain.read) == (NOW, NOW, 49.99, 50.0)
    assert math.isclose(plain.deadline, 50.03)
    assert math.isclose(hurried.deadline, 50.0035)
    assert (plain.options, hurried.options) == (None, {"deadline_ms": 3.5})


@pytest.mark.parametrize(
    "walls",
    [
        (NOW, NOW + 3600, NOW + 3601, NOW + 2),
        (NOW, NOW - 3600, NOW - 3599, NOW + 2),
        (NOW, NOW, NOW, NOW),
        (NOW, NOW + 1.001, NOW + 2.002, NOW + 3.003),
    ],
    ids=["ahead and back", "back and ahead", "it stands still", "it is fast"],
)
async def test_f99_requests_are_as_far_apart_as_it_took(walls: tuple[float, ...]) -> None:
    """Whatever the wall clock says: no cooldown is cut short, and none lasts until the clock is past where it was."""
    clocks = Clocks()
    decoder = decoder_of(clocks)
    times = []

    for wall in walls:
        clocks.wall = wall
        times.append(read(decoder, told()).at)
        clocks.monotonic += 1.0

    assert times == [NOW, NOW + 1, NOW + 2, NOW + 3]


@pytest.mark.parametrize(("passed", "late"), [(59.0, False), (61.0, True)])
@pytest.mark.parametrize("step", [3600.0, -3600.0, 0.0])
async def test_f90_feedback_is_late_by_what_has_passed(step: float, passed: float, late: bool) -> None:
    """A wait of 60 s is neither over nor longer because the clock was set."""
    clocks = Clocks()
    decoder = decoder_of(clocks, rewards={"wait_seconds": 60})
    outcome = json.dumps({"decision_id": token(int(read(decoder, told()).at * 1000)), "reward": 1.0}).encode()

    clocks.wall += step
    clocks.monotonic += passed
    heard = decoder.feedback(outcome)

    assert heard is not None
    assert (heard.late, heard.at) == (late, NOW + passed)


@pytest.mark.parametrize(("clock", "now"), [("service", NOW), ("observed_at", 5.0)])
async def test_the_guards_go_by_the_clock_that_is_configured(clock: str, now: float) -> None:
    """``observed_at`` is the guards' time only where the configuration trusts the caller with it."""
    decoder = decoder_of(Clocks(), guard_clock=clock)

    assert read(decoder, told(observed_at=5)).now == now
    assert read(decoder, told(observed_at=5)).observed_at == 5.0
    assert read(decoder, told()).now == NOW


async def test_what_is_not_said_is_told_apart_from_null() -> None:
    """``previous`` left out continues what is remembered, null begins an episode, an id continues that decision."""
    decoder = decoder_of(Clocks())
    requests = [read(decoder, body) for body in (told(), told(previous=None), told(previous=token()))]

    assert [request.begins for request in requests] == [False, True, False]
    assert [request.previous for request in requests] == [None, None, token()]


@pytest.mark.parametrize(
    ("allowed", "mask"),
    [
        ([True, False, True], [True, False, True]),
        (["scale_up", "scale_down"], [True, False, True]),
        (["hold", "hold"], [False, True, False]),
        (None, None),
    ],
)
async def test_a_mask_is_truths_in_order_or_names_in_any(
    allowed: list[bool | str] | None, mask: list[bool] | None
) -> None:
    """Both spellings of ``allowed`` mean the same; null is no mask."""
    assert read(decoder_of(Clocks()), told(allowed=allowed)).mask == mask


async def test_options_are_what_the_caller_chose() -> None:
    """What was left at its default is not written down."""
    decoder = decoder_of(Clocks())

    assert read(decoder, told(explore=True)).options is None
    assert read(decoder, told(explore=False, request_id="r")).options == {"request_id": "r", "explore": False}


async def test_feedback_is_late_once_the_wait_is_over() -> None:
    """What comes after ``wait_seconds`` is taken and said to be late."""
    decoder = decoder_of(Clocks(), rewards={"wait_seconds": 10})
    items = [{"decision_id": token(ms=int((NOW - ago) * 1000)), "reward": 1.5} for ago in (9, 11)]

    taken = [decoder.feedback(json.dumps(item).encode()) for item in items]

    assert [told is not None and told.late for told in taken] == [False, True]


def test_feedback_of_another_deployment_is_forged() -> None:
    """A decision that no key of ours signed gives None."""
    assert decoder_of(Clocks()).feedback(json.dumps({"decision_id": OTHERS, "reward": 1}).encode()) is None


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"reward": 1}, "$.decision_id"),
        ({"decision_id": token()}, "$"),
        ({"decision_id": token(), "executed_action": "fly"}, "$.executed_action"),
        ({"decision_id": token(), "next_observation": [1, 2]}, "$.next_observation"),
        ({"decision_id": token(), "next_observation": [1, 2, 3], "final_observation": [1, 2, 3]}, "$"),
        ({"decision_id": token(), "activated": 1}, "$.activated"),
    ],
)
def test_feedback_has_to_say_something_of_a_decision(item: dict[str, object], path: str) -> None:
    """Feedback without a decision, without an outcome, or with one that does not fit."""
    with pytest.raises(DoesNotFit) as refused:
        decoder_of(Clocks()).feedback(json.dumps(item).encode())

    assert refused.value.path == path


def test_feedback_is_written_in_the_schema_s_order_and_numbers() -> None:
    """A named observation becomes a list, a named action its index."""
    item = {
        "decision_id": token(),
        "reward": 2,
        "next_observation": {"replicas": 3, "queue": 2, "cpu": 1},
        "terminated": True,
        "executed_action": "scale_up",
        "activated": False,
    }

    taken = decoder_of(Clocks()).feedback(json.dumps(item).encode())

    assert taken is not None
    assert (taken.decision_id, taken.at, taken.reward, taken.next_observation) == (token(), NOW, 2.0, [1.0, 2.0, 3.0])
    assert (taken.terminated, taken.truncated, taken.executed_action, taken.activated) == (True, False, 2, False)


@pytest.mark.parametrize("raised", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), RecursionError()])
async def test_whatever_a_decoder_raises_is_a_refusal(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder may fail in ways of its own; none of them comes through."""
    decoder = decoder_of(Clocks())

    def fail(_: Any) -> Any:
        raise raised

    monkeypatch.setattr(decoder._codec, "decode_act", fail)

    with pytest.raises(NotJson):
        read(decoder, b"{}")


def test_a_refusal_is_an_error_with_a_code_of_its_own() -> None:
    """Every refusal has another code, by which it is counted."""
    kinds = RequestRefused.__subclasses__()

    assert len({kind("x").code for kind in kinds}) == len(kinds)
