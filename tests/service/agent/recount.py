"""Counting from the data themselves what an agent's ledger says: from the logs, the streams and the transitions."""

from collections import Counter
from pathlib import Path

import msgspec

from service.agent.join import Joiner
from service.agent.ledger import Joined, Journalled
from service.agent.stores import START, Store
from service.config import Rewards
from service.log.journal import read_segment, segments
from service.log.records import AnyRecord, Decision, Feedback, Transition, decode_record
from tests.service.agent.consumers import transitions
from tests.service.agent.pens import KEYRING

LATER = 1e12


async def journalled(store: Store, journal: Path, *, dead: bool) -> Journalled:
    """What the logs hold and the streams have got of it; of writers that are ``dead`` nothing more will come."""
    told = Journalled()
    for folder in _folders(journal):
        found, damaged, torn = _read(folder, dead=dead)
        shipped = {entry.seq for entry in await store.read(folder.name, START, 10**6)}
        last = max(found, default=0)
        told += Journalled(
            accepted=last,
            delivered=len(shipped),
            journaled=len({seq for seq, record in found.items() if record is not None} - shipped),
            lost=Counter(damage=last - sum(record is not None for record in found.values())),
            damaged_lines=damaged,
            torn_tails=torn,
        )
    return msgspec.structs.replace(told, lost={cause: n for cause, n in told.lost.items() if n})


def _folders(journal: Path) -> list[Path]:
    return sorted(path for path in journal.iterdir() if not path.name.startswith("."))


def _read(folder: Path, *, dead: bool) -> tuple[dict[int, AnyRecord | None], int, int]:
    """Records by sequence number (None for whole lines that end a log and are none), damaged lines, torn tails."""
    found: dict[int, AnyRecord | None] = {}
    damaged = torn = bad = 0
    for path in segments(folder):
        data = path.read_bytes()
        for line in read_segment(data):
            damaged += line.record is None
            bad = bad + 1 if line.record is None else 0
            if line.record is not None:
                found[line.record.seq] = line.record
        torn += not data.endswith(b"\n") and data != b"" and (dead or path != segments(folder)[-1])
    if dead:
        last = max(found, default=0)
        found.update({last + n: None for n in range(1, bad + 1)})
    return found, damaged, torn


async def joined(store: Store, rewards: Rewards) -> Joined:
    """What a joiner that reads all streams at once would count, which has to be what was counted on the way.

    Checked against the transitions that are there, and against how many records of each kind were joined.
    """
    at = await store.joined()
    joiner = Joiner(rewards=rewards, place=KEYRING.place, joined={})
    kinds: Counter[type] = Counter()
    for writer, state in (await store.writers()).items():
        joiner.order.knows(writer, START, state.last, LATER)
        for entry in await store.read(writer, START, 10**6):
            record = decode_record(entry.text)
            joiner.order.feed(writer, record, LATER)
            kinds[type(record)] += entry.position <= at.get(writer, START)
        if not state.open:
            joiner.order.ended(writer)
    joiner.advance(LATER)
    for batch in joiner.batches():
        assert batch.new <= at.get(batch.writer, START), "not everything was joined yet"
        joiner.committed(batch)
    told = joiner.ledger()
    made = [msgspec.json.decode(text, type=Transition) for text in await transitions(store)]
    closed = dict(Counter(t.closed_by for t in made))
    assert closed == told.transitions, f"{closed} were made, expected {told}"
    assert len({(t.writer, t.seq) for t in made}) == len(made)
    assert sum(not t.reward_ok for t in made) == told.reward_not_ok
    assert kinds[Decision] == sum(told.transitions.values()) + sum(told.not_exported.values())
    assert kinds[Feedback] == sum(told.feedback.values())
    assert kinds.total() + told.missing == sum(position.seq for position in at.values())
    return msgspec.structs.replace(told, records=kinds.total())


def at_rest(told: Joined) -> Joined:
    """A ledger without what is of the moment."""
    return msgspec.structs.replace(told, waiting=0, standby=False)
