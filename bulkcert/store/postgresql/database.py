"""Connections to a shared store, and what their errors mean.

Every transaction sets what it depends on by itself: a pooler between this program and the server
may drop the options of a connection, and gives it to others in between. For the same reason nothing
is prepared on the server, and there are no session locks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import StrDumper

from bulkcert.errors import RunDirectoryError, StoreError
from bulkcert.store.postgresql import schema
from bulkcert.store_url import SAFE, is_local
from bulkcert.timings import HostTimings

RUN_LOCK = 0x62756C6B
"""The first of the two numbers of a run's lock, "bulk"; the second one is that of the run. Locks of
others in the same database have other numbers."""

T = TypeVar("T")

_INTERVAL_S = 0.1  # in which signals are noticed

SYMBOL_FOR_NULL = "\N{SYMBOL FOR NULL}"


class _TextDumper(StrDumper):
    """PostgreSQL has no texts with U+0000, and a provider may send one in a message."""

    def dump(self, obj: str) -> bytes | bytearray | memoryview | None:
        return super().dump(obj.replace("\0", SYMBOL_FOR_NULL))


class Connection(psycopg.Connection):
    """A connection that may be given up.

    Neither the server's time-outs nor keep-alive packets help against a server that is stopped, or
    whose last answer was lost.

    Attributes:
        answer_s: longest wait for an answer; None for no limit.
    """

    answer_s: float | None = None

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL_S, timeout: float | None = None) -> T:
        """Wait for an answer; see `psycopg.Connection`.

        Raises:
            psycopg.OperationalError: there is none. The connection is closed then.
        """
        limit_s = self.answer_s if timeout is None else timeout
        since_s = time.monotonic()
        try:
            return super().wait(gen, interval, limit_s)
        except psycopg.Error as error:
            if limit_s is None or time.monotonic() < since_s + limit_s or timeout is not None:
                raise
            self.close()
            problem = f"the database has not answered for {limit_s:g} s"
            raise psycopg.OperationalError(problem) from error


def connect(
    dsn: str, timings: HostTimings = HostTimings(), *, answer_s: float | None = None
) -> Connection:
    """Connect to a shared store, in autocommit mode.

    Args:
        dsn: the shared store.
        timings: how long a connection may take.
        answer_s: longest wait for an answer; None for no limit.

    Raises:
        StoreError: it can't be reached, or is of another version.
    """
    with explained():
        return open_connection(dsn, timings, answer_s)


def open_connection(dsn: str, timings: HostTimings, answer_s: float | None) -> Connection:
    """The same, for those who try again.

    Raises:
        psycopg.Error: it can't be reached.
        StoreError: it is of another version.
    """
    db = _open(dsn, timings)
    db.answer_s = answer_s
    try:
        if not schema.is_known(db, found := schema.version(db)):
            raise schema.wrong_version(found)
    except BaseException:
        db.close()
        raise
    return db


def connect_to_any(dsn: str, timings: HostTimings = HostTimings()) -> Connection:
    """Connect to a database, whatever is in it.

    Raises:
        StoreError: it can't be reached.
    """
    with explained():
        return _open(dsn, timings)


def _open(dsn: str, timings: HostTimings) -> Connection:
    db = Connection.connect(
        _secured(dsn),
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=timings.connect_timeout_s,
        # a server that is gone is noticed, also while an answer is awaited
        keepalives_idle=1,
        keepalives_interval=1,
        keepalives_count=2,
        tcp_user_timeout=round(timings.statement_s * 1000),
    )
    if not is_local(db.info.host) and db.info.get_parameters().get("sslmode") != SAFE:
        db.close()
        raise StoreError(
            f"Nothing proves that {db.info.host} is the server of the shared store.",
            f"Let the service file, or the URL, say sslmode={SAFE}.",
        )
    db.adapters.register_dumper(str, _TextDumper)
    return db


def _secured(dsn: str) -> str:
    """The shared store, with the mode of TLS for a server elsewhere, unless something names one.

    What names a weaker one is refused before; see `bulkcert.store_url`.
    """
    named = conninfo_to_dict(dsn)
    hosts = named.get("hostaddr") or named.get("host")
    if "service" in named or "sslmode" in named or os.environ.get("PGSSLMODE"):
        return dsn
    hosts = hosts or os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST") or ""
    local = all(map(is_local, str(hosts).split(",")))
    return dsn if local else make_conninfo(dsn, sslmode=SAFE)


def run_id(db: psycopg.Connection, name: str) -> int:
    """The number of a run.

    Raises:
        StoreError: there is no such run.
    """
    with explained():
        row = db.execute("SELECT id FROM bulkcert.run WHERE name = %s", (name,)).fetchone()
    if row is None:
        raise StoreError(f"The shared store has no run {name!r}.", "Check its name.")
    return int(row[0])


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of the database into those of this program."""
    try:
        yield
    except psycopg.Error as error:
        raise explanation(error) from error


@contextmanager
def readable() -> Iterator[None]:
    """The same for those who only read, and so leave nothing behind that could be continued."""
    try:
        with explained():
            yield
    except StoreError as error:
        raise RunDirectoryError(error.problem, error.next_step) from error


def explanation(error: psycopg.Error) -> StoreError:
    """What a person reads about an error of the database."""
    text = " ".join((error.diag.message_primary or str(error) or repr(error)).split())
    return StoreError(
        f"The shared store can't be used: {text}",
        "Make sure that the database can be reached and that this user may use it, then run the"
        " same command again. Nothing that was recorded is lost.",
    )
