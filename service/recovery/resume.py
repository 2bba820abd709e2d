"""Resuming: before it is ready, a data plane takes over from those before it where each session stands."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from service.api.idempotency import KEPT_S, Idempotency
from service.config import Config
from service.decision.batch import Behaviour
from service.decision.sessions import Sessions
from service.log.ids import Place
from service.log.readback import Archive
from service.recovery.lineage import Ancestor, Instant, Lineage
from service.recovery.retained import Reader, RetainedSessions
from service.recovery.search import Search
from service.versions.engine import Engine
from service.versions.observations import Layout

_log = logging.getLogger(__name__)
# What running a policy may take that is too slow to be run while it serves.
REPLAY_S = 1.0
# So many writers before this one are named with how their clocks stood, the last first.
_NAMED = 32
# So many sessions are worked out at once while it serves, and how long (s) it rests then.
SETTLED, SETTLE_S = 8, 0.01


@dataclass(slots=True)
class Resumed:
    """Sessions and request ids with what was taken over, and the lineage that this process joins.

    ``found`` counts sessions, ``records`` what was read for that in ``seconds``; ``why`` says what is behind what was
    not read, empty where all was.
    """

    sessions: Sessions
    idempotency: Idempotency
    lineage: Lineage
    own: Ancestor
    retained: RetainedSessions
    reader: Reader
    before: tuple[Ancestor, ...] = ()
    found: int = 0
    asked: int = 0
    records: int = 0
    seconds: float = 0.0
    why: str = ""

    def ahead_s(self) -> dict[str, float]:
        """By how much (s) this process's clock is ahead of that of each writer before it, where that is known."""
        both = ((one.writer, self.own.began.ahead_of(one.began)) for one in self.before[:_NAMED])
        return {writer: ahead for writer, ahead in both if ahead is not None}

    def begin(self, writer: str) -> None:
        """Join the lineage as this writer, before anything is decided; raises JournalUnavailable."""
        self.lineage.begin(msgspec.structs.replace(self.own, writer=writer))

    async def settle(self) -> None:
        """Work out those sessions that nobody asks for, bit by bit, and let go of the logs."""
        while self.retained.build(SETTLED):  # noqa: ASYNC110 - it rests so that others are answered, and waits for nothing
            await asyncio.sleep(SETTLE_S)
        # Request ids are good for a minute.
        await asyncio.sleep(KEPT_S)
        self.reader.close()

    def summary(self) -> dict[str, Any]:
        """How many sessions are gone on with, and why those before them are not."""
        return {"sessions": self.found, "incomplete": self.why or None}

    def to_json(self) -> dict[str, Any]:
        """What of it is worth telling, for reports."""
        return {
            **self.summary(),
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "request_ids": self.asked,
            "memories_lost": self.reader.memories_lost,
            "unreadable": self.reader.unreadable,
        }


def resume(
    data: Path,
    config: Config,
    behaviour: Behaviour,
    engine: Engine,
    place: Callable[[str], Place | None],
    began: Instant,
    clock: Callable[[], float] = time.monotonic,
) -> Resumed:
    """Find the last sessions of the processes before this one, which ``began`` now; ``place`` reads a decision's id."""
    start, archive, own = clock(), Archive(), Ancestor.of(config, behaviour.schema, began)
    lineage, sessions, idempotency = Lineage(data), Sessions(config.limits.sessions), Idempotency()
    reader = Reader(behaviour, engine, Layout(behaviour.schema.observation), place, archive)
    search = Search(data / "journal", own, archive, place, limit=config.limits.sessions, clock=clock)
    why, index = search.through(lineage, reader.know), search.index
    retained = RetainedSessions(reader, {session: refs for session, refs in index.found.items() if refs})
    # The oldest first, as they were told and asked for. What is asked for again is looked up then: most are not.
    sessions.take_over(retained, index.ended[::-1])
    for one in reversed(index.asked):
        recall = partial(reader.decision, one.ref)
        idempotency.remember(one.session, one.request_id, one.digest, recall, start + KEPT_S - one.ago)
    resumed = Resumed(
        sessions, idempotency, lineage, own, retained, reader, lineage.ancestors, len(retained), len(index.asked)
    )
    resumed.records, resumed.seconds, resumed.why = search.records, clock() - start, why
    if search.records or why:
        _log.info("resumed %d sessions from %d records in %.2f s", len(retained), search.records, resumed.seconds)
    if why:
        _log.warning("%s: the history of sessions whose last decision was before that is not known", why)
    if engine.initial and not engine.inline:
        _replay(resumed, clock)
    return resumed


def _replay(resumed: Resumed, clock: Callable[[], float]) -> None:
    """Have a policy that is too slow to be run while it serves run now for what it remembers, the last sessions first.

    Those that there is no time for have lost it, and say so when they are continued.
    """
    until, more = clock() + REPLAY_S, True
    while more and clock() < until:
        more = resumed.retained.build(SETTLED)
    resumed.reader.replays = False
    if more:
        _log.warning("there was no time to run the policy for what it remembers of all sessions")
