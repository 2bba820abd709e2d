"""The agent in this process, where time and failures are the test's, and how it ends."""

import asyncio
import shutil
from pathlib import Path
from random import Random

import pytest

from service.agent.__main__ import main
from service.agent.agent import KeyMismatch
from service.agent.backoff import FIRST_S, LONGEST_S, Backoff
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.log.journal import segments
from tests.redis_server import RedisServer
from tests.service.agent.agents import CONFIG, page_after, running, seen
from tests.service.agent.pens import KEYRING, Pen


class TestLoop:
    """The same in this process, where time and failures are the test's."""

    async def test_it_beats_only_while_it_reaches_its_store(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """Exploration and canaries need a state that is younger than the lease, so they end with Redis."""
        store = RedisStreams(redis_server.url, "svc", timeout_s=0.2)
        pen = Pen(1, tmp_path / "journal")
        pen.feedback(1001, pen.decision(1000), 0.5, terminated=True)
        async with running(store, tmp_path) as one:
            page = await seen(lambda: page_after(tmp_path, 0))
            await seen(lambda: one.ledger().joiner.transitions == {"episode_end": 1})
            redis_server.kill()
            await seen(lambda: not one.ledger().reachable)
            pen.beat(2000)
            await seen(lambda: one.ledger().journal.journaled == 1)
            redis_server.start()
            await seen(lambda: one.ledger().reachable and one.ledger().journal.delivered == 3)
            await seen(lambda: page_after(tmp_path, page.heartbeat))

            assert one.ledger().journal.accepted == 3
            assert "svc" in repr(one)
        await store.close()
        pen.close()

    async def test_its_folder_may_be_taken_away(self, tmp_path: Path) -> None:
        """The page is published again: without it nothing would be explored, for ever."""
        store = SqliteStore(tmp_path / "store.sqlite")
        async with running(store, tmp_path):
            page = await seen(lambda: page_after(tmp_path, 0))
            shutil.rmtree(tmp_path / "state")
            await seen(lambda: page_after(tmp_path, page.heartbeat))
        await store.close()

    async def test_a_page_that_cannot_be_published_is_said_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The agent is not ready then, since nothing is explored; it was, and wrote a line a second."""
        store = SqliteStore(tmp_path / "store.sqlite")
        path = tmp_path / "state" / "agent.page"
        async with running(store, tmp_path) as one:
            page = await seen(lambda: page_after(tmp_path, 0))
            path.unlink()
            path.mkdir()
            why = await seen(lambda: one.failing().get("publish"))
            await asyncio.sleep(2.5)
            said = [record.message for record in caplog.records if "agent.page" in record.message]
            path.rmdir()
            await seen(lambda: page_after(tmp_path, page.heartbeat))
            await seen(lambda: "publish" not in one.failing() or None)
        await store.close()

        assert said == [why]
        assert "agent.page cannot be written (Is a directory)" in why

    async def test_a_foreign_store_is_refused_before_anything_is_shipped(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """And the fingerprints are named, the keys are not."""
        store = RedisStreams(redis_server.url, "svc")
        await store.claim_key("another")
        pen = Pen(1, tmp_path / "journal")
        pen.beat(1)
        with pytest.raises(KeyMismatch, match="another"):
            async with running(store, tmp_path) as one:
                await one._stop.wait()

        assert await store.writers() == {}
        await store.close()
        pen.close()

    async def test_a_store_that_turns_out_to_be_foreign_is_said_and_left_alone(
        self, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Away at the start and somebody else's when it comes: said once, nothing shipped, and put right in time."""
        store = RedisStreams(redis_server.url, "svc", timeout_s=0.2)
        await store.claim_key("another")
        redis_server.stall()
        pen = Pen(1, tmp_path / "journal")
        pen.introduce(1)
        async with running(store, tmp_path) as one:
            redis_server.resume()
            await seen(lambda: "keyring another" in caplog.text)
            before = (await store.writers(), one.ledger().reachable)
            with redis_server.client() as operator:
                operator.delete("actd:{svc}:key")
            await seen(lambda: one.ledger().journal.delivered == 1)

        assert before == ({}, False)
        assert sum("keyring another" in record.getMessage() for record in caplog.records) == 1
        await store.close()
        pen.close()

    @pytest.mark.parametrize("emptied", [True, False])
    async def test_a_store_that_becomes_foreign_is_said_and_left_alone(
        self, redis_server: RedisServer, tmp_path: Path, emptied: bool
    ) -> None:
        """While it works: another deployment claims it after it was emptied, or it is another one by now."""
        store = RedisStreams(redis_server.url, "svc", timeout_s=0.2)
        pen = Pen(1, tmp_path / "journal")
        pen.introduce(1)
        async with running(store, tmp_path) as one:
            await seen(lambda: one.ledger().journal.delivered == 1)
            with redis_server.client() as other:
                if emptied:
                    other.flushall()
                other.set("actd:{svc}:key", "another")
                await seen(lambda: "keyring another" in one.ledger().failing.get("ship", ""))
                there = other.xlen(f"actd:{{svc}}:w:{pen.name}")
                pen.beat(2)
                await asyncio.sleep(0.5)
                assert other.xlen(f"actd:{{svc}}:w:{pen.name}") == there
                assert "keyring another" in one.ledger().failing["join"]
                other.delete("actd:{svc}:key")
                await seen(lambda: one.ledger().journal.delivered == 2 and not one.ledger().failing)
                assert other.get("actd:{svc}:key") == KEYRING.fingerprint.encode()
        await store.close()
        pen.close()

    async def test_a_full_store_that_is_nobodys_is_worked_in(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """Where the claim was thrown away and there is no room for another, trimming has to make some."""
        store = RedisStreams(redis_server.url, "svc", timeout_s=0.2)
        pen = Pen(1, tmp_path / "journal")
        pen.introduce(1)
        async with running(store, tmp_path) as one:
            await seen(lambda: one.ledger().journal.delivered == 1)
            with redis_server.client() as other:
                other.config_set("maxmemory", "1")
                other.delete("actd:{svc}:key")
                await asyncio.sleep(1.5)
                await seen(lambda: "trim" not in one.ledger().failing)
                other.config_set("maxmemory", "0")
            pen.beat(2)
            await seen(lambda: one.ledger().journal.delivered == 2 and not one.ledger().failing)
        await store.close()
        pen.close()

    async def test_told_to_stop_before_the_store_ever_answered_it_ends(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """At once, with nothing shipped to a store of which nothing is known."""
        redis_server.kill()
        store = RedisStreams(redis_server.url, "svc")
        async with asyncio.timeout(5), running(store, tmp_path) as one:
            await seen(lambda: one._failing)
        assert page_after(tmp_path, 0) is None
        await store.close()

    async def test_the_journal_is_kept_within_its_bytes_before_the_store_ever_answered(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """What is lost for that is counted at once."""
        redis_server.kill()
        store = RedisStreams(redis_server.url, "svc")
        pen = Pen(1, tmp_path / "journal", segment_bytes=100_000)
        pen.introduce(1000)
        for ms in range(1001, 3001):
            pen.decision(ms, session="s" * 500)
        async with running(store, tmp_path, CONFIG + "[retention]\njournal_bytes = 1048576\n") as one:
            await seen(lambda: one.ledger().journal.lost)
            told = one.ledger().journal
            assert told.accepted == told.journaled + told.lost["retention"] == pen.count
            assert sum(path.stat().st_size for path in segments(tmp_path / "journal" / pen.name)) <= 1048576
        pen.close()
        await store.close()

    async def test_the_last_round_is_cut_short_where_the_store_is_away(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """What was not shipped stays in the journal."""
        store = RedisStreams(redis_server.url, "svc", timeout_s=0.2)
        pen = Pen(1, tmp_path / "journal")
        async with asyncio.timeout(10), running(store, tmp_path) as one:
            await seen(lambda: page_after(tmp_path, 0))
            redis_server.kill()
            pen.beat(1)
            await seen(lambda: not one.ledger().reachable)
        assert one.ledger().journal.journaled == 1
        await store.close()
        pen.close()


def test_waits_grow_to_a_bound_and_begin_anew() -> None:
    """Uniformly between nothing and a bound that doubles, so that many agents do not try at once."""
    backoff = Backoff(Random(7))  # noqa: S311 - jitter
    waits = [backoff.failed() for _ in range(200)]
    assert all(wait <= FIRST_S * 2**n for n, wait in enumerate(waits[:5]))
    assert 0.4 * LONGEST_S < sum(waits[50:]) / 150 < 0.6 * LONGEST_S
    backoff.worked()

    assert backoff.failed() <= FIRST_S
    assert repr(backoff) == "<Backoff after 1 failures>"


class TestMistakes:
    """What an operator may get wrong."""

    @pytest.mark.parametrize(
        ("broken", "url", "said"),
        [
            ("policy.toml", "", "policy.toml"),
            ("keyring.json", "", "keyring.json"),
            ("", "mailto:x:s3cret@y", "REDIS_URL"),
            ("state", "", "state"),
        ],
    )
    def test_end_it_with_2_and_one_sentence(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        broken: str,
        url: str,
        said: str,
    ) -> None:
        """The thing, what it was, what was expected; no traceback, no secret."""
        monkeypatch.setenv("REDIS_URL", url)
        monkeypatch.delenv("ACTD_KEYRING", raising=False)
        (tmp_path / "policy.toml").write_text(CONFIG)
        if broken:
            (tmp_path / broken).write_text("nonsense")
        status = main(["--config", str(tmp_path / "policy.toml"), "--data", str(tmp_path)])
        told = capsys.readouterr().err

        assert status == 2
        assert told.count("\n") == 1
        assert said in told
        assert "s3cret" not in told

    def test_a_named_keyring_has_to_be_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """None is made where one was promised."""
        monkeypatch.delenv("REDIS_URL", raising=False)
        monkeypatch.setenv("ACTD_KEYRING", str(tmp_path / "missing.json"))
        (tmp_path / "policy.toml").write_text(CONFIG)

        assert main(["--config", str(tmp_path / "policy.toml"), "--data", str(tmp_path)]) == 2
        assert "missing.json" in capsys.readouterr().err
        assert not (tmp_path / "missing.json").exists()
