"""The top of a page: what happened, in a few words, sentences, facts and numbers. Pure.

In: the record of a run. Out: the parts of the page.
"""

from __future__ import annotations

from collections.abc import Iterator

from bulkcert.errors import PluginError
from bulkcert.plan_hash import grouped
from bulkcert.providers import installed_provider
from bulkcert.quantities import count, duration, number, percent, rate
from bulkcert.report.page.chronicle import KILLED
from bulkcert.report.page.parts import Fact, Tile
from bulkcert.report.page.record import Record
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES, Summary
from bulkcert.store.base import HostState, pending_abort
from bulkcert.store.manifest import RunManifest


def verdict(record: Record) -> tuple[str, str]:
    """The tone of the page, and the state of the run in a few words."""
    summary = record.summary
    if record.running:
        return "open", "Running"
    if not record.sessions:
        return "open", "Not begun"
    if pending_abort(record.aborts):
        return "stopped", "Stopped by its own rules"
    match summary.exit_code:
        case 0:
            return "good", "Over: every operation succeeded or was already done"
        case 1:
            return "bad", f"Over, but {_what_is_bad(summary)}"
        case _ if record.last is None or record.last.exit_code is None:
            return "open", f"Not over: {KILLED}; it can be continued"
        case _:
            return "open", "Not over: it was stopped early, and can be continued"


def _what_is_bad(summary: Summary) -> str:
    parts = []
    if summary.failed:
        parts.append(count(summary.failed, "operation failed", "operations failed"))
    if summary.unknown:
        parts.append(count(summary.unknown, "is unknown", "are unknown"))
    if summary.left_out:
        parts.append(count(summary.left_out, "row was left out", "rows were left out"))
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def sentences(record: Record) -> Iterator[str]:
    """What happened, in sentences."""
    summary = record.summary
    done = summary.succeeded + summary.already_done
    yield (
        f"{done:,} of {count(summary.total, 'operation')}"
        f" {'is' if done == 1 else 'are'} done ({percent(done, summary.total)})."
    )
    if abort := pending_abort(record.aborts):
        yield f"It has stopped itself: {abort.text} (abort {abort.id})."
    if record.in_flight:
        in_flight = count(record.in_flight, "operation is", "operations are")
        yield f"{in_flight} in flight, and counted as pending."
    if summary.left_out:
        rows = count(summary.left_out, "row was", "rows were")
        yield f"{rows} left out of the target file{_protected(summary)}."
    if summary.requests:
        yield (
            f"{count(summary.requests, 'request')} in {duration(summary.elapsed_seconds)},"
            f" waits included: {rate(summary.requests_per_second)} on average. In the busiest"
            f" second {summary.busiest_second:,} were sent; the ceiling is"
            f" {number(summary.ceiling)}."
        )


def _protected(summary: Summary) -> str:
    if not summary.protected:
        return ""
    some = "" if summary.protected == summary.left_out else f", {summary.protected:,} of them"
    return f"{some} because they must not be touched"


def facts(record: Record) -> Iterator[Fact]:
    """What the run is about."""
    summary, manifest, clock = record.summary, record.manifest, record.clock
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
    if record.last is not None:
        yield Fact("Begun", clock(record.sessions[0].started_at))
        last = clock(record.last.updated_at)
        yield Fact("As recorded at" if record.running else "Last work", last)
    if manifest.deadline_s is not None:
        yield Fact("Deadline", clock(manifest.deadline_s))
    yield Fact("Times", f"{clock.zone}")
    if record.hosts:
        yield Fact("Hosts", _hosts(record))
    if not record.running and record.last is not None:
        killed = record.last.exit_code is None
        yield Fact("Exit code", f"none: {KILLED}" if killed else _exit_code(summary.exit_code))


def _hosts(record: Record) -> str:
    """How many hosts have worked on the run, in how many lives, and how many were fenced."""
    names = len({host.name for host in record.hosts})
    said = [count(names, "host"), count(len(record.hosts), "life", "lives")]
    if fenced := sum(host.state is HostState.FENCED for host in record.hosts):
        said.append(f"{fenced} fenced")
    return ", ".join(said)


def _exit_code(code: int) -> str:
    meaning = {
        0: "every operation succeeded or was already done",
        1: "the run is over, and not everything is good",
        RESUMABLE: "stopped early; the same command continues",
        STOPPED_BY_RULES: "stopped by its own rules",
    }
    return f"{code}: {meaning[code]}"


def tiles(summary: Summary) -> Iterator[Tile]:
    """The outcomes, side by side."""
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
