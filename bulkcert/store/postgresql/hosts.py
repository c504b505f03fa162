"""The hosts of a run in a shared store, and their figures. Reading only.

In: a function that runs a query, and the number of a run. Out: the lives of its hosts. All times
are by the clock of the store.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from bulkcert.model import Slowdown
from bulkcert.store.base import HostNow, HostState, Session
from bulkcert.store.lives import ended_with
from bulkcert.store.postgresql.campaign import Query

_SESSIONS = """
    SELECT figures, begun_at, coalesce(ended_at, beat_at)
    FROM bulkcert.session AS s LEFT JOIN bulkcert.lease AS l ON l.id = s.owner
    WHERE s.run = %(run)s ORDER BY s.number
"""

_HOSTS = """
    SELECT
        id::text, host, pid, address, egress, l.version, has_switch, state, begun_at, beats,
        greatest(0, (SELECT bulkcert.now_s()) - beat_at), control, ended_at,
        coalesce(ended_by, ''), figures, beat_at,
        (SELECT count(*) FROM bulkcert.operation AS o WHERE o.run = l.run AND o.owner = l.id)
    FROM bulkcert.lease AS l LEFT JOIN bulkcert.session AS s ON s.run = l.run AND s.owner = l.id
    WHERE l.run = %(run)s ORDER BY l.number
"""


def read_sessions(query: Query, run: int) -> list[Session]:
    """The figures of all lives, in the order in which they began."""
    return [_session(*row) for row in query(_SESSIONS, {"run": run})]


def read_hosts(query: Query, run: int) -> list[HostNow]:
    """The lives of all hosts, in the order in which they began."""
    return [_host(*row) for row in query(_HOSTS, {"run": run})]


def _host(lease: str, *row: Any) -> HostNow:
    name, pid, address, egress, version, has_switch, state, began_at, *rest = row
    beats, silent_s, control, ended_at, ended_by, figures, beat_at, operations = rest
    seen_at = beat_at if ended_at is None else ended_at
    session = None if figures is None else _session(figures, began_at, seen_at)
    ending = ""
    if state == HostState.FENCED:
        ending = f"fenced by {ended_by}" if ended_by else "fenced"
    elif state == HostState.LEFT:
        ending = ended_with(session.exit_code if session else None)
    return HostNow(
        lease=lease,
        name=name,
        pid=pid,
        address=address,
        egress=egress,
        version=version,
        has_switch=has_switch,
        # until it is fenced, one that is too old for the tables may still send
        state=HostState.LIVE if state == "refused" else HostState(state),
        began_at=began_at,
        beats=beats,
        silent_s=silent_s,
        operations=operations,
        control=control,
        ended_at=ended_at,
        ending=ending,
        session=session,
    )


def _session(stored: str, began_at: float | None, seen_at: float | None) -> Session:
    figures = orjson.loads(stored)
    slowdown = figures.pop("slowdown")
    session = Session(
        **figures | {"reasons": tuple(figures["reasons"])},
        slowdown=None if slowdown is None else Slowdown(*slowdown),
    )
    if began_at is None or seen_at is None:
        return session
    return replace(session, started_at=began_at, updated_at=seen_at)
