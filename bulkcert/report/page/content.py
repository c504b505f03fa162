"""What a page says, in the order in which people read it. Pure on what a store contains.

In: the reader of a store, in one snapshot, and the next steps. Out: a `Page`. Nothing in it depends
on when or where it is made, so the same store always yields the same page: the time of the page is
that of the last thing that the run has recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bulkcert.model import Outcome
from bulkcert.quantities import count
from bulkcert.report.page import people_tables, tables
from bulkcert.report.page.course import read_course
from bulkcert.report.page.frame import frame
from bulkcert.report.page.headline import facts, sentences, tiles, verdict
from bulkcert.report.page.parts import Page, Section, Step
from bulkcert.report.page.plots import latency_figure, outcomes_figure, rate_figure
from bulkcert.report.page.record import Record, read_record
from bulkcert.report.page.timescale import time_scale
from bulkcert.store.base import StoreReader
from bulkcert.version import VERSION


def page_of(reader: StoreReader, steps: Sequence[Step] = (), *, running: bool = False) -> Page:
    """Collect what the page of a run says.

    Args:
        reader: its store, in one snapshot.
        steps: what can be done about it now.
        running: a process is working on it.
    """
    record = read_record(reader, running=running)
    tone, words = verdict(record)
    sections = [
        _what_is_left(record, steps),
        _verification(record),
        *_figures(record, reader),
        _waves(record),
        _errors(record),
        _people(record),
        _incidents(record),
        _processes(record),
        _plan(record),
    ]
    return Page(
        name=record.manifest.run,
        run_id=record.manifest.run_id,
        plan=record.summary.plan,
        rehearsal=record.summary.rehearsal,
        tone=tone,
        verdict=words,
        summary=list(sentences(record)),
        facts=list(facts(record)),
        tiles=list(tiles(record.summary)),
        sections=[each for each in sections if _has_content(each)],
        colophon=list(_colophon(record)),
    )


def _has_content(section: Section) -> bool:
    has_rows = any(table.rows for table in section.tables)
    return bool(section.texts or section.figure or section.steps or has_rows)


def _what_is_left(record: Record, steps: Sequence[Step]) -> Section:
    names = {
        Outcome.PENDING: ("is pending", "are pending"),
        Outcome.UNKNOWN: (
            "is unknown: it may have happened",
            "are unknown: they may have happened",
        ),
        Outcome.FAILED: ("has failed", "have failed"),
    }
    outcomes = record.summary.outcomes
    left = [
        f"{count(outcomes[outcome], f'operation {one}', f'operations {many}')}."
        for outcome, (one, many) in names.items()
        if outcomes[outcome]
    ]
    return Section(id="left", title="What is left", texts=left or ["Nothing."], steps=steps)


def _verification(record: Record) -> Section:
    found = record.chronicle.verifications
    if found:
        last = found[-1].data
        agrees = count(last["agrees"], "operation agrees", "operations agree")
        text = (
            f"Read back: {agrees} with what the provider says now, {last['differs']:,} differ, and"
            f" {last['not_read']:,} could not be read."
        )
        if record.last is not None and record.last.updated_at > found[-1].at:
            text += " The run has gone on since then."
    elif record.summary.rehearsal:
        text = "A rehearsal can't be verified: its simulator is gone."
    else:
        text = "Not verified: nobody has read the devices back with bulkcert verify."
    return Section(
        id="verified",
        title="What was verified",
        texts=[text],
        tables=[tables.verifications_table(record.clock, found)],
    )


def _figures(record: Record, reader: StoreReader) -> Iterator[Section]:
    if not record.sessions:
        return
    begin_s = min(session.started_at for session in record.sessions)
    end_s = max(session.updated_at for session in record.sessions)
    scale = time_scale(reader.busy_buckets, begin_s, end_s)
    course = read_course(reader, scale)
    common = frame(scale, record.chronicle, record.aborts, record.clock.zone)
    figures = [
        rate_figure(common, course, record.chronicle),
        outcomes_figure(common, course, record.summary.total),
        latency_figure(common, course),
    ]
    for each in figures:
        if each is not None:
            yield Section(id=f"section-{each.id}", title=each.title, figure=each)


def _waves(record: Record) -> Section:
    table = tables.waves_table(
        record.clock, record.waves, record.counts_by_wave, record.chronicle.waves
    )
    return Section(id="waves", title="Waves", tables=[table])


def _errors(record: Record) -> Section:
    summary = record.summary
    nothing = not (summary.failed or summary.unknown)
    return Section(
        id="errors",
        title="What failed, and why",
        texts=["Nothing failed, and nothing is unknown."] if nothing else [],
        tables=[tables.errors_table(summary, record.unsettled), tables.remarks_table(summary)],
    )


def _people(record: Record) -> Section:
    texts = []
    if required := record.manifest.approvals_required:
        none = ", and a rehearsal none" if record.summary.rehearsal else ""
        texts.append(f"The plan needs {count(required, 'approval')}{none}.")
    else:
        texts.append("The job asks for no approvals.")
    decisions = people_tables.decisions_table(
        record.clock,
        record.controls,
        record.aborts,
        record.manifest.amendments,
        record.chronicle.retries,
    )
    if not decisions.rows:
        texts.append("Nobody has steered it.")
    return Section(
        id="people",
        title="Who approved, and who steered",
        texts=texts,
        tables=[people_tables.approvals_table(record.clock, record.approvals), decisions],
    )


def _incidents(record: Record) -> Section:
    incidents = people_tables.incidents_table(record.clock, record.chronicle, record.aborts)
    spans = tables.spans_table(record.clock, record.chronicle.spans)
    return Section(
        id="incidents",
        title="What stopped or slowed it",
        texts=[] if incidents.rows or spans.rows else ["Nothing."],
        tables=[incidents, spans, tables.retried_table(record.summary)],
    )


def _processes(record: Record) -> Section:
    working = [record.works(place) for place in range(len(record.sessions))]
    table = tables.sessions_table(
        record.clock, record.sessions, record.chronicle.processes, working, record.hosts
    )
    return Section(id="processes", title="Hosts" if record.hosts else "Processes", tables=[table])


def _plan(record: Record) -> Section:
    table = tables.plan_table(record.manifest.plan.contents)
    return Section(id="plan", title="Plan", tables=[table])


def _colophon(record: Record) -> Iterator[str]:
    yield f"Made by bulkcert {VERSION} from the record of run {record.manifest.run_id}."
    if record.chronicle.seq:
        yield (
            f"Its event log has {count(record.chronicle.seq, 'event')}; the SHA-256 digest of the"
            f" last one is {record.chronicle.digest}."
        )
    yield "The same record always yields this page, byte for byte. It contains no script."
