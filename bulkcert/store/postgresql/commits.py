"""Transactions in a shared store, each of them once, whatever happens to the connection.

In: a function that reads and writes. Out: its result, when what it wrote is durable. A host that
has a lease begins each transaction by adding one to its beats. That is its heartbeat; it fails if
others have fenced it; and it says, when the answer to COMMIT is lost, whether the commit was
applied: the function is called again only if it was not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors

from bulkcert.errors import CommitsLostError, LeaseLostError, StoreError
from bulkcert.store.postgresql.database import (
    connect,
    explained,
    explanation,
    open_connection,
)
from bulkcert.timings import HostTimings

T = TypeVar("T")

_BEAT: LiteralString = """
    UPDATE bulkcert.lease AS l SET beats = beats + 1, control = %s, beat_at = bulkcert.now_s()
    FROM bulkcert.run AS r
    WHERE l.id = %s AND l.state = 'live' AND l.beats = %s AND r.id = l.run
    RETURNING l.beat_at, r.lost_commits_at IS NOT NULL
"""

_AGAIN = (
    psycopg.OperationalError,  # such as a connection that broke, or a server that restarts
    psycopg.InterfaceError,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,  # a standby that is about to become the server
)
"""After these the transaction is begun once more."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_SAY_AFTER_S = 1.0
_DESK_PATIENCE_S = 15.0


class Commits:
    """The transactions of one connection at a time.

    Args:
        dsn: the shared store.
        timings: how long statements may take, and how long the server waits for this program.
        elapsed_s: the clock by which a lease ends; goes on while this machine is suspended.
        answer_s: longest wait for an answer; None for no limit.

    Attributes:
        db: the connection; another one after the connection broke.
        now_s: what the clock of the store showed in the last transaction, as Unix time.
    """

    def __init__(
        self,
        dsn: str,
        timings: HostTimings,
        elapsed_s: Callable[[], float],
        answer_s: float | None = None,
    ) -> None:
        self._dsn, self._timings, self._elapsed_s = dsn, timings, elapsed_s
        self._answer_s = answer_s
        self.db = connect(dsn, timings, answer_s=answer_s)
        with explained():
            self._server = self._identity()
        self._lease: UUID | None = None
        self._run = 0  # of the lease
        self._beats = 0
        self._extend: Callable[[float], object] = lambda begun_s: None
        self._on_trouble: Callable[[str], object] = lambda text: None
        self._clock: tuple[float, float] | None = None  # elapsed seconds, store's time
        self._hurry = threading.Event()
        self.control = 0

    @property
    def server(self) -> str:
        """What identifies the server and its timeline."""
        return self._server

    def hold_lease(
        self,
        run: int,
        lease: UUID,
        extend: Callable[[float], object],
        on_trouble: Callable[[str], object],
    ) -> None:
        """Begin each transaction with a beat of a lease.

        Args:
            run: the number of its run.
            lease: the lease, whose row has no beats yet.
            extend: called with the begin, in elapsed seconds, of each commit that is known to be
                applied.
            on_trouble: called, from this thread, with a sentence when the store can't be used for
                longer than a moment; and with an empty text when it can be used again.
        """
        self._run, self._lease, self._beats = run, lease, 0
        self._extend, self._on_trouble = extend, on_trouble

    def hurry(self) -> None:
        """Give up soon if the store can't be used; may be called from any thread."""
        self._hurry.set()

    def now(self) -> float:
        """The store's clock, as Unix time; the machine's before the first transaction."""
        if self._clock is None:
            return time.time()
        elapsed_s, now_s = self._clock
        return now_s + self._elapsed_s() - elapsed_s

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction, without a second attempt.

        Raises:
            StoreError: the database can't be written. It may be that the writes are durable all the
                same, if the connection broke while they were made so.
        """
        begun_s = self._elapsed_s()
        try:
            if not self._begin():
                self._is_applied()
                raise LeaseLostError
            yield
            self._end()
        except BaseException as error:
            self._roll_back()
            if isinstance(error, psycopg.Error):
                raise explanation(error) from error
            raise
        self._applied(begun_s)

    def run(self, work: Callable[[], T]) -> T:
        """Call a function in a transaction; see `bulkcert.store.base.Store.commit`.

        Raises:
            LeaseLostError: others have fenced this host. Nothing of this transaction is durable.
            CommitsLostError: the store has forgotten what it had confirmed.
            StoreError: the store can't be used.
        """
        attempts = _Attempts(self._on_trouble, self._give_up_after_s)
        sent: tuple[float, T] | None = None  # the begin and result of a commit without an answer
        while True:
            begun_s = self._elapsed_s()
            try:
                self._connect_again()
                if sent is not None and self._lease is None:
                    # nobody can say whether it was applied
                    raise StoreError(
                        "The answer of the shared store to a commit was lost.",
                        "Look whether it was recorded, then run the same command again if not.",
                    )
                if not self._begin():
                    if self._is_applied() and sent is not None:
                        begun_s, result = sent
                        # Visible is not durable yet, where a standby must confirm: it is as soon as
                        # another commit is.
                        self._roll_back()
                        self._applied(begun_s)
                        self.run(lambda: None)
                        attempts.end()
                        return result
                    self._roll_back()
                    raise errors.SerializationFailure("the lease was busy")
                sent = None  # had it been applied, there would have been no row to change
                result = work()
                sent = begun_s, result
                self._end()
            except _AGAIN as error:
                if self._lease is None and self._is_refusal(error):
                    sent = None
                self._roll_back()
                attempts.failed(error)
            except psycopg.Error as error:
                self._roll_back()
                raise explanation(error) from error
            except BaseException:
                self._roll_back()
                raise
            else:
                self._applied(begun_s)
                attempts.end()
                return result

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    # ---- parts

    def _applied(self, begun_s: float) -> None:
        if self._lease is not None:
            self._beats += 1
            self._extend(begun_s)

    def _give_up_after_s(self) -> float:
        if self._lease is None:
            return _DESK_PATIENCE_S
        return self._timings.ttl_s if self._hurry.is_set() else float("inf")

    def _begin(self) -> bool:
        """Begin a transaction; return whether it has the lease, if there is one to have."""
        times = self._timings
        statement_ms = round(times.statement_s * 1000) if self._lease is not None else 0
        self.db.execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            " SET LOCAL idle_in_transaction_session_timeout ="
            f" {round(times.idle_in_transaction_s * 1000)};"
            f" SET LOCAL statement_timeout = {statement_ms};"
            f" SET LOCAL lock_timeout = {statement_ms}"
        )
        if self._lease is None:
            asked_s = self._elapsed_s()
            self._set_clock(asked_s, self._one("SELECT bulkcert.now_s()")[0])
            return True
        asked_s = self._elapsed_s()
        row = self.db.execute(_BEAT, (self.control, self._lease, self._beats)).fetchone()
        if row is None:
            return False
        self._set_clock(asked_s, row[0])
        if row[1]:  # somebody else has noticed
            raise CommitsLostError
        return True

    def _set_clock(self, asked_s: float, now_s: float) -> None:
        self._clock = (asked_s + self._elapsed_s()) / 2, now_s

    def _is_applied(self) -> bool:
        """Whether the commit without an answer was applied, now that a beat has changed no row."""
        assert self._lease is not None
        row = self.db.execute(
            "SELECT beats, state FROM bulkcert.lease WHERE id = %s", (self._lease,)
        ).fetchone()
        if row is None or row[0] < self._beats:
            raise self._commits_lost()
        if row[1] != "live":
            raise LeaseLostError
        return bool(row[0] == self._beats + 1)

    def _end(self) -> None:
        # a transaction that has failed is rolled back by COMMIT, without an error
        if (status := self.db.execute("COMMIT").statusmessage) != "COMMIT":
            raise errors.SerializationFailure(f"the server has answered {status}")

    def _roll_back(self) -> None:
        with suppress(psycopg.Error):  # there may be no connection any more
            self.db.execute("ROLLBACK")

    def _is_refusal(self, error: psycopg.Error) -> bool:
        """Whether the server has answered that it has not committed."""
        is_last_word = error.diag.severity_nonlocalized in ("FATAL", "PANIC")
        return not (self.db.closed or self.db.broken or is_last_word)

    def _connect_again(self) -> None:
        if not (self.db.closed or self.db.broken):
            return
        self.db.close()
        self.db = open_connection(self._dsn, self._timings, self._answer_s)
        if self._identity() != self._server:
            raise self._commits_lost()

    def _identity(self) -> str:
        """What identifies the server.

        Raises:
            psycopg.OperationalError: it is a standby. That says nothing about the server.
        """
        server = server_of(self.db)
        if server.endswith("/"):
            self.db.close()
            raise psycopg.OperationalError("the server is a standby, or still recovers")
        return server

    def _commits_lost(self) -> CommitsLostError:
        """Let everybody else stop, too."""
        self._roll_back()
        mark_lost(self.db, self._run)
        return CommitsLostError()

    def _one(self, query: LiteralString, values: Any = ()) -> Any:
        (row,) = self.db.execute(query, values)
        return row


class _Attempts:
    """The attempts of one commit: pauses between them, and says when it takes long."""

    def __init__(self, on_trouble: Callable[[str], object], most_s: Callable[[], float]) -> None:
        self._on_trouble, self._most_s = on_trouble, most_s
        self._pause_s = _FIRST_PAUSE_S
        self._since: float | None = None
        self._said = False

    def failed(self, error: psycopg.Error) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._most_s():
            raise explanation(error) from error
        if now - self._since >= _SAY_AFTER_S and not self._said:
            self._said = True
            self._on_trouble(explanation(error).problem)
        time.sleep(self._pause_s * random.uniform(0.5, 1))  # noqa: S311 - not a secret
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def end(self) -> None:
        if self._said:
            self._on_trouble("")


def server_of(db: psycopg.Connection) -> str:
    """What identifies the server of a connection and its timeline: after a restore from a backup,
    or the promotion of a standby, it is another one. A standby has none: it ends with a slash."""
    row = db.execute(
        "SELECT (SELECT system_identifier FROM pg_control_system())::text, CASE"
        " WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
    ).fetchone()
    assert row is not None
    return "/".join(row)


def mark_lost(db: psycopg.Connection, run: int) -> None:
    """Store that commits are lost, for all who work on the run."""
    with suppress(psycopg.Error):  # whoever can't be warned finds out by itself
        db.execute(
            "UPDATE bulkcert.run SET lost_commits_at = coalesce(lost_commits_at, bulkcert.now_s())"
            " WHERE id = %s",
            (run,),
        )
