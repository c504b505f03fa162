"""What a page says, in the order in which people read it. Pure on what a store contains.

In: the reader of a store, in one snapshot, and the next steps. Out: a `Page`. Nothing in it depends
on when or where it is made, so the same store always yields the same page: the time of the page is
that of the last thing that the run has recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bulkcert.errors import PluginError
from bulkcert.model import Outcome, State
from bulkcert.plan_hash import grouped
from bulkcert.providers import installed_provider
from bulkcert.quantities import count, duration, number, percent, rate
from bulkcert.report.page import tables
from bulkcert.report.page.chronicle import Chronicle, chronicle
from bulkcert.report.page.course import read_course
from bulkcert.report.page.figure import Figure, Table
from bulkcert.report.page.frame import frame
from bulkcert.report.page.plots import latency_figure, outcomes_figure, rate_figure
from bulkcert.report.page.tables import Clock
from bulkcert.report.page.timescale import time_scale
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES, Summary, summarize
from bulkcert.store.base import StoreReader, pending_abort
from bulkcert.store.manifest import RunManifest
from bulkcert.version import VERSION


class Step(NamedTuple):
    """Something that can be done about the run.

    Attributes:
        aim: what for, as a phrase that ends with a colon.
        commands: what does it, in order.
    """

    aim: str
    commands: Sequence[str]


class Fact(NamedTuple):
    """Something about the run; `code` for what is copied or compared character by character."""

    name: str
    value: str
    code: bool = False


class Tile(NamedTuple):
    """One outcome: how many operations have it, and where its part of the bar is, in percent."""

    kind: str
    name: str
    many: str
    share: str
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        id: its name within the page.
        title: its heading.
        texts: paragraphs.
        figure: a figure, if it has one.
        tables: tables, without empty ones.
        steps: commands.
    """

    id: str
    title: str
    texts: Sequence[str] = ()
    figure: Figure | None = None
    tables: Sequence[Table] = ()
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        name: the name of the run.
        run_id: what no other run has.
        plan: the hash of its plan.
        rehearsal: it was a rehearsal.
        tone: `good`, `bad`, `open` or `stopped`.
        verdict: the state of the run, in a few words.
        summary: the same in sentences.
        facts: what the run is about.
        tiles: the outcomes.
        sections: everything else.
        colophon: how the page was made, in sentences.
    """

    name: str
    run_id: str
    plan: str
    rehearsal: bool
    tone: str
    verdict: str
    summary: Sequence[str]
    facts: Sequence[Fact]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    colophon: Sequence[str]


def page_of(reader: StoreReader, steps: Sequence[Step] = (), *, running: bool = False) -> Page:
    """Collect what the page of a run says.

    Args:
        reader: its store, in one snapshot.
        steps: what can be done about it now.
        running: a process is working on it.
    """
    return _Composer(reader, steps, running=running).page()


class _Composer:
    """Reads a store once, and composes the page."""

    def __init__(self, reader: StoreReader, steps: Sequence[Step], *, running: bool) -> None:
        self._reader, self._steps, self._running = reader, steps, running
        self._in_flight = reader.counts().get(State.IN_FLIGHT, 0)
        self._summary = summarize(reader)
        if running:  # nobody has lost sight of what is in flight
            self._summary = replace(
                self._summary,
                unknown=self._summary.unknown - self._in_flight,
                pending=self._summary.pending + self._in_flight,
            )
        self._manifest = reader.manifest()
        self._sessions = reader.sessions()
        self._aborts = reader.aborts()
        self._controls = reader.controls()
        self._zone = _zone_of(self._manifest)
        self._clock = Clock(self._zone)
        self._chronicle: Chronicle = chronicle(
            reader.events(), self._sessions, self._controls, self._manifest.ceiling
        )

    def page(self) -> Page:
        summary = self._summary
        tone, verdict = self._verdict()
        return Page(
            name=summary.name,
            run_id=self._manifest.run_id,
            plan=summary.plan,
            rehearsal=summary.rehearsal,
            tone=tone,
            verdict=verdict,
            summary=list(self._sentences()),
            facts=list(self._facts()),
            tiles=list(_tiles(summary)),
            sections=[each for each in self._sections() if _has_content(each)],
            colophon=list(self._colophon()),
        )

    # ---- what happened, in short

    def _verdict(self) -> tuple[str, str]:
        summary = self._summary
        if self._running:
            return "open", "Running"
        if not self._sessions:
            return "open", "Not begun"
        if pending_abort(self._aborts):
            return "stopped", "Stopped by its own rules"
        match summary.exit_code:
            case 0:
                return "good", "Over: every operation succeeded or was already done"
            case 1:
                return "bad", f"Over, but {self._what_is_bad()}"
            case _:
                return "open", "Not over: it was stopped early, and can be continued"

    def _what_is_bad(self) -> str:
        summary = self._summary
        parts = []
        if summary.failed:
            parts.append(count(summary.failed, "operation failed", "operations failed"))
        if summary.unknown:
            parts.append(count(summary.unknown, "is unknown", "are unknown"))
        if summary.left_out:
            parts.append(count(summary.left_out, "row was left out", "rows were left out"))
        return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))

    def _sentences(self) -> Iterator[str]:
        summary = self._summary
        done = summary.succeeded + summary.already_done
        yield (
            f"{done:,} of {count(summary.total, 'operation')}"
            f" {'is' if done == 1 else 'are'} done ({percent(done, summary.total)})."
        )
        if abort := pending_abort(self._aborts):
            yield f"It has stopped itself: {abort.text} (abort {abort.id})."
        if self._running and self._in_flight:
            in_flight = count(self._in_flight, "operation is", "operations are")
            yield f"{in_flight} in flight, and counted as pending."
        if summary.left_out:
            rows = count(summary.left_out, "row was", "rows were")
            yield f"{rows} left out of the target file{self._protected()}."
        if summary.requests:
            yield (
                f"{count(summary.requests, 'request')} in {duration(summary.elapsed_seconds)},"
                f" waits included: {rate(summary.requests_per_second)} on average. In the busiest"
                f" second {summary.busiest_second:,} were sent; the ceiling is"
                f" {number(summary.ceiling)}."
            )

    def _protected(self) -> str:
        summary = self._summary
        if not summary.protected:
            return ""
        some = "" if summary.protected == summary.left_out else f", {summary.protected:,} of them"
        return f"{some} because they must not be touched"

    def _facts(self) -> Iterator[Fact]:
        summary, manifest = self._summary, self._manifest
        yield Fact("Action", f"{summary.action}, with {summary.provider}")
        if parameters := _parameters(manifest):
            yield Fact("Parameters", parameters)
        account = ", ".join(f"{k} {v}" for k, v in manifest.connection.options.items() if v)
        if account:
            yield Fact("Account", account, code=True)
        yield Fact("Endpoint", summary.endpoint, code=True)
        yield Fact("Plan", grouped(summary.plan), code=True)
        if manifest.number > 1:
            yield Fact("Run", f"number {manifest.number} of this job")
        if self._sessions:
            yield Fact("Begun", self._clock(self._sessions[0].started_at))
            last = self._clock(self._sessions[-1].updated_at)
            yield Fact("As recorded at" if self._running else "Last work", last)
        if manifest.deadline_s is not None:
            yield Fact("Deadline", self._clock(manifest.deadline_s))
        yield Fact("Times", f"{self._zone}")
        if not self._running and self._sessions:
            yield Fact("Exit code", self._exit_code())

    def _exit_code(self) -> str:
        meaning = {
            0: "every operation succeeded or was already done",
            1: "the run is over, and not everything is good",
            RESUMABLE: "stopped early; the same command continues",
            STOPPED_BY_RULES: "stopped by its own rules",
        }
        code = self._summary.exit_code
        return f"{code}: {meaning[code]}"

    # ---- everything else

    def _sections(self) -> Iterator[Section]:
        yield self._what_is_left()
        yield self._verification()
        yield from self._figures()
        waves = self._reader.waves()
        if waves:
            counts = self._reader.counts_by_wave()
            table = tables.waves_table(self._clock, waves, counts, self._chronicle.waves)
            yield Section(id="waves", title="Waves", tables=[table])
        yield self._errors()
        yield self._people()
        incidents = tables.incidents_table(self._clock, self._chronicle, self._aborts)
        spans = tables.spans_table(self._clock, self._chronicle.spans)
        yield Section(
            id="incidents",
            title="What stopped or slowed it",
            texts=[] if incidents.rows or spans.rows else ["Nothing."],
            tables=[incidents, spans, tables.retried_table(self._summary)],
        )
        yield Section(
            id="processes",
            title="Processes",
            tables=[tables.sessions_table(self._clock, self._sessions, self._chronicle.started)],
        )
        yield Section(
            id="plan", title="Plan", tables=[tables.plan_table(self._manifest.plan.contents)]
        )

    def _what_is_left(self) -> Section:
        summary = self._summary
        names = {
            Outcome.PENDING: ("is pending", "are pending"),
            Outcome.UNKNOWN: (
                "is unknown: it may have happened",
                "are unknown: they may have happened",
            ),
            Outcome.FAILED: ("has failed", "have failed"),
        }
        left = [
            f"{count(summary.outcomes[outcome], f'operation {one}', f'operations {many}')}."
            for outcome, (one, many) in names.items()
            if summary.outcomes[outcome]
        ]
        texts = left or ["Nothing."]
        return Section(id="left", title="What is left", texts=texts, steps=self._steps)

    def _verification(self) -> Section:
        found = self._chronicle.verifications
        text = "Not verified: nobody has read the devices back with bulkcert verify."
        if self._summary.rehearsal:
            text = "A rehearsal can't be verified: its simulator is gone."
        elif found:
            last = found[-1].data
            agrees = count(last["agrees"], "operation agrees", "operations agree")
            text = (
                f"Read back: {agrees} with what the provider says now, {last['differs']:,} differ,"
                f" and {last['not_read']:,} could not be read."
            )
        return Section(
            id="verified",
            title="What was verified",
            texts=[text],
            tables=[tables.verifications_table(self._clock, found)],
        )

    def _figures(self) -> Iterator[Section]:
        if not self._sessions:
            return
        begin_s = min(session.started_at for session in self._sessions)
        end_s = max(session.updated_at for session in self._sessions)
        scale = time_scale(self._reader.busy_buckets, begin_s, end_s)
        course = read_course(self._reader, scale)
        common = frame(scale, self._chronicle, self._aborts, self._zone)
        figures = [
            rate_figure(common, course, self._chronicle),
            outcomes_figure(common, course, self._summary.total),
            latency_figure(common, course),
        ]
        for each in figures:
            if each is not None:
                yield Section(id=f"section-{each.id}", title=each.title, figure=each)

    def _errors(self) -> Section:
        summary = self._summary
        nothing = not (summary.failed or summary.unknown)
        return Section(
            id="errors",
            title="What failed, and why",
            texts=["Nothing failed, and nothing is unknown."] if nothing else [],
            tables=[
                tables.errors_table(summary, 0 if self._running else self._in_flight),
                tables.remarks_table(summary),
            ],
        )

    def _people(self) -> Section:
        approvals = tables.approvals_table(self._clock, self._reader.approvals())
        texts = [] if approvals.rows else ["The job asked for no approvals."]
        if required := self._manifest.approvals_required:
            texts = [f"The plan needed {count(required, 'approval')}."]
        decisions = tables.decisions_table(
            self._clock,
            self._controls,
            self._aborts,
            self._manifest.amendments,
            self._chronicle.retries,
        )
        if not decisions.rows:
            texts.append("Nobody has steered it.")
        return Section(
            id="people",
            title="Who approved, and who steered",
            texts=texts,
            tables=[approvals, decisions],
        )

    def _colophon(self) -> Iterator[str]:
        yield f"Made by bulkcert {VERSION} from the record of run {self._manifest.run_id}."
        if self._chronicle.seq:
            yield (
                f"Its event log has {count(self._chronicle.seq, 'event')}; the SHA-256 digest of"
                f" the last one is {self._chronicle.digest}."
            )
        yield "The same record always yields this page, byte for byte. It contains no script."


def _has_content(section: Section) -> bool:
    return bool(
        section.texts
        or section.figure
        or section.steps
        or any(table.rows for table in section.tables)
    )


def _tiles(summary: Summary) -> Iterator[Tile]:
    x = 0.0
    for outcome, many in summary.outcomes.items():
        width = 100 * many / summary.total if summary.total else 0.0
        name = outcome.replace("_", " ")
        yield Tile(outcome, name, f"{many:,}", _share(many, summary.total), x, width)
        x += width


def _share(part: int, whole: int) -> str:
    """A share that is 0% or 100% only if it is exactly that."""
    if not part or not whole:
        return "0%"
    share = 100 * part / whole
    if share < 0.05:
        return "under 0.1%"
    if part == whole:
        return "100%"
    return f"{share:.1f}%" if share < 99.95 else "over 99.9%"


def _zone_of(manifest: RunManifest) -> tzinfo:
    """Whose clock the page shows: that of the change window, or UTC; not that of any machine."""
    window = manifest.plan.contents.get("window", {})
    try:
        return ZoneInfo(str(window["zone"])) if "zone" in window else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _parameters(manifest: RunManifest) -> str:
    """The parameters as people write them."""
    try:
        fields = installed_provider(manifest.provider).actions[manifest.action].fields
    except (PluginError, KeyError):
        return ", ".join(f"{name} = {value}" for name, value in manifest.parameters.items())
    return ", ".join(
        f"{name} = {fields[name].show(value) if name in fields else value}"
        for name, value in manifest.parameters.items()
    )
