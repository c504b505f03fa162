"""The tables of a page about what was decided: by people, by the rules and by the check. Pure.

In: what the store has. Out: tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkcert.control import ControlEntry
from bulkcert.event_log import EventType, RunEvent
from bulkcert.quantities import count
from bulkcert.report.page.chronicle import Chronicle, fenced_in_words
from bulkcert.report.page.figure import Table
from bulkcert.report.page.tabulation import Clock, code, short, table
from bulkcert.store.base import Abort, StoredApproval
from bulkcert.store.manifest import Amended


def approvals_table(clock: Clock, approvals: Sequence[StoredApproval]) -> Table:
    """Who has approved what, with which key."""
    rows = [
        [
            each.who,
            f"going on after abort {each.abort}" if each.abort else "the plan",
            each.key,
            clock(each.at),
            clock(each.expires_at),
        ]
        for each in approvals
    ]
    return table(
        "Approvals",
        [short("who"), short("of"), code("key"), short("used"), short("valid until")],
        rows,
    )


def decisions_table(
    clock: Clock,
    controls: Sequence[ControlEntry],
    aborts: Sequence[Abort],
    amendments: Sequence[Amended],
    retries: Sequence[RunEvent],
) -> Table:
    """What people have asked of the run, in the order in which they did."""
    found: list[tuple[float, str, str, str]] = [
        (each.at, each.who, _asked(each), each.why) for each in controls
    ]
    for abort in aborts:
        if abort.overridden_at is not None:
            what = f"go on after abort {abort.id}"
            found.append((abort.overridden_at, abort.who or "", what, abort.why or ""))
    found += (
        (each.at, each.who, "amended the plan", "; ".join(each.changes)) for each in amendments
    )
    for event in retries:
        what = f"{count(event.data['operations'], 'operation')} put back to work"
        found.append((event.at, "", what, "--retry-failed"))
    rows = [[clock(at_s), *rest] for at_s, *rest in sorted(found, key=lambda each: each[0])]
    return table("Decisions", [short("when"), short("who"), short("what"), "why"], rows)


def incidents_table(clock: Clock, chronicle: Chronicle, aborts: Sequence[Abort]) -> Table:
    """What the rules, the check and the provider did to the run."""
    found = [
        (abort.at, f"abort {abort.id}", f"rule {abort.rule}: {abort.text}") for abort in aborts
    ]
    found += (
        (event.at, f"check says {event.data['verdict']}", event.data["reason"])
        for event in chronicle.checks
    )
    for event in chronicle.troubles:
        data = event.data
        if event.type is EventType.FENCED:
            found.append((event.at, f"{data['process']['host']} fenced", fenced_in_words(event)))
        elif event.type is EventType.THROTTLE:
            what = "throttled" if data["change"] == "begun" else "no longer throttled"
            what += _where(event)
            found.append((event.at, what, data["detail"]))
        else:
            what = f"circuit breaker: {data['before']} to {data['now']}{_where(event)}"
            found.append((event.at, what, data["reason"]))
    rows = [[clock(at_s), *rest] for at_s, *rest in sorted(found, key=lambda each: each[0])]
    return table(
        "Aborts, checks, throttling, the circuit breaker and fenced hosts"
        if any(event.type is EventType.FENCED for event in chronicle.troubles)
        else "Aborts, checks, throttling and the circuit breaker",
        [short("when"), short("what"), "details"],
        rows,
    )


def _where(event: RunEvent) -> str:
    """On which host that was; empty if the store is not shared."""
    return f", {event.data['process']['host']}" if "process" in event.data else ""


def _asked(entry: ControlEntry) -> str:
    return str(entry._replace(why="", who="")).removesuffix(", by ")
