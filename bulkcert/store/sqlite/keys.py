"""Numbers on disk: which of those in one list are also in another?

In: a list of numbers, then other lists, each number with a group. Out: how many are in both, by
group. Must never keep a list in memory: it may be as long as a target file.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

_ROWS_PER_STATEMENT = 200
"""As in `bulkcert.store.sqlite.plan`: several times as fast as one statement per row."""

_STEPS_BETWEEN_LOOKS = 100_000
_CACHE_KIB = 4 * 1024


class Interrupted(Exception):  # noqa: N818 - it is not an error
    """`is_over` has said so."""


class KeyList:
    """A list of numbers, in a temporary file that nobody else sees.

    Args:
        is_over: asked now and then; once it is true, every method raises `Interrupted`.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._db = sqlite3.connect("", isolation_level=None)  # on disk as soon as it grows
        self._db.set_progress_handler(is_over, _STEPS_BETWEEN_LOOKS)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            f"PRAGMA temp_store=FILE; PRAGMA cache_size=-{_CACHE_KIB};"
            "CREATE TABLE unsorted (key INTEGER);"
            "CREATE TABLE mine (key INTEGER PRIMARY KEY);"
            "CREATE TABLE theirs (key INTEGER, part TEXT);"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def fill(self, keys: Iterable[int]) -> None:
        """Add numbers; call it once."""
        self._insert("unsorted", "(?)", ((key,) for key in keys))
        # sorted, each is put beside the one before; otherwise each goes to another place on disk
        self._run("INSERT OR IGNORE INTO mine SELECT key FROM unsorted ORDER BY key")
        self._run("DELETE FROM unsorted")

    def count(self, others: Iterable[tuple[int, str]]) -> tuple[int, dict[str, int]]:
        """Count how many of the numbers are in another list.

        Args:
            others: the other list, each number with its group.

        Returns:
            How many there are, and how many in each group; a number may be in several.
        """
        self._run("DELETE FROM theirs")
        self._insert("theirs", "(?, ?)", others)
        both = "FROM theirs WHERE key IN (SELECT key FROM mine)"
        [(total,)] = self._run(f"SELECT count(DISTINCT key) {both}")
        parts = self._run(f"SELECT part, count(DISTINCT key) {both} GROUP BY part")
        return int(total), dict(parts)

    def _insert(self, table: str, marks: str, rows: Iterable[Sequence[object]]) -> None:
        rows = iter(rows)
        while batch := list(itertools.islice(rows, _ROWS_PER_STATEMENT)):
            if self._is_over():
                raise Interrupted
            values = ", ".join([marks] * len(batch))
            # only question marks and the names of tables are inserted
            self._db.execute(
                f"INSERT INTO {table} VALUES {values}",  # noqa: S608
                list(itertools.chain.from_iterable(batch)),
            )

    def _run(self, statement: str) -> list[Any]:
        try:
            return self._db.execute(statement).fetchall()
        except sqlite3.OperationalError:
            if self._is_over():
                raise Interrupted from None
            raise
