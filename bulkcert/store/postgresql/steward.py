"""What one host does for all: who that is, and what the outside check has said.

In: a connection, in a transaction. Out: rows of `run` and `check_result`. At most one live host is
the steward: the row of the run is locked before anybody takes the place of another one.
"""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg

from bulkcert.rules.check import CheckResult, Verdict

_STEWARD: LiteralString = """
    SELECT steward, EXISTS (
        SELECT FROM bulkcert.lease AS l WHERE l.id = r.steward AND l.state = 'live'
    ) FROM bulkcert.run AS r WHERE id = %s
"""


def be_steward(db: psycopg.Connection, run: int, lease: UUID) -> bool:
    """Whether the host with this lease is the steward; it becomes it if no live host is."""
    if not _is_vacant(db, run):
        return _is_steward(db, run, lease)
    # the lock first, then a statement that sees what was done by whoever had it
    db.execute("SELECT FROM bulkcert.run WHERE id = %s FOR NO KEY UPDATE", (run,))
    if _is_vacant(db, run):
        db.execute("UPDATE bulkcert.run SET steward = %s WHERE id = %s", (lease, run))
    return _is_steward(db, run, lease)


def resign(db: psycopg.Connection, run: int, lease: UUID) -> None:
    """Nobody is the steward any more, if the host with this lease was."""
    db.execute(
        "UPDATE bulkcert.run SET steward = NULL WHERE id = %s AND steward = %s", (run, lease)
    )


def notifies(db: psycopg.Connection, run: int, lease: UUID | None) -> bool:
    """Whether the process with this lease gives the events to the command of `[notify]`."""
    if _is_steward(db, run, lease):
        return True
    works = db.execute(
        "SELECT FROM bulkcert.lease WHERE id = %s AND state = 'live'", (lease,)
    ).fetchone()
    # who works on the run becomes the steward first, so that few events are given twice
    return works is None and _is_vacant(db, run)


def check_result(db: psycopg.Connection, run: int) -> CheckResult | None:
    """What the outside check has said last; None if it has not yet."""
    row = db.execute(
        "SELECT began_at, ended_at, verdict, reason FROM bulkcert.check_result WHERE run = %s",
        (run,),
    ).fetchone()
    if row is None:
        return None
    began_s, ended_s, verdict, reason = row
    return CheckResult(began_s, ended_s, Verdict(verdict), reason)


def set_check_result(db: psycopg.Connection, run: int, lease: UUID, result: CheckResult) -> None:
    """Replace what the outside check has said."""
    values: dict[str, Any] = {
        "run": run,
        "began_at": result.began_s,
        "ended_at": result.ended_s,
        "verdict": str(result.verdict),
        "reason": result.reason,
        "lease": lease,
    }
    db.execute(
        "INSERT INTO bulkcert.check_result AS c (run, began_at, ended_at, verdict, reason, lease)"
        " VALUES (%(run)s, %(began_at)s, %(ended_at)s, %(verdict)s, %(reason)s, %(lease)s)"
        " ON CONFLICT (run) DO UPDATE SET began_at = excluded.began_at,"
        " ended_at = excluded.ended_at, verdict = excluded.verdict, reason = excluded.reason,"
        " lease = excluded.lease",
        values,
    )


def forget_check(db: psycopg.Connection, run: int) -> None:
    """What the outside check has said does not count any more, nor for how long it held the run."""
    db.execute(
        "UPDATE bulkcert.standing SET held_since = NULL, held_seen = NULL WHERE run = %s", (run,)
    )
    db.execute("UPDATE bulkcert.check_result SET ended_at = 0 WHERE run = %s", (run,))


def _is_steward(db: psycopg.Connection, run: int, lease: UUID | None) -> bool:
    steward, _ = _steward(db, run)
    return lease is not None and steward == lease


def _is_vacant(db: psycopg.Connection, run: int) -> bool:
    _, is_live = _steward(db, run)
    return not is_live


def _steward(db: psycopg.Connection, run: int) -> tuple[UUID | None, bool]:
    row = db.execute(_STEWARD, (run,)).fetchone()
    assert row is not None
    steward, is_live = row
    return steward, is_live
