"""The pace of an account in a shared store: the functions of migration 3, called by one host.

In: a connection. Out: slots. The functions decide, so that whatever they read is read under the
lock of the lane; this module only calls them.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from bulkcert.store.pace import PaceAnswer, PaceMember
from bulkcert.store.postgresql.commits import server_of
from bulkcert.store.postgresql.database import connect, explained
from bulkcert.timings import HostTimings

_RESERVE: LiteralString = """
    SELECT now_s, refusal, wait_s, granted, coalesce(first_slot, 0), coalesce(spacing_s, 0),
        epoch, hosts, not_before, pause_s, share, cut_at, reach_s, coalesce(state, '')
    FROM bulkcert.pace_reserve(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


class PostgresPace:
    """Implements `bulkcert.store.pace.PaceTable`.

    Args:
        dsn: where the store is.
        member: the host.
        timings: what hosts agree on.

    Raises:
        StoreError: it can't be reached; so do all methods.
    """

    def __init__(self, dsn: str, member: PaceMember, timings: HostTimings) -> None:
        self._member = member
        self._timings = timings
        self._scopes = list(member.scopes)
        self._db = connect(dsn, timings, answer_s=timings.answer_s)
        try:
            with explained():
                self._server = server_of(self._db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def now_s(self) -> float:
        """See `PaceTable`."""
        return float(str(self._value("SELECT bulkcert.now_s()")))

    def join(self, late: int, hold_s: float) -> int:
        """See `PaceTable`."""
        member = self._member
        most = None if member.egress is None else member.most_lanes
        lanes = self._value(
            "SELECT bulkcert.pace_join(%s, %s, %s, %s, %s, %s, %s, %s)",
            *(member.id, member.run, self._scopes, member.ceiling),
            *(member.egress or "", late, most, hold_s),
        )
        return int(str(lanes))

    def reserve(
        self, wanted: int, *, version: int, late: int, share: float, lead_s: float
    ) -> PaceAnswer:
        """See `PaceTable`."""
        member, timings = self._member, self._timings
        row = self._row(
            _RESERVE,
            *(member.id, member.run, version, self._server, self._scopes),
            *(member.lanes, member.egress, wanted, late, member.utilization, share),
            *(lead_s, timings.horizon_s, timings.batch_share),
        )
        return PaceAnswer(*row)

    def begin_epoch(
        self, span_s: float, known_epoch: int, expected_s: float | None, state: str | None = None
    ) -> int | None:
        """See `PaceTable`."""
        member, timings = self._member, self._timings
        epoch = self._value(
            "SELECT bulkcert.pace_begin_epoch(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            *(member.run, self._server, self._scopes, member.lanes, known_epoch, expected_s),
            *(span_s, timings.horizon_s, timings.slot_s, state),
        )
        return None if epoch is None else int(str(epoch))

    def slow_down(self, departed_s: float, pause_s: float, share: float) -> None:
        """See `PaceTable`."""
        self._row(
            "SELECT bulkcert.pace_slow_down(%s, %s, %s, %s)",
            *(self._scopes, departed_s, pause_s, share),
        )

    def leave(self) -> None:
        """See `PaceTable`."""
        self._row("SELECT bulkcert.pace_leave(%s, %s)", self._member.id, self._scopes)

    def _value(self, statement: LiteralString, *values: object) -> object:
        return self._row(statement, *values)[0]

    def _row(self, statement: LiteralString, *values: object) -> tuple[Any, ...]:
        with explained():
            row = self._db.execute(statement, values).fetchone()
        assert row is not None
        return row


def set_run_pace(
    db: psycopg.Connection,
    run: int,
    *,
    held: bool,
    rate: float | None,
    version: int,
) -> None:
    """What people and rules ask of the pace of one run. Within a transaction of the caller.

    It is in force on all hosts, also on those that can't be reached, when
    `HostTimings.span_s` have passed since the commit.

    Args:
        db: a connection in a transaction.
        run: the number of the run.
        held: nothing may leave.
        rate: most requests per second of this run; None for those of the account.
        version: grows with everything that each host must have heard of before it sends more, such
            as an abort; a host that has heard of less gets no slots.
    """
    db.execute(
        "INSERT INTO bulkcert.pace_run (run, held, rate, version) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (run) DO UPDATE SET held = excluded.held, rate = excluded.rate,"
        " version = greatest(pace_run.version, excluded.version)",
        (run, held, rate, version),
    )
