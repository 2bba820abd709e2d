"""The README's commands do what it says, against the service that ``make serve`` starts.

The commands are taken apart here as the shell and `curl` would, so that neither has to be installed for the tests.
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import RedisServer
from tests.system.serving import ROOT, Client, Service, eventually, rows_of

README = (ROOT / "README.md").read_text("utf-8")
POLICY = ROOT / "policy.toml"
ADDRESS = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Curl:
    """A `curl` command, as far as the README uses it."""

    path: str
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Curl":
        """Take the words after `curl` apart; what is not known here fails."""
        found: dict[str, Any] = {"headers": {}}
        rest = iter(words)
        for word in rest:
            if word == "-H":
                name, _, value = next(rest).partition(": ")
                found["headers"][name] = value
            elif word == "-d":
                found["body"] = next(rest)
            elif word.startswith(ADDRESS):
                found["path"] = word.removeprefix(ADDRESS)
            else:
                assert word == "-s", f"curl {word} is not known to this test"
        return cls(**found)

    def run(self, client: Client) -> Any:
        """Send it; the decoded answer, which has to be a 200."""
        if self.body is None:
            status, told = client.get(self.path)
        else:
            assert self.headers == {"content-type": "application/json"}
            status, told = client.post(self.path, json.loads(self.body))
        assert status == 200, told
        return told


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def curls() -> list[Curl]:
    """All commands of the README's shell blocks, each of which has to be a `curl`."""
    found = []
    for block in blocks("sh"):
        words = shlex.split(block.replace("\\\n", " "))
        starts = [i for i, word in enumerate(words) if word == "curl"]
        assert starts[:1] == [0], f"{words[0]} is not known to this test"
        found += [Curl.parse(words[i + 1 : j]) for i, j in pairwise([*starts, len(words)])]
    return found


def line_with(start: str) -> list[str]:
    """The words of the README's one line that begins so."""
    (line,) = (line for line in README.splitlines() if line.startswith(start))
    return shlex.split(line)


def play(service: Service) -> None:
    """Two steps of a loop as the README has it: an action, and with the next request its reward."""
    (act,) = (curl for curl in curls() if curl.path == "/act")
    with Client(service.port) as client:
        told = act.run(client)
        request = json.loads(act.body or "") | {"previous": told["decision_id"], "feedback": {"reward": -1.3}}
        assert client.post("/act", request)[0] == 200


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """What ``make serve`` serves, with the embedded store."""
    with Service(POLICY, tmp_path_factory.mktemp("readme") / "data") as service:
        yield service


def test_there_are_commands() -> None:
    """The first screen shows one command for /act and one for /report."""
    assert [curl.path for curl in curls()][:2] == ["/act", "/report"]


@pytest.mark.parametrize("curl", curls(), ids=lambda curl: str(curl.path))
def test_every_curl_is_answered(served: Service, curl: Curl) -> None:
    """Each command, as it stands there, is answered with 200."""
    with Client(served.port) as client:
        assert curl.run(client)


def test_the_answer_shown_is_the_answer_given(served: Service) -> None:
    """What stands below the first command has the real answer's members, policy, version and durability."""
    shown = json.loads(blocks("json")[0])

    with Client(served.port) as client:
        told = curls()[0].run(client)

    assert list(told) == list(shown)
    assert {type(value) for value in told.values()} == {type(value) for value in shown.values()}
    for name in ("policy", "version", "track", "durability"):
        assert told[name] == shown[name]


def test_transitions_are_there_for_sql(tmp_path: Path) -> None:
    """The README's query finds the reward that was told, with its decision."""
    command, store, query = line_with("sqlite3 ")
    assert command == "sqlite3"
    with Service(POLICY, tmp_path / "data") as service:
        play(service)
        eventually(lambda: bool(rows_of(tmp_path / store, query)), what=service.output)
        (row,) = rows_of(tmp_path / store, query)

    assert -1.3 in row


def test_transitions_are_there_for_xread(tmp_path: Path) -> None:
    """With REDIS_URL the README's XREAD finds the reward that was told."""
    command, *words = line_with("redis-cli ")
    assert command == "redis-cli"
    with RedisServer() as server, Service(POLICY, tmp_path / "data", redis_url=server.url) as service:
        play(service)
        with server.client() as client:
            eventually(lambda: bool(client.execute_command(*words)), what=service.output)
            ((_, entries),) = client.execute_command(*words)

    rewards = [json.loads(fields[b"transition"])["reward"] for _, fields in entries]
    assert -1.3 in rewards
