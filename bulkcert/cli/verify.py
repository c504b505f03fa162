"""`bulkcert verify`: compare the provider's state with the results of a run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from bulkcert import durable, json_lines
from bulkcert.cli import console
from bulkcert.cli.crl import read_lists
from bulkcert.cli.format import as_text
from bulkcert.cli.messages import Level
from bulkcert.cli.options import (
    FilePath,
    json_option,
    message_options,
    progress_option,
    run_argument,
)
from bulkcert.cli.process import (
    prepare_process,
    report_faults,
    stopping_on_signals,
)
from bulkcert.cli.progress_display import ProgressDisplay
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.credentials import credentials_from
from bulkcert.errors import BulkcertError, InterruptionError, JobError, RevocationListError
from bulkcert.jobfile import load_job
from bulkcert.providers import installed_provider
from bulkcert.quantities import count
from bulkcert.report.summary import RESUMABLE, Summary
from bulkcert.revocation_list import Listing, RevocationList
from bulkcert.run import Run
from bulkcert.rundir import RunDirectory
from bulkcert.runs import job_file_of
from bulkcert.store.base import StoreReader
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite import SqliteReader
from bulkcert.verify import (
    COULD_NOT_CHECK,
    Tally,
    Verdict,
    compare,
    log_verification,
    not_settled,
    reading_run,
)
from bulkcert.wiring import pass_on_events

MOST_DIFFERENCES = 1_000
"""In the JSON object of `--json`; `verify.jsonl` has them all."""


MOST_ON_TERMINAL = 20


@click.command
@run_argument
@click.option(
    "--crl",
    "crls",
    metavar="FILE|URL",
    multiple=True,
    help="Also look for the revoked certificates in this revocation list of their CA; repeatable.",
)
@click.option(
    "--crl-issuer",
    "issuers",
    metavar="FILE",
    type=FilePath,
    multiple=True,
    help="Trust this certificate of a CA to check the signature of a list; repeatable.",
)
@progress_option
@message_options
@json_option
def verify(
    directory: RunDirectory,
    crls: Sequence[str],
    issuers: Sequence[Path],
    progress: bool,
    log_format: str,
    log_file: Path | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Read back the device of every settled operation, and print each one that differs.

    Works in the middle of a run, too, under its ceiling. Credentials are read from the environment.
    What was seen of each device is kept in verify.jsonl in the run directory.

    \b
    Example:
      bulkcert verify jobs/revoke-key-compromise.toml
      bulkcert verify jobs/revoke-key-compromise.toml --crl https://ca.example.com/devices.crl
    """
    console.configure(as_json=log_format == "json", log_file=log_file, quiet=quiet, verbose=verbose)
    interrupt_on_signals()
    try:
        code = _verify(directory, crls, issuers, as_json, progress and not quiet)
    except InterruptionError:
        raise
    except BulkcertError as error:
        error.exit_code = COULD_NOT_CHECK  # whatever stopped the reading
        raise
    except KeyboardInterrupt:
        raise _stopped() from None
    sys.exit(code)


def _verify(
    directory: RunDirectory,
    crls: Sequence[str],
    issuers: Sequence[Path],
    as_json: bool,
    progress: bool,
) -> int:
    """Read, compare and print; return the exit code."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkcert-")))
        reader = stack.enter_context(contextlib.closing(_as_it_is_now(directory, scratch)))
        reading = stack.enter_context(reading_run(reader, scratch / "reading"))
        lists = _lists(reader, crls, issuers, directory.path)
        summary = _read(reading, progress)
        if directory.place.is_shared and not directory.path.exists():
            directory.create()  # there may be none on this host
        tally, found = Tally(reading.job.action, lists), scratch / directory.verification.name
        with found.open("wb") as file:
            for comparison in compare(reader, reading, lists):
                tally.add(comparison)
                file.write(json_lines.as_json(comparison.as_object()) + b"\n")
        waiting, kept = not_settled(reader), _keep(found, directory.verification)
        if kept:
            _log(directory, tally, found)
        if as_json:
            figures = _figures(reader, summary) | {"not_settled": waiting} | tally.as_object()
            figures["crl"] = [each.as_object() for each in lists]
            figures["file"] = str(directory.verification.absolute()) if kept else None
            _print_object(figures, found, tally.exit_code)
        elif kept and console.columns("stdout"):
            _print_for_people(found, directory.verification)
        else:
            console.print_data(line + b"\n" for line in _lines_of_differences(found))
        _say(tally, waiting, reading, lists)
        if kept:
            console.write(f"What was seen of each device: {directory.verification}")
            _notify(directory, reader.manifest())
        return tally.exit_code


def _as_it_is_now(directory: RunDirectory, scratch: Path) -> StoreReader:
    """Copy the run, so that what is compared does not change meanwhile."""
    copy = scratch / directory.checkpoint.name
    with contextlib.closing(directory.reader()) as reader:
        reader.copy_to(copy)
    return SqliteReader(copy)


def _lists(
    reader: StoreReader, crls: Sequence[str], issuers: Sequence[Path], run_dir: Path
) -> list[RevocationList]:
    """Get the revocation lists, and warn of those that prove nothing."""
    if not crls:
        return []
    manifest = reader.manifest()
    if not installed_provider(manifest.provider).actions[manifest.action].revokes:
        raise RevocationListError(
            f"The run has revoked nothing: its action is {manifest.action}.",
            "Leave out --crl.",
        )
    lists = read_lists(crls, issuers, manifest, run_dir)
    for doubt in (doubt for each in lists for doubt in each.doubts):
        console.write(f"{doubt}.", Level.WARNING)
    return lists


def _read(reading: Run, progress: bool) -> Summary:
    """Read the devices back.

    Raises:
        InterruptionError: a signal has stopped it.
    """
    job = reading.job
    credentials = credentials_from(os.environ, job.provider)
    prepare_process(job.limits.in_flight)

    async def work(display: ProgressDisplay) -> Summary:
        report_faults()
        with stopping_on_signals(reading):
            return await reading.execute(credentials, display.show)

    # ended before anything is printed: data and the bar must not mix
    with console.in_background(), ProgressDisplay(job.ceiling, progress) as display:
        summary = asyncio.run(work(display))
    if summary.exit_code == RESUMABLE:
        raise _stopped()
    return summary


def _stopped() -> InterruptionError:
    return InterruptionError("Stopped early: nothing was compared.", "Run the same command again.")


def _keep(found: Path, path: Path) -> bool:
    """Put what was found into the run directory, if that can be written."""
    try:
        with found.open("rb") as source, durable.replacing(path, 0o600) as file:
            shutil.copyfileobj(source, file)
    except OSError as error:
        reason = error.strerror or error
        console.write(f"{path} can't be written, and is left out: {reason}", Level.WARNING)
        return False
    return True


def _log(directory: RunDirectory, tally: Tally, found: Path) -> None:
    """Add what was found to the event log of the run, if that can be written."""
    try:
        log_verification(directory, tally, found)
    except BulkcertError as error:
        console.write(f"The event log does not say what was found. {error.problem}", Level.WARNING)


def _notify(directory: RunDirectory, manifest: RunManifest) -> None:
    """Have the command of `[notify]` get the event now, if the run has no process that does it."""
    job_file = job_file_of(directory.path, manifest.name, manifest.rehearsal)
    if job_file is None or manifest.rehearsal or directory.is_worked_on():
        return
    # the command is not worth an error of something that is done; `run` passes on what is left
    with contextlib.suppress(JobError, KeyboardInterrupt):
        job = load_job(job_file)
        display = ProgressDisplay(job.ceiling, wanted=False)
        asyncio.run(pass_on_events(job, directory, os.environ, display.show))


def _lines_of_differences(found: Path) -> Iterator[bytes]:
    """What differs, is not in a list, or could not be checked; one JSON object each."""
    with found.open("rb") as file:
        for line in file:
            if b'"difference":""' not in line:
                yield line.rstrip(b"\n")


def _figures(reader: StoreReader, summary: Summary) -> dict[str, Any]:
    manifest = reader.manifest()
    return {
        "name": manifest.name,
        "provider": manifest.provider,
        "action": manifest.action,
        "endpoint": manifest.connection.endpoint,
        "total": sum(reader.counts().values()),
        "ceiling": summary.ceiling,
        "requests": summary.requests,
        "started_at": summary.started_at,
        "finished_at": summary.finished_at,
    }


def _print_object(figures: dict[str, Any], found: Path, exit_code: int) -> None:
    lines = _lines_of_differences(found)
    first = [orjson.loads(line) for line in itertools.islice(lines, MOST_DIFFERENCES)]
    figures |= {
        "differences": first,
        "differences_left_out": sum(1 for _ in lines),
        "exit_code": exit_code,
    }
    console.print_json(figures)


def _print_for_people(found: Path, path: Path) -> None:
    """Print the first differences on a terminal, a line each."""
    lines = _lines_of_differences(found)
    for line in itertools.islice(lines, MOST_ON_TERMINAL):
        each = orjson.loads(line)
        target = " ".join(f"{name}={value}" for name, value in each["target"].items())
        console.print_text(as_text([f"{target} (line {each['line']}): {each['difference']}"]))
    if more := sum(1 for _ in lines):
        console.print_text(f"... and {more:,} more in {path}")


def _say(tally: Tally, waiting: int, reading: Run, lists: Sequence[RevocationList]) -> None:
    """Say for people what was found."""
    verdicts, listings = tally.verdicts, tally.listings
    parts = [
        count(verdicts[Verdict.AGREES], "agrees", "agree"),
        count(verdicts[Verdict.DIFFERS], "differs", "differ"),
    ]
    if unread := verdicts[Verdict.NOT_READ]:
        parts.append(f"{unread:,} could not be read")
    lines = []
    if waiting:
        lines.append(f"{count(waiting, 'operation is', 'operations are')} not settled yet.")
    if lists:
        found = [f"{listings[Listing.LISTED]:,} listed"]
        for listing, words in _LISTINGS.items():
            if number := listings[listing]:
                found.append(f"{number:,} {words}")
        where = "the revocation list" if len(lists) == 1 else "the revocation lists"
        looked_for = count(listings.total(), "revoked certificate")
        lines.append(f"Looked for {looked_for} in {where}: {', '.join(found)}.")
    for name, devices in tally.remarks().items():
        lines.append(f"{devices:,} x note: {reading.job.provider.remarks[name]}")
    console.write(
        f"Compared {count(verdicts.total(), 'operation')}: {', '.join(parts)}.",
        Level.RESULT,
        after="\n".join(lines),
        event="end",
        not_settled=waiting,
        **tally.as_object(),
    )


_LISTINGS = {
    Listing.NOT_LISTED: "not listed yet",
    Listing.EXPIRED: "expired, which need not be listed",
    Listing.NOT_COMPARED: "could not be compared",
}
