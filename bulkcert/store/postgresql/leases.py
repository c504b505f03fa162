"""The leases of hosts: how a life begins and ends, and how others see it.

In: a connection. Out: rows of `lease`. A host that is fenced changes nothing any more: each of its
commits begins with a beat, which needs a live lease. What it was working on is free again in the
same transaction.
"""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg

from bulkcert.store.base import Host, Seen
from bulkcert.store.postgresql.schema import SCHEMA_VERSION

_FREE: LiteralString = """
    UPDATE bulkcert.operation AS o SET owner = NULL,
        late = late OR (o.state = 'in_flight' AND NOT (l.has_switch AND l.ordered))
    FROM bulkcert.lease AS l WHERE l.id = %(id)s AND o.run = l.run AND o.owner = l.id
"""


def register(db: psycopg.Connection, run: int, lease: UUID, host: Host) -> None:
    """Begin a life; to be called in a transaction."""
    db.execute(
        "INSERT INTO bulkcert.lease (id, run, host, pid, address, egress, version, has_switch,"
        " ordered, knows, begun_at, beat_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, bulkcert.now_s(), bulkcert.now_s())",
        (lease, run, *host, SCHEMA_VERSION),
    )


def live(db: psycopg.Connection, run: int) -> list[Seen]:
    """The leases of a run that may not have run out, in the order in which they began. Locks
    nothing."""
    rows = db.execute(
        "SELECT id, host, pid, beats FROM bulkcert.lease"
        " WHERE run = %s AND state IN ('live', 'refused') ORDER BY number",
        (run,),
    )
    return [Seen(*row) for row in rows]


def fence(db: psycopg.Connection, seen: Seen, by: str) -> int | None:
    """End the lease of a host that is silent, and free what it was working on.

    To be called in a transaction.

    Args:
        db: the connection.
        seen: the lease as it was seen all the time; if it has beaten since, nothing happens.
        by: who ends it.

    Returns:
        How many operations it was working on; None if it has beaten, or is fenced already.
    """
    return _end(db, seen.id, "fenced", by, seen.beats)


def leave(db: psycopg.Connection, lease: UUID) -> None:
    """End a life, and free what it has not given back; to be called in a transaction."""
    _end(db, lease, "left", "itself", None)


def _end(db: psycopg.Connection, lease: UUID, state: str, by: str, beats: int | None) -> int | None:
    ended = db.execute(
        "UPDATE bulkcert.lease SET state = %(state)s, ended_by = %(by)s,"
        " ended_at = bulkcert.now_s() WHERE id = %(id)s AND state IN ('live', 'refused')"
        " AND (%(beats)s::bigint IS NULL OR beats = %(beats)s)",
        {"id": lease, "state": state, "by": by, "beats": beats},
    ).rowcount
    if not ended:
        return None
    values: dict[str, Any] = {"id": lease}
    return db.execute(_FREE, values).rowcount
