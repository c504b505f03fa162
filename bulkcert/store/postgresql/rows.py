"""One run in a shared store, and the locks that hosts take there.

Isolation is READ COMMITTED, so a row is locked by one statement and what depends on it is read by
the next: a statement that waited for a lock still sees everything else as it was before. Locks are
taken in the order lease, run, rules, operations, pace, event log; whoever keeps to it never waits
for somebody who waits for him.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar

import orjson

from bulkcert.store.postgresql.commits import Commits
from bulkcert.store.postgresql.database import RUN_LOCK, run_id
from bulkcert.timings import HostTimings

T = TypeVar("T")

NOW: LiteralString = "(SELECT bulkcert.now_s())"
"""The clock of the database, read once in a statement: one for all hosts."""


class Rows:
    """The rows of one run, as one process reads and writes them.

    Args:
        dsn: the shared store.
        run: the name of the run.
        timings: how long the shared store is waited for.
        elapsed_s: the clock by which leases end.
        answer_s: longest wait for an answer of the database; None for no limit.

    Attributes:
        number: the number of the run.
        owner: what operations are marked with while this host works on them: its lease.
    """

    def __init__(
        self,
        dsn: str,
        run: str,
        *,
        timings: HostTimings = HostTimings(),
        elapsed_s: Callable[[], float] = time.monotonic,
        answer_s: float | None = None,
    ) -> None:
        self.owner = uuid.uuid4()
        self._timings = timings
        self._commits = Commits(dsn, timings, elapsed_s, answer_s)
        try:
            self._run = self.number = run_id(self._commits.db, run)
        except BaseException:
            self.close()
            raise
        self._process: Mapping[str, Any] = {}  # in the log, while it has a lease
        self._has_share = False
        # what is remembered of the rows; a transaction that is rolled back takes it back as well
        self._wave: int | None = None
        self._claimed_up_to = (0, 0)  # wave and id
        self._judged: int | None = None  # id of the last row of `settled` that was judged

    @property
    def shared(self) -> bool:
        """Whether other hosts may work on the run at the same time."""
        return True

    def now(self) -> float:
        """The clock of the database, as far as it is known from the last transaction."""
        return self._commits.now()

    def commit(self, work: Callable[[], T]) -> T:
        """Call a function in a transaction, again where that is needed; see the contract."""
        before, tries = self._position, 0

        def begun() -> T:
            nonlocal tries
            tries += 1
            self._has_share = False
            if tries > 1:
                self._wave, self._claimed_up_to, self._judged = before
            return work()

        try:
            return self._commits.run(begun)
        except BaseException:
            self._wave, self._claimed_up_to, self._judged = before
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Return a context whose writes are durable when it exits; there is one attempt."""
        before, self._has_share = self._position, False
        try:
            with self._commits.transaction():
                yield
        except BaseException:
            self._wave, self._claimed_up_to, self._judged = before
            raise

    @property
    def _position(self) -> tuple[Any, ...]:
        return self._wave, self._claimed_up_to, self._judged

    def close(self) -> None:
        """Close the store."""
        self._commits.close()

    def _share_run(self) -> None:
        """Keep the run from being steered until the transaction ends.

        Nothing may be claimed after a pause has committed, so whoever claims has this lock before
        it looks at the controls. Many hosts may have it at once. In a transaction that has it
        `_lock_run` must not be called: two that wait for each other's share wait for ever.

        The lock of a row would let every host in that shares it before one that waits to have it
        alone. Measured with ten hosts: a pause waited for 20 s, and with this lock for 0.05 s.
        """
        if not self._has_share:
            self._execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (RUN_LOCK, self._run))
            self._has_share = True

    def _lock_run(self) -> None:
        self._execute("SELECT pg_advisory_xact_lock(%s, %s)", (RUN_LOCK, self._run))

    def _lock_standing(self) -> None:
        self._execute("SELECT FROM bulkcert.standing WHERE run = %s FOR UPDATE", (self._run,))

    def _execute(self, query: LiteralString, values: Any = ()) -> Iterable[Any]:
        return self._commits.db.execute(query, values)

    def _one(self, query: LiteralString, values: Any = ()) -> Any:
        (row,) = self._execute(query, values)
        return row

    def obey(self, control: int) -> None:
        """Note with the next commit that a control is in force on this host."""
        self._commits.control = control

    def hurry(self) -> None:
        """Give up soon if the store can't be used; may be called from any thread."""
        self._commits.hurry()


def dumped(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def loaded(value: str | None) -> Any:
    return None if value is None else orjson.loads(value)
