"""Fuzz: a million bodies at the decoder and twenty thousand requests through the app, and nothing but clear errors."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.decoding import RequestDecoder
from service.decision.batch import Outcome
from service.errors import RequestRefused
from service.log.ids import Key, body_of, body_prefix
from service.log.records import Decision
from tests.in_process import JSON, Headers, Reply, Serving, asking, serving

MARK = "MARKERX"
SEEDS = (20261120, 7)
BODIES = 1_000_000
REQUESTS = 20_000
SECRET = b"k" * 32
KEY = Key(1, SECRET)
TOKEN = KEY.token(body_of(body_prefix(KEY, b"w" * 8), 1_700_000_000_000, 1, "stable"))

# A configuration that always has a safe action: nothing forbids holding, and a mask that does meets the last resort.
SETTINGS: dict[str, Any] = {
    "facts": ("price",),
    "baseline": {
        "kind": "rules",
        "rules": [{"when": "cpu / queue > 1", "action": "scale_up"}],
        "otherwise": "hold",
        "last_resort": "hold",
    },
    "constraints": [
        {"kind": "cooldown", "name": "rest", "actions": ["scale_up"], "seconds": 3600},
        {"kind": "rule", "name": "dear", "forbid": "action == 'scale_up' and price * price > 3 / queue"},
        {"kind": "bounds", "name": "pods", "of": "replicas", "effect": {"scale_down": -1, "scale_up": 1}, "low": 1},
        {"kind": "rule", "name": "watched", "forbid": "step % 2 == 0", "mode": "warn"},
    ],
    "explore": {"kind": "softmax"},
}
CORPUS: list[bytes] = [
    json.dumps({**asking(MARK), **told}).encode()
    for told in (
        {},
        {"observation": [0.5, 1e-3, -12]},
        {"previous": None, "deadline_ms": 1e-9},
        {"observation": [0.5, 2, 3], "deadline_ms": 1e-9},
        {"previous": TOKEN, "explore": False},
        {"feedback": {"decision_id": TOKEN, "reward": -1.5, "next_observation": [0.1, 2, 3], "terminated": True}},
        {"feedback": {"reward": 1, "final_observation": {"cpu": 1, "queue": 2, "replicas": 3}, "truncated": True}},
        {"feedback": {"executed_action": "hold", "activated": False}, "previous": TOKEN},
        {"allowed": [True, False, True]},
        {"allowed": ["hold", "scale_up"], "facts": {"price": 3.25}},
        {"observed_at": 1.7e9, "deadline_ms": 20, "request_id": f"{MARK}-1", "explore": True},
        {"observation": ["1", None, True], MARK: {"x": [MARK]}},
        {"session": f"{MARK}\ud83d\ude00é\n", "facts": {MARK: 1}},
        {"allowed": [MARK], "feedback": {"executed_action": MARK, MARK: 1}},
    )
]
PIECES: list[bytes] = [
    *rf"""NaN Infinity -Infinity null true false 0 -0 -0.0 1e999 -1e999 1e39 1e-400 5e-324 1.7976931348623157e308
    {{ }} [ ] [] {{}} [[ ]] , : " \ / # // /* 00 1. .1 +1 0x1 1e 1e+ - \u0000 \ud800 \udc00 \ud83d\ude00 "\\ ` - é
    "{MARK}" "hold" "{TOKEN}" "session" "observation" "facts" "price" "allowed" "feedback" "previous" {MARK}
    "observation":{{"cpu":1,"queue":1,"replicas":1}} "session":"{MARK}", "request_id":"{MARK}", ,"{MARK}":1
    """.encode().split(),
    *b'7 0.125 -3e2 2.5e-7 [1,2,3] ["hold"] [true,true,false] {"price":1e300} {"reward":1} "s1" "s2"'.split(),
    *(b"\xef\xbb\xbf", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8"),
    *(b"\0", b"\n", b"\x1b[31m", b"9" * 5000, b"1e" + b"9" * 400, b"0." + b"1" * 5000, b"[" * 2000, b'{"a":' * 2000),
    *(b"` - at `$.MARKERX", b'"x` - at `$.MARKERX"', b',"x` - at `$.MARKERX":1}'),
]
# A string or a number: what a token is replaced by keeps the body nearly valid, so that the later checks are reached.
VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null')


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Bodies from the corpus with one to three things changed: whole values, or bits, bytes, pieces and ends."""
    generator = np.random.default_rng(seed)
    values = [[match.span() for match in VALUE.finditer(body)] for body in CORPUS]
    pieces, bodies, other = len(PIECES), len(CORPUS), CORPUS[0]
    for _ in range(0, count, 50_000):
        numbers = generator.integers(0, 2**31, (min(count, 50_000), 6)).tolist()
        for which, kind, at, piece, more, again in numbers:
            index = which % bodies
            body = CORPUS[index]
            if kind % 3:
                start, stop = values[index][at % len(values[index])]
                body = body[:start] + PIECES[piece % pieces] + body[stop:]
            else:
                body = changed(body, more % 8, at, PIECES[piece % pieces], other)
            if not again % 4:
                body = changed(body, more % 8, piece, PIECES[at % pieces], CORPUS[kind % bodies])
            if not again % 32:
                other = body
            yield body


def changed(body: bytes, kind: int, at: int, piece: bytes, other: bytes) -> bytes:
    """One change of a body: a bit, a piece put in, another body's end, bytes cut out, or something at either end."""
    place = at % (len(body) + 1)
    if kind == 0:
        return body[:place] + bytes([(body[place] if place < len(body) else 0) ^ 1 << at % 8]) + body[place + 1 :]
    if kind == 1:
        return body[:place] + piece + body[place:]
    if kind == 2:
        return body[:place] + other[at % (len(other) + 1) :]
    if kind == 3:
        return body[:place] + body[place + at % 9 + 1 :]
    if kind == 4:
        return body[:-1] + b"," + other[1:]
    if kind == 5:
        return body[:place]
    return body + piece if kind == 6 else piece + body


def keep_key(folder: Path) -> None:
    """Serve with the key by which the corpus names decisions."""
    (folder / "data").mkdir()
    (folder / "data" / "keyring.json").write_text(json.dumps({"keys": {"1": SECRET.hex()}}))


class Nobody:
    """Waits for no outcome."""

    def done(self) -> bool:
        return True

    def set_result(self, outcome: Outcome, /) -> None:
        raise AssertionError(outcome)


@pytest.mark.parametrize(
    "bodies", [BODIES, pytest.param(10 * BODIES, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_a_million_mutated_bodies_are_requests_or_refusals(tmp_path: Path, bodies: int) -> None:
    """Whatever bytes come, the decoder gives a request that is whole or an error that echoes nothing."""
    keep_key(tmp_path)
    with serving(tmp_path, **SETTINGS) as served:
        decoder: RequestDecoder = served.application.endpoint._decoder
        decode, nobody = decoder.request, Nobody()
        outcomes: Counter[str] = Counter()
        for seed in SEEDS:
            for body in mutated(seed, bodies // len(SEEDS)):
                try:
                    request = decode(body, nobody, 0.0)
                except RequestRefused as error:
                    outcomes[error.code] += 1
                    wrong = MARK in error.message or MARK in error.path
                except BaseException as error:
                    error.add_note(f"seed {seed}, body {body!r}")
                    raise
                else:
                    outcomes["request"] += 1
                    wrong = len(request.observation) != 3
                assert not wrong, (seed, body)

        print(f"{bodies} bodies: {dict(outcomes)}")  # noqa: T201 - what the fuzz reached
        assert outcomes.total() == bodies
        assert min(outcomes["request"], outcomes["not_json"], outcomes["does_not_fit"]) > bodies // 50


DECIDED = re.compile(rb'"decision_id":"([^"]+)"')
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW")
PATHS = (
    *("/act", "/act/batch", "/feedback", "/report", "/metrics", "/policy", "/live", "/ready", "/openapi.json", "/docs"),
    *("/act/", "/act?x=MARKERX", "/MARKERX", "/..//act", "/%ff", "/\u20ac", "/act\0"),
)
HEADERS: tuple[Headers, ...] = (
    (),
    ((b"content-type", b"text/plain"),),
    (JSON, (b"content-encoding", b"gzip")),
    (JSON, (b"content-length", b"99999999999999999999")),
    (JSON, (b"content-length", b"-1"), (b"accept", b"\xff\x00MARKERX;;;q=,")),
    ((b"content-type", b"application/json; charset=MARKERX"), (b"accept", b"application/openmetrics-text; version=9")),
    (JSON, (b"expect", b"100-continue"), (b"transfer-encoding", b"chunked"), (b"host", b"\xff")),
)


def requests(seed: int, count: int) -> Iterator[tuple[str, str, bytes, Headers]]:
    """Requests of every kind, most of them bodies for ``/act``."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    fine = [body.replace(MARK.encode(), b"MARKERX%d" % i) for i, body in enumerate(CORPUS[:4] * 5)]
    for body in mutated(seed, count):
        dice = chance.random()
        if dice < 0.45:
            yield "POST", "/act", body, (JSON,)
        elif dice < 0.7:
            yield "POST", "/act", chance.choice(fine), (JSON,)
        elif dice < 0.8:
            rows = b",".join(chance.choice((body, *fine)) for _ in range(chance.randrange(6)))
            yield "POST", "/act/batch", b'{"requests":[%b]}' % rows, (JSON,)
        elif dice < 0.9:
            item = _feedback_of(body)
            yield "POST", "/feedback", chance.choice((item, b"[%b,%b]" % (item, item), body)), (JSON,)
        else:
            yield chance.choice(METHODS), chance.choice(PATHS), body, chance.choice(HEADERS)


def _feedback_of(body: bytes) -> bytes:
    """The part of a body that stands where its feedback would."""
    at = body.find(b'"feedback": ')
    return body[at + 12 : -1] if at >= 0 else body


async def test_twenty_thousand_requests_meet_no_fault(tmp_path: Path) -> None:
    """No 5xx and no exception from any call, and the journal is whole and has every decision that was answered."""
    seed, together = SEEDS[0], 20
    keep_key(tmp_path)
    with serving(tmp_path, **SETTINGS) as served:
        served.permit()
        asked, outcomes, answered = list(requests(seed, REQUESTS)), Counter[int](), set[bytes]()
        for at in range(0, len(asked), together):
            group = asked[at : at + together]
            replies = await asyncio.gather(*(_sent(served, *one) for one in group))
            for one, reply in zip(group, replies, strict=True):
                outcomes[reply.status] += 1
                assert reply.status < 500, (seed, one, reply)
                assert reply.status < 400 or MARK.encode() not in reply.body, (seed, one, reply)
                answered.update(DECIDED.findall(reply.body) if one[1].startswith("/act") else ())
        records = served.records()
        made = [record for record in records if isinstance(record, Decision)]

        print(f"{REQUESTS} requests: {dict(sorted(outcomes.items()))}, {len(made)} decisions")  # noqa: T201
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert answered == {record.id.encode() for record in made}
        assert outcomes[200] > REQUESTS // 4
        assert {record.source for record in made} == {"policy", "baseline", "last_resort"}


async def _sent(served: Serving, method: str, path: str, body: bytes, headers: Headers) -> Reply:
    try:
        return await served.call(method, path, body, headers=headers)
    except BaseException as error:
        error.add_note(f"{method} {path} {headers} {body!r}")
        raise


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_gives_the_same_bodies(seed: int) -> None:
    """A failure can be repeated from its seed."""
    assert list(mutated(seed, 100)) == list(mutated(seed, 100))
