"""A wall clock that a test sets for real processes while they run; what has passed stays what it is."""

from pathlib import Path

from tests.needs import need

_WHERE = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")


class WallClock:
    """The wall clock of the processes that are started with its ``environment``: right, until it is set."""

    def __init__(self, folder: Path) -> None:
        """``folder`` takes the file that says how it is set; skips the test where there is no libfaketime."""
        found = [path for where in _WHERE for path in Path("/").glob(f"{where[1:]}/libfaketimeMT.so.1")]
        need("faketime", there=bool(found), how="install it (Debian: faketime)")
        self._file = folder / "wall-clock"
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, how: str) -> None:
        """``+3600`` is an hour ahead of the right time, ``2026-01-01 00:00:00`` stands still there."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(how, "ascii")
        draft.replace(self._file)
