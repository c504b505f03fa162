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
        without_certificates: rows of a run's results whose device has no certificate.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.without_certificates = 0
        self._extra: dict[str, None] = {}
        self._unused: dict[str, None] = {}  # a set that keeps the order

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """Unused headers or keys: the first 50, shortened, safe to print."""
        return tuple(self._unused)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The columns that are kept for the reports, though the job does not use them."""
        return tuple(self._extra)

    def keep_extra(self, name: str) -> bool:
        """Whether there is room for one more column to keep, or it is kept already."""
        if len(self._extra) < _MOST_NAMES:
            self._extra.setdefault(name)
        return name in self._extra

    def note_unused(self, header: str) -> None:
        """Add an unused header; empty ones do not count."""
        if header and len(self._unused) < _MOST_NAMES:
            self._unused.setdefault(short_name(header))


def short_name(header: str) -> str:
    """Return a header as it is shown and kept: of limited length, safe to print."""
    return (header if header.isprintable() else repr(header)[1:-1])[:_LONGEST_NAME]
