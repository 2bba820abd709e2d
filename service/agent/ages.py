"""Ages: for how long files were not written, told by what has passed since they were last seen to change.

A file's own time is by the wall clock, which may be set between the writing and the looking. It counts once only, for
what was there before this process looked for the first time.
"""

from collections.abc import Callable
from pathlib import Path


class Ages:
    """Remembers what files looked like, and since when. ``wall`` (s since 1970) is as the files' times are."""

    def __init__(self, *, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def of(self, path: Path) -> float:
        """For how long (s) a file, or a folder's list of files, was not changed; 0 where it is not there."""
        now = self._monotonic()
        try:
            stat = path.stat()
        except FileNotFoundError:
            self._seen.pop(path, None)
            return 0.0
        looks = (stat.st_mtime_ns, stat.st_size)
        before = self._seen.get(path)
        if before is None:
            self._seen[path] = (looks, now - max(0.0, self._wall() - stat.st_mtime))
        elif before[0] != looks:
            self._seen[path] = (looks, now)
        return now - self._seen[path][1]

    def forget(self, path: Path) -> None:
        """A file or folder is deleted, with all in it."""
        for seen in [one for one in self._seen if one.is_relative_to(path)]:
            del self._seen[seen]

    def __repr__(self) -> str:
        return f"<Ages of {len(self._seen)} files>"
