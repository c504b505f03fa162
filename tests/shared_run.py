"""A run in a shared store, with hosts that were there: rows in its tables, without processes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
from stores import manifest

from bulkcert.model import Target
from bulkcert.store.base import Session
from bulkcert.store.postgresql import PostgresReader, PostgresStore, publish
from bulkcert.store.sqlite import SqlitePlan

_names = count(1)


class SharedRun:
    """A run in a shared store.

    Args:
        folder: for a plan.
        dsn: the shared store.
        operations: how many it has.
    """

    def __init__(self, folder: Path, dsn: str, operations: int) -> None:
        self.dsn, self.name = dsn, f"seen-{next(_names)}"
        path = folder / f"{self.name}.sqlite3"
        planned = SqlitePlan(path)
        for number in range(operations):
            planned.add(Target(number + 2, {"assetId": f"A{number}"}), number)
        planned.finish(manifest(name=self.name))
        publish(path, dsn, self.name)

    @classmethod
    def of(cls, dsn: str, name: str) -> Self:
        """The run of this name, which is there already."""
        run = cls.__new__(cls)
        run.dsn, run.name = dsn, name
        return run

    @contextmanager
    def reader(self) -> Iterator[PostgresReader]:
        with closing(PostgresReader(self.dsn, self.name)) as reader:
            yield reader

    def execute(self, statement: str, *values: Any) -> None:
        """Change the tables; `run` is the number of the run."""
        with closing(psycopg.connect(self.dsn, autocommit=True)) as db:
            db.execute(
                "SELECT set_config('test.run', id::text, false) FROM bulkcert.run WHERE name = %s",
                (self.name,),
            )
            db.execute(
                statement.replace("run()", "current_setting('test.run')::int").encode(), values
            )

    def host(
        self,
        name: str = "ops1",
        pid: int = 1,
        *,
        begun_s: float = 100.0,
        beat_s: float = 0.0,
        operations: Sequence[int] = (),
        session: Session | None = None,
        **columns: Any,
    ) -> str:
        """A host that was there; return its lease.

        Args:
            name, pid: which.
            begun_s, beat_s: how many seconds ago it began, and wrote last.
            operations: the ids of those that it works on.
            session: its figures.
            columns: other columns of its lease.
        """
        with closing(PostgresStore(self.dsn, self.name)) as store:
            lease = str(store.owner)
            if session is not None:
                with store.transaction():
                    store.note_session(session)
        values = {
            "address": "",
            "egress": "",
            "version": "1.0",
            "has_switch": True,
            "ordered": True,
            **columns,
        }
        self.execute(
            "INSERT INTO bulkcert.lease (id, run, host, pid, begun_at, beat_at, "
            + ", ".join(values)
            + ") VALUES (%s, run(), %s, %s, bulkcert.now_s() - %s, bulkcert.now_s() - %s"
            + ", %s" * len(values)
            + ")",
            uuid.UUID(lease),
            name,
            pid,
            begun_s,
            beat_s,
            *values.values(),
        )
        self.execute(
            "UPDATE bulkcert.operation SET owner = %s, state = 'in_flight'"
            " WHERE run = run() AND id = ANY(%s)",
            uuid.UUID(lease),
            list(operations),
        )
        return lease
