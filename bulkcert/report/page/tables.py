"""The tables of a page that do not belong to a figure. Pure.

In: what the store has. Out: tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bulkcert.event_log import RunEvent
from bulkcert.model import Outcome, State
from bulkcert.plan_hash import Contents
from bulkcert.quantities import count, duration, number
from bulkcert.report.page.chronicle import KILLED, Process, WaveSpan
from bulkcert.report.page.figure import Column, Table
from bulkcert.report.page.spans import Span
from bulkcert.report.page.tabulation import Clock, code, numbers, short, table
from bulkcert.report.summary import Summary, outcome_counts
from bulkcert.store.base import HostNow, Session, WaveOfRun

_SHORTEST_SPAN_S = 1.0

_SECONDS = "_s"
"""Ends the name of a value in seconds."""


def waves_table(
    clock: Clock,
    waves: Sequence[WaveOfRun],
    counts: Mapping[int, Mapping[State, int]],
    spans: Sequence[WaveSpan],
) -> Table:
    """The waves, when each of them was under way, and its outcomes."""
    by_number = {span.number: span for span in spans}
    rows = []
    for wave in waves:
        outcomes = outcome_counts(counts.get(wave.number, {}))
        span = by_number.get(wave.number)
        begun = clock(span.begin_s) if span else ""
        over = (clock(span.end_s) if span.over else "under way") if span else ""
        rows.append(
            [
                wave.name,
                *(f"{outcomes[outcome]:,}" for outcome in Outcome),
                f"{sum(outcomes.values()):,}",
                begun or "to come",
                over,
            ]
        )
    return table(
        "Operations of each wave by outcome",
        [
            "wave",
            *(numbers(_plain(outcome)) for outcome in Outcome),
            numbers("all"),
            short("begun"),
            short("over"),
        ],
        rows,
    )


def spans_table(clock: Clock, spans: Sequence[Span]) -> Table:
    """What kept the run from sending."""
    shown = [span for span in spans if span.end_s - span.begin_s >= _SHORTEST_SPAN_S]
    rows = [
        [clock(span.begin_s), duration(span.end_s - span.begin_s), span.kind.words, span.text]
        for span in sorted(shown, key=lambda span: span.begin_s)
    ]
    others = len(spans) - len(shown)
    note = f"And {others:,} of less than a second, which events.jsonl has." if others else ""
    return table(
        "Pauses, holds and other stretches",
        [short("from"), numbers("for"), short("what"), "why"],
        rows,
        note,
    )


def errors_table(summary: Summary, unsettled: int) -> Table:
    """The failures by code.

    Args:
        summary: the summary.
        unsettled: operations that count as unknown because they are in flight; no message says why.
    """
    rows = [
        [f"{error.count:,}", str(error.code or "none"), error.message, error.advice]
        for error in summary.errors
    ]
    shown = sum(error.count for error in summary.errors)
    if others := summary.failed + summary.unknown - unsettled - shown:
        more = count(summary.error_kinds - len(summary.errors), "more kind")
        rows.append([f"{others:,}", "", f"{more} of errors", ""])
    if unsettled:
        rows.append([f"{unsettled:,}", "", "not settled: their responses are not known yet", ""])
    return table(
        "Failed and unknown operations by code",
        [numbers("operations"), "code", "message", "what to do"],
        rows,
    )


def remarks_table(summary: Summary) -> Table:
    """What is worth knowing about operations that succeeded."""
    rows = [[f"{each.count:,}", each.name, each.meaning] for each in summary.remarks]
    return table(
        "Notes on operations that succeeded", [numbers("operations"), "note", "meaning"], rows
    )


def retried_table(summary: Summary) -> Table:
    """Why requests were sent again."""
    rows = [[f"{times:,}", name] for name, times in summary.retried.items()]
    return table("Sent again, by the code of the response before", [numbers("times"), "code"], rows)


def verifications_table(clock: Clock, verifications: Sequence[RunEvent]) -> Table:
    """What was read back."""
    rows = [
        [
            clock(event.at),
            *(f"{event.data[name]:,}" for name in ("agrees", "differs", "not_read")),
            event.data["sha256"],
        ]
        for event in verifications
    ]
    columns: list[str | Column] = [
        short("when"),
        numbers("agrees"),
        numbers("differs"),
        numbers("not read"),
        code("SHA-256 of verify.jsonl"),
    ]
    return table("Verifications", columns, rows)


def sessions_table(
    clock: Clock,
    sessions: Sequence[Session],
    processes: Sequence[Process | None],
    working: Sequence[bool],
    hosts: Sequence[HostNow] = (),
) -> Table:
    """The processes that worked on the run.

    Args:
        clock: writes times.
        sessions: their figures.
        processes: what each of them has logged of itself.
        working: whether each of them works on the run.
        hosts: in a shared store, which host each of them is.
    """
    rows = []
    for place, (session, process) in enumerate(zip(sessions, processes, strict=True)):
        options = process.started.data["options"] if process else ()
        said = process.why if process else ""
        if session.exit_code is None and not working[place]:
            said = said or KILLED
        rows.append(
            [
                process.who if process else "",
                *_host_cells(hosts[place : place + 1]),
                clock(session.started_at),
                clock(session.updated_at),
                f"{session.requests:,}",
                f"{session.throttled:,}",
                f"{session.busiest_second:,}",
                _exit_code(session, is_there=working[place]),
                "; ".join(filter(None, (" ".join(options), said))),
            ]
        )
    of_hosts: list[str | Column] = ["sends from", code("lease")] if hosts else []
    columns: list[str | Column] = [
        "who",
        *of_hosts,
        *(short("begun"), short("last seen"), numbers("requests"), numbers("throttled")),
        *(numbers("busiest second"), numbers("exit code"), "options, and why it ended early"),
    ]
    note = "Requests count everything: attempts, look-ups and tokens."
    if hosts:
        note += " The busiest second is that of the host alone; above is that of all together."
    title = "The hosts that worked on the run" if hosts else "The processes that worked on the run"
    return table(title, columns, rows, note)


def _host_cells(hosts: Sequence[HostNow]) -> Iterator[str]:
    for host in hosts:
        address = host.address or "any address"
        yield f"{address} ({host.egress})" if host.egress else address
        yield host.lease[:8]


def _exit_code(session: Session, *, is_there: bool) -> str:
    if session.exit_code is not None:
        return str(session.exit_code)
    return "running" if is_there else "none"


def plan_table(contents: Contents) -> Table:
    """What the plan consists of."""
    rows = [
        [f"{section}.{key.removesuffix(_SECONDS)}", _value(key, value)]
        for section, values in contents.items()
        for key, value in values.items()
    ]
    return table("The plan, as far as its hash covers it", [code("key"), "value"], rows)


def _value(key: str, value: Any) -> str:
    match value:
        case str():
            return value
        case int() | float() if key.endswith(_SECONDS):
            return duration(value)
        case bool():
            return json.dumps(value)
        case int() | float():
            return number(value)
        case list() if all(isinstance(each, str | int) for each in value):
            return ", ".join(map(str, value))
        case _:
            return json.dumps(value, ensure_ascii=False)


def _plain(outcome: Outcome) -> str:
    return outcome.replace("_", " ")
