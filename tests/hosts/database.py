"""The store of a scenario: a PostgreSQL that can crash, freeze, forget and have a wrong clock.

In: what is to happen to it. Out: a server of its own, in a temporary folder. Nobody connects to it
directly but the harness: hosts go through `store_proxy`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from postgres import PostgresServer

from bulkcert.store.postgresql import migrate

# A store refuses a server that may lose what it has confirmed.
SETTINGS = {"fsync": "on", "synchronous_commit": "on", "max_connections": "100"}

_CLOCK = """
CREATE OR REPLACE FUNCTION bulkcert.now_s() RETURNS double precision LANGUAGE sql VOLATILE
AS 'SELECT extract(epoch FROM clock_timestamp())::double precision + {shift}'
"""


class Database:
    """A shared store with its tables.

    Attributes:
        socket: the Unix socket on which it listens.
    """

    def __init__(self) -> None:
        self._server = PostgresServer(SETTINGS)
        self._server.start()
        self.socket = self._server.folder / ".s.PGSQL.5432"
        self._frozen: list[int] = []
        with closing(self.connection()) as db:
            migrate(db)

    @property
    def url(self) -> str:
        """Where the harness itself reaches it."""
        return self._server.url

    def connection(self) -> psycopg.Connection[Any]:
        """A connection of the harness, in autocommit mode."""
        return psycopg.connect(self._server.url, autocommit=True)

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query."""
        with (
            closing(self.connection()) as db,
            db.cursor(row_factory=psycopg.rows.dict_row) as cursor,
        ):
            return cursor.execute(statement, values).fetchall()  # type: ignore[arg-type]

    def crash(self) -> None:
        """Let it crash; nothing that it has committed is lost."""
        self.thaw()
        self._server.crash()

    def start(self) -> None:
        """Start it again."""
        self._server.start()

    def freeze(self) -> None:
        """Stop all its processes (SIGSTOP): it is silent, and keeps its connections."""
        server = self._server.pid
        self._frozen = [server]
        os.kill(server, signal.SIGSTOP)  # first, so that no more children begin
        for child in _children(server):
            os.kill(child, signal.SIGSTOP)
            self._frozen.append(child)

    def thaw(self) -> None:
        """Continue what was stopped."""
        frozen, self._frozen = self._frozen, []
        for process in reversed(frozen):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def save(self, folder: Path) -> Path:
        """Copy its files as they are at one moment, as a snapshot of a disk does."""
        copy = folder / "saved"
        self.freeze()
        try:
            subprocess.run(["cp", "-a", self._server.folder / "data", copy], check=True)
        finally:
            self.thaw()
        return copy

    def restore(self, copy: Path) -> None:
        """Let it crash, and start it with the files of that moment: all commits since are gone."""
        self.crash()
        shutil.rmtree(self._server.folder / "data")
        subprocess.run(["cp", "-a", copy, self._server.folder / "data"], check=True)
        (self._server.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        self.start()

    def set_clock(self, shift_s: float) -> None:
        """Let its clock be wrong by so much from now on."""
        with closing(self.connection()) as db:
            db.execute(_CLOCK.format(shift=shift_s))  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop it, and remove its files."""
        self.thaw()
        self._server.close()


@contextmanager
def database() -> Iterator[Database]:
    """A database for as long as the context lasts."""
    with closing(Database()) as running:
        yield running


def _children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in found.split()]
