"""Journals written by hand: a pen writes the records of one writer, into its log where it has one."""

from pathlib import Path
from typing import Any

import msgspec

from guards.records import History
from service.log.ids import Key, Keyring, body_of, body_prefix
from service.log.journal import Journal
from service.log.records import AnyRecord, Decision, Feedback, Heartbeat, Loss, Writer, encode_record

KEY = Key(1, b"k" * 32)
KEYRING = Keyring({1: KEY})


class Pen:
    """One writer: each call makes its next record."""

    def __init__(self, name: int, folder: Path | None = None, *, keep: bool = True, **options: Any) -> None:
        """A long log need not be kept in memory: then ``records`` stays empty."""
        self.writer = name.to_bytes(8, "big")
        self.name = self.writer.hex()
        self.records: list[AnyRecord] = []
        self.count = 0
        self._keep = keep
        self.journal = Journal(folder, writer=self.writer, **options) if folder else None

    def introduce(self, ms: int, service: str = "svc", **told: Any) -> Writer:
        """Who it is, which a writer says first."""
        known: dict[str, Any] = {
            "writer": self.name, "service": service, "config_digest": "c" * 64, "config": msgspec.Raw(b"{}"),
            "versions": {"p-1": "d" * 64}, "key_fingerprint": KEYRING.fingerprint, "wait_s": 1.0,
        }  # fmt: skip
        record = Writer(seq=self.count + 1, ms=ms, **{**known, **told})
        self._write(record)
        return record

    def decision(self, ms: int, session: str = "s", previous: Decision | None = None, **told: Any) -> Decision:
        """A decision; its observation is its time, so that tests can tell whose it is."""
        seq = self.count + 1
        token = KEY.token(body_of(body_prefix(KEY, self.writer), ms, seq, told.get("track", "stable")))
        known: dict[str, Any] = {
            "id": token, "episode": None, "step": None, "at": ms / 1000, "observed_at": None, "track": "stable",
            "track_probability": 1.0, "version": "p-1", "digest": "d" * 64, "observation": [float(ms)], "facts": None,
            "mask": None, "options": None, "head": None, "allowed": [True, True], "config": "c" * 64,
            "explorer": "greedy", "key": 1, "proposed": 1, "action": 1, "propensity": 0.75, "measure": "mass",
            "propensity_ok": True, "why_not_ok": None, "source": "policy", "reason": None, "violations": [],
            "explored": False, "generation": 1, "durations": {}, "durability": "journal",
            "state": History(known=True, since=0.0),
        }  # fmt: skip
        before = previous.id if previous else None
        record = Decision(seq=seq, ms=ms, session=session, previous=before, **{**known, **told})
        self._write(record)
        return record

    def feedback(self, ms: int, decision: Decision, reward: float | None = None, **told: Any) -> Feedback:
        """What came of a decision."""
        seq = self.count + 1
        record = Feedback(seq=seq, ms=ms, decision_id=decision.id, at=ms / 1000, reward=reward, **told)
        self._write(record)
        return record

    def beat(self, ms: int) -> Heartbeat:
        """A sign of life."""
        record = Heartbeat(seq=self.count + 1, ms=ms)
        self._write(record)
        return record

    def unlogged(self, ms: int, session: str = "s") -> Decision:
        """A decision that was answered while nothing could be written: it is in no log."""
        made = self.decision(ms, session)
        self.records.pop()
        token = KEY.token(body_of(body_prefix(KEY, self.writer), ms, 1, "stable", unlogged=True))
        return msgspec.structs.replace(made, id=token, durability="none")

    def loss(self, ms: int, count: int, cause: str) -> Loss:
        """What the log does not have."""
        record = Loss(seq=len(self.records) + 1, ms=ms, count=count, cause=cause)
        self._write(record)
        return record

    def close(self) -> None:
        """The writer dies."""
        if self.journal is not None:
            self.journal.close()

    def _write(self, record: AnyRecord) -> None:
        self.count += 1
        if self._keep:
            self.records.append(record)
        if self.journal is not None:
            self.journal.append([encode_record(record)], record.ms)
