"""The tables of a page that do not belong to a figure. Pure.

In: what the store has. Out: tables; of a long one the first and the last rows. Times are written by
one clock, which the page names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from bulkcert.control import ControlEntry
from bulkcert.event_log import EventType, RunEvent
from bulkcert.model import Outcome, State
from bulkcert.plan_hash import Contents
from bulkcert.quantities import count, duration, number
from bulkcert.report.page.chronicle import Chronicle, Span, WaveSpan
from bulkcert.report.page.figure import Column, Table
from bulkcert.report.summary import Summary, outcome_counts
from bulkcert.store.base import Abort, Session, StoredApproval, WaveOfRun
from bulkcert.store.manifest import Amended

_MOST_ROWS, _MOST_CHARACTERS = 60, 500
"""More nobody reads on paper: of a longer table, the first and the last rows are shown."""

_SHORTEST_SPAN_S = 1.0

_SECONDS = "_s"
"""Ends the name of a value in seconds."""


class Clock:
    """Writes times by the clock of one zone."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone

    def __call__(self, at_s: float | None) -> str:
        """A time with its date and second; empty for None."""
        return (
            "" if at_s is None else f"{datetime.fromtimestamp(at_s, self.zone):%Y-%m-%d %H:%M:%S}"
        )


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
    return _table(
        "Operations of each wave by outcome",
        [
            "wave",
            *(_numbers(_plain(outcome)) for outcome in Outcome),
            _numbers("all"),
            _short("begun"),
            _short("over"),
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
    return _table(
        "Pauses, holds and other stretches",
        [_short("from"), _numbers("for"), _short("what"), "why"],
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
    return _table(
        "Failed and unknown operations by code",
        [_numbers("operations"), "code", "message", "what to do"],
        rows,
    )


def remarks_table(summary: Summary) -> Table:
    """What is worth knowing about operations that succeeded."""
    rows = [[f"{each.count:,}", each.name, each.meaning] for each in summary.remarks]
    return _table(
        "Notes on operations that succeeded", [_numbers("operations"), "note", "meaning"], rows
    )


def retried_table(summary: Summary) -> Table:
    """Why requests were sent again."""
    rows = [[code, f"{times:,}"] for code, times in summary.retried.items()]
    return _table(
        "Sent again, by the code of the response before", ["code", _numbers("times")], rows
    )


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
    return _table(
        "Approvals",
        [_short("who"), _short("of"), _code("key"), _short("used"), _short("valid until")],
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
    return _table("Decisions", [_short("when"), _short("who"), _short("what"), "why"], rows)


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
        if event.type is EventType.THROTTLE:
            what = "throttled" if data["change"] == "begun" else "no longer throttled"
            found.append((event.at, what, data["detail"]))
        else:
            what = f"circuit breaker: {data['before']} to {data['now']}"
            found.append((event.at, what, data["reason"]))
    rows = [[clock(at_s), *rest] for at_s, *rest in sorted(found, key=lambda each: each[0])]
    return _table(
        "Aborts, checks, throttling and the circuit breaker",
        [_short("when"), _short("what"), "details"],
        rows,
    )


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
        _short("when"),
        _numbers("agrees"),
        _numbers("differs"),
        _numbers("not read"),
        _code("SHA-256 of verify.jsonl"),
    ]
    return _table("Verifications", columns, rows)


def sessions_table(clock: Clock, sessions: Sequence[Session], started: Sequence[RunEvent]) -> Table:
    """The processes that worked on the run."""
    rows = []
    remaining = list(started)
    for number_, session in enumerate(sessions, 1):
        process = _process_of(session, remaining)
        rows.append(
            [
                f"{number_:,}",
                f"{process.get('user', '')}@{process.get('host', '')}" if process else "",
                str(process.get("version", "")),
                clock(session.started_at),
                clock(session.updated_at),
                f"{session.requests:,}",
                f"{session.throttled:,}",
                f"{session.busiest_second:,}",
                "none yet" if session.exit_code is None else str(session.exit_code),
            ]
        )
    columns: list[str | Column] = [
        *(_numbers("no."), "who", "version", _short("begun"), _short("last seen")),
        *(
            _numbers("requests"),
            _numbers("throttled"),
            _numbers("busiest second"),
            _numbers("exit code"),
        ),
    ]
    note = "Requests count everything: attempts, look-ups and tokens."
    return _table("The processes that worked on the run", columns, rows, note)


def _process_of(session: Session, started: list[RunEvent]) -> Mapping[str, Any]:
    """The process of a session: the first one that began at about the same time."""
    for event in started:
        if abs(event.at - session.started_at) < 60:
            started.remove(event)
            process: Mapping[str, Any] = event.data["process"]
            return process
    return {}


def plan_table(contents: Contents) -> Table:
    """What the plan consists of."""
    rows = [
        [f"{section}.{key.removesuffix(_SECONDS)}", _value(key, value)]
        for section, values in contents.items()
        for key, value in values.items()
    ]
    return _table("The plan, as far as its hash covers it", [_code("key"), "value"], rows)


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


def _asked(entry: ControlEntry) -> str:
    return str(entry._replace(why="", who="")).removesuffix(", by ")


def _plain(outcome: Outcome) -> str:
    return outcome.replace("_", " ")


def _numbers(title: str) -> Column:
    return Column(title, "num")


def _short(title: str) -> Column:
    return Column(title, "short")


def _code(title: str) -> Column:
    return Column(title, "mono")


def _table(
    caption: str,
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[str]],
    note: str = "",
) -> Table:
    return Table(
        caption=caption,
        columns=[Column(each) if isinstance(each, str) else each for each in columns],
        rows=list(_shortened(rows)),
        note=note,
    )


def _shortened(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    half = _MOST_ROWS // 2
    left_out = len(rows) - 2 * half
    for row in rows if left_out <= 0 else rows[:half]:
        yield [_cut(cell) for cell in row]
    if left_out > 0:
        yield [f"{left_out:,} rows are not shown here; events.jsonl has them all"]
        yield from ([_cut(cell) for cell in row] for row in rows[-half:])


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
