"""The watch over the journal: what it says, and how often."""

import errno
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.decision.watch import Watch
from service.log.durable import DurableJournal
from service.log.journal import JournalUnavailable
from service.log.records import Heartbeat, encode_record

# As a committer is that has told all there is to tell.
_LANDING = SimpleNamespace(unlogged=SimpleNamespace(is_told=lambda: True), harden=lambda: None)


async def test_a_disk_that_does_not_sync_is_said_once_until_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two sentences took turns, each second, as long as it lasted."""
    works = [True]

    def sync(descriptor: int) -> None:
        if not works[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(descriptor)

    with closing(DurableJournal(tmp_path, sync=sync)) as journal:
        caplog.set_level("INFO")
        watch = Watch(journal, _LANDING, now=lambda: 1.0)  # type: ignore[arg-type]  # it has what is asked of it
        journal.append([encode_record(Heartbeat(seq=1, ms=1))], 1)
        journal.sync()
        works[0] = False
        journal.append([encode_record(Heartbeat(seq=2, ms=1))], 1)
        with pytest.raises(JournalUnavailable):
            journal.sync()
        caplog.clear()
        for _ in range(5):
            await watch.look()
        said, state = [record.message for record in caplog.records], journal.state()
        works[0] = True
        for _ in range(2):
            await watch.look()

        assert said == [f"{journal.folder}: the disk does not sync yet (Input/output error)"]
        assert state.startswith("unavailable: ")
        assert journal.state() == "works"
        assert caplog.records[-1].message == "the journal can be written again"
