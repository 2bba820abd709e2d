"""The data plane: puts the parts together, once, and keeps them alive while they serve."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple

import msgspec

from guards.records import Schema
from service.api.asgi import ActMiddleware
from service.api.decoding import RequestDecoder
from service.api.endpoint import Endpoint
from service.api.routes import create_app
from service.api.schemas import Codec
from service.clock import Clock
from service.config import Config
from service.decision.batch import Behaviour
from service.decision.batcher import Batcher
from service.decision.commit import Committer
from service.decision.explore.numerics import NUMERICS, fingerprint
from service.decision.fallback_probe import FallbackProbe
from service.decision.watch import Watch
from service.log.durable import DurableJournal
from service.log.ids import Keyring
from service.log.journal import Journal, JournalUnavailable
from service.log.ownership import keyring_of, refuse_other_service
from service.log.records import UNLOGGED, UNLOGGED_FEEDBACK, Writer
from service.log.reserve import Reserve
from service.recovery.lineage import Instant
from service.recovery.resume import Resumed, resume
from service.startup import advising, bound, load_baseline, load_policy, proven, warm_up
from service.telemetry import report as reports
from service.telemetry.metrics import Exposition, Labelled
from service.telemetry.stats import Stats
from service.versions.breakers import Breakers
from service.versions.engine import Engine
from service.versions.lease import Lease, read_page
from service.versions.router import Router

PAGE_POLL_S = 0.5
# A clock that is corrected by less than this (a leap second, a moment's wait between two readings) is not set.
SET_S = 1.5

_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What was read, checked and tried before there is a journal."""

    engine: Engine
    # The version that the baseline is, where it is one.
    trusted: Engine | None
    keyring: Keyring
    common: Behaviour


class Application:
    """The parts of a running data plane."""

    def __init__(
        self, config: Config, data: Path, loaded: Loaded, journal: Journal, resumed: Resumed, clock: Clock
    ) -> None:
        self.config, self.data, self.journal, self.resumed, self.clock = config, data, journal, resumed, clock
        self.engine, self.trusted, self.keyring, common = loaded
        self.schema, self.sessions, self.started = common.schema, resumed.sessions, time.monotonic()
        self.lease, self.stats, self.codec = Lease(), Stats(self.schema), Codec(self.schema)
        self.stopping, self._said_ahead = False, 0.0
        limits, behaviour = config.limits, replace(common, writer=journal.writer)
        self.fallback_probe = FallbackProbe(behaviour, limits.stale_seconds)
        self.committer = Committer(
            behaviour,
            journal,
            self.sessions,
            self.lease,
            self.stats.committed,
            probe=self.fallback_probe,
            deadline_s=limits.deadline_ms / 1000,
            unlogged=limits.unlogged,
        )
        self.breakers = Breakers(config.breaker, [self.engine.label], SystemRandom().random, self.started)
        self._face()

    def _face(self) -> None:
        """Put together what meets requests."""
        config, engine, owner = self.config, self.engine, self.committer.owners.session_of
        engines, layout = {engine.label: engine}, self.codec.layout
        batcher = Batcher(Router(engine.label), engines, self.sessions, self.committer, layout, self.breakers)
        ahead_s = self.resumed.ahead_s()
        self.decoder = RequestDecoder(self.codec, config, self.keyring, owner=owner, ahead_s=ahead_s, now=self.clock)
        self.endpoint = Endpoint(
            self.decoder,
            batcher,
            policy=config.name,
            actions=self.codec.actions,
            refused=self.stats.refuse,
            late=self.stats.answer_late,
            idempotency=self.resumed.idempotency,
        )
        self.exposition = Exposition(self.stats, config.name, self.gauges, self.labelled)
        self.watch = Watch(self.journal, self.committer, now=self.clock.now)
        self.asgi = ActMiddleware(create_app(self), self.endpoint, body_bytes=config.limits.body_bytes)

    def introduce(self) -> None:
        """Write the writer's first record: what all its later records refer to."""
        config = self.config
        ahead_ms = {writer: round(ahead * 1000) for writer, ahead in self.resumed.ahead_s().items()}
        record = Writer(
            seq=self.journal.next_seq,
            ms=int(self.clock.now() * 1000),
            writer=self.journal.writer.hex(),
            service=config.name,
            config_digest=config.digest,
            config=msgspec.Raw(config.text().encode("ascii")),
            versions={engine.label: engine.digest for engine in (self.trusted, self.engine) if engine is not None},
            key_fingerprint=self.keyring.fingerprint,
            wait_s=config.rewards.wait_seconds,
            ahead_ms=ahead_ms,
            numerics=NUMERICS,
            fingerprint=fingerprint(),
        )
        self.journal.introduce(record)
        if config.durability == "disk":
            self.journal.sync()
        self.resumed.begin(record.writer)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """While it serves: watch what the agent publishes and the journal, and show signs of life in that."""
        doing = (self._watch_page(), self._beat(), self.watch.keep(), self.resumed.settle())
        tasks = [asyncio.create_task(one) for one in doing]
        try:
            yield
        finally:
            self.stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.committer.settled()
            if self.watch.tell_rest():
                self.resumed.lineage.end(self.journal.next_seq - 1)

    async def _watch_page(self) -> None:
        page = self.data / "state" / "agent.page"
        while True:
            self.lease.see(read_page(page), time.monotonic())
            self.heed_clock()
            await asyncio.sleep(PAGE_POLL_S)

    def heed_clock(self) -> None:
        """Say it once each time that somebody has set the clock: nothing here goes by it, other hosts may."""
        ahead = self.clock.ahead()
        if abs(ahead - self._said_ahead) > SET_S:
            self._said_ahead = ahead
            _log.warning(
                "the clock was set: it is %+.1f s from this process's time, which goes on as it was; ids, records and"
                " cooldowns go by that until the service is started again",
                ahead,
            )

    async def _beat(self) -> None:
        """Joiners wait for every writer to have passed a time: an idle one has to say that it has."""
        period = min(5.0, max(0.25, self.config.rewards.wait_seconds / 4))
        while True:
            seq = self.journal.next_seq
            await asyncio.sleep(period)
            if self.journal.next_seq == seq:
                with suppress(JournalUnavailable):  # the next decision says so to its caller
                    self.watch.beat()

    def ready(self) -> dict[str, Any]:
        """Whether it can decide, and what it may do beyond acting on stable."""
        able = not self.journal.trouble or self.config.limits.unlogged == "serve"
        return {
            "ready": able and not self.stopping,
            "version": self.engine.label,
            "explores": self.lease.holds(time.monotonic()),
            "agent": self.lease.agent(time.monotonic()),
            "journal": self.journal.state(),
            "rungs": self.fallback_probe.to_json(time.monotonic()),
            "resumed": self.resumed.summary(),
        }

    def report(self) -> dict[str, Any]:
        """The report with what the statistics do not know."""
        return {
            "policy": self.config.name,
            "version": self.engine.label,
            "uptime_s": round(time.monotonic() - self.started, 1),
            "writer": self.journal.writer.hex(),
            "durability": self.config.durability,
            "explores": self.lease.holds(time.monotonic()),
            "breaker": self.breakers.to_json(time.monotonic()),
            "baseline": self._baseline(),
            "resumed": self.resumed.to_json(),
            "journal": {"state": self.journal.state(), **self._faults()},
            "unlogged": self._unlogged(),
            **reports.report(self.stats),
        }

    def _baseline(self) -> dict[str, Any]:
        """What the baseline is, and which version where it is a policy."""
        version = {} if self.trusted is None else {"version": self.trusted.label, "digest": self.trusted.digest}
        return {"kind": self.config.baseline.kind, **version}

    def _faults(self) -> dict[str, int]:
        """What befell the journal: was taken away, or could not be synced, and was taken back for that."""
        journal = self.journal
        lost = {"lost_segments": journal.losses.segments, "lost_records": journal.losses.records}
        return {**lost, "failed_syncs": journal.failed_syncs, "taken_back": journal.voids}

    def _unlogged(self) -> dict[str, int]:
        """What was decided, and told, while nothing could be written: it is in no log."""
        told = self.committer.unlogged.counts
        return {"decisions": told[UNLOGGED], "feedback": told[UNLOGGED_FEEDBACK]}

    def gauges(self) -> dict[str, float]:
        """What the metrics show that is no count."""
        return {
            "sessions": len(self.sessions),
            "sessions_resumed": self.resumed.found,
            "journal_seq": self.journal.next_seq - 1,
            "journal_writable": float(not self.journal.trouble),
            "journal_reserve_held": float(self.journal.reserve is None or self.journal.reserve.held),
            "may_explore": float(self.lease.holds(time.monotonic())),
            "agent_works": float(self.lease.agent(time.monotonic()) == "works"),
            "state_generation": self.lease.generation,
            "clock_ahead_seconds": round(self.clock.ahead(), 3),
        }

    def labelled(self) -> list[Labelled]:
        """What the metrics show of each rung and each version."""
        shift = time.time() - time.monotonic()
        worked = {rung: shift + at for rung, at in self.fallback_probe.last_success.items() if at is not None}
        is_open = {
            label: float(one["phase"] != "closed") for label, one in self.breakers.to_json(time.monotonic()).items()
        }
        return [
            Labelled("rung_last_success_timestamp_seconds", "When a rung below the policy last worked", "rung", worked),
            Labelled("breaker_open", "Whether a version's breaker is open, or half open", "version", is_open),
            Labelled("breaker_openings", "How often it opened", "version", self.breakers.openings(), counts=True),
            Labelled("unlogged", "Decided or told, and in no log", "what", self._unlogged(), counts=True),
            Labelled("journal_faults", "What befell the journal", "what", self._faults(), counts=True),
        ]

    def policy(self) -> dict[str, Any]:
        """The schema that is served, and what decides over it."""
        manifest = self.engine.manifest
        return {
            "name": self.config.name,
            "version": self.engine.label,
            "digest": self.engine.digest,
            "family": manifest.family,
            "scores": manifest.scores,
            "inputs": [port._asdict() for port in manifest.inputs],
            "mask": manifest.mask,
            "memory": [memory.model_dump(mode="json") for memory in manifest.memory],
            "observation": self.schema.observation.model_dump(mode="json"),
            "action": self.schema.action.model_dump(mode="json"),
            "actions": list(self.schema.actions),
            "facts": list(self.schema.facts),
            "explore": self.config.explore.model_dump(mode="json"),
            "constraints": [constraint.model_dump(mode="json") for constraint in self.config.constraints],
            "baseline": {**self.config.baseline.model_dump(mode="json", exclude={"path"}), **self._baseline()},
            "control_period_s": manifest.control_period_s,
            "config_digest": self.config.digest,
        }


def assemble(
    config: Config, data: Path, wait: Callable[[], None] = lambda: None, clock: Clock | None = None
) -> Application:
    """Load and check everything, ``wait``, and open a journal; ``clock`` is the process's, begun now unless given.

    Raises ConfigInvalid, VersionRefused, KeyringInvalid, FolderForeign, JournalUnavailable or OSError.
    """
    loaded = _loaded(config, data)
    wait()
    clock = clock or Clock()
    place = loaded.keyring.place
    resumed = resume(data, config, loaded.common, loaded.engine, place, Instant.now(clock.now))
    running = Application(config, data, loaded, _journal(config, data / "journal"), resumed, clock)
    running.introduce()
    return running


def _loaded(config: Config, data: Path) -> Loaded:
    """Read, check and try what decides."""
    engine = load_policy(config)
    schema = Schema.of(engine.manifest, config.facts)
    trusted = load_baseline(config, schema, engine)
    # The configuration may have changed since the folder was taken: under another name nothing would be shipped.
    refuse_other_service(data, config.name)
    keyring = keyring_of(data)
    advise = None if trusted is None else advising(trusted)
    common = bound(config, schema, engine.manifest, keyring, advise)
    proven(config, schema)
    warm_up(common, engine)
    return Loaded(engine, trusted, keyring, common)


def _journal(config: Config, folder: Path) -> Journal:
    """A writer's log, beside the space that is kept for when the disk is full; raises JournalUnavailable."""
    reserve = Reserve(folder / ".reserve")
    if not reserve.hold():
        _log.warning("%s: there is no room to keep some for when the disk is full", folder)
    return (DurableJournal if config.durability == "disk" else Journal)(folder, reserve=reserve)
