"""What has been read of a target file so far: how many rows, and which columns are not used.

In: rows and unknown headers, as they are read. Out: their number and a short list for people. Must
never grow with the file, whatever headers it has.
"""

from __future__ import annotations

_MOST_NAMES = 50
_LONGEST_NAME = 100  # characters


class Tally:
    """Counts the rows of a target file and collects its unused columns.

    Attributes:
        rows: good and bad ones, without the header and lines without content.
        left_out: rows of a run's results whose device has no certificate.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.left_out = 0
        self._unused: dict[str, None] = {}  # a set that keeps the order

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """Unused headers or keys: the first 50, shortened, safe to print."""
        return tuple(self._unused)

    def note_unused(self, header: str) -> None:
        """Add an unused header; empty ones do not count."""
        if header and len(self._unused) < _MOST_NAMES:
            name = header if header.isprintable() else repr(header)[1:-1]
            self._unused.setdefault(name[:_LONGEST_NAME])
