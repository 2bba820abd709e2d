"""The data plane's process: how it ends where it cannot begin."""

import errno
import os
import socket
from pathlib import Path

import pytest

from service import server
from service.processes import MISCONFIGURED
from tests.system.serving import demo


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """One sentence, and no traceback: it is started again until the disk is well."""

    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "data" / "journal"))

    monkeypatch.setattr(server, "assemble", failing)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        status = server.run(demo(tmp_path), tmp_path / "data", listening.fileno())

    assert status == MISCONFIGURED
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence == (
        f"actd: {tmp_path}/data/journal: {os.strerror(number)}, expected a data folder that can be read and written"
    )
