"""The files that a journal writes to no more: they are synced where that is due, and closed when no sync runs."""

from collections.abc import Sequence

from service.log.segment import Segment


class Files:
    """``behind`` are those that are still to be synced."""

    def __init__(self) -> None:
        self.behind: list[Segment] = []
        self.syncing = False
        self._stale: list[Segment] = []

    def drop(self, files: Sequence[Segment]) -> None:
        """Close files, once no sync needs them."""
        self.behind = [one for one in self.behind if one not in files]
        self._stale += files
        if not self.syncing:
            self.close()

    def close(self) -> None:
        """Close what was dropped."""
        for one in self._stale:
            one.close()
        self._stale = []

    def __repr__(self) -> str:
        return f"<Files {len(self.behind)} to be synced, {len(self._stale)} to be closed>"
