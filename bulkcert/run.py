"""One run of a job: the whole flow on one screen.

    job -> targets -> plan -> checkpoint -> dispatch -> provider -> outcome -> checkpoint -> report

`Run` is a context manager, because it holds the lock of its run directory:

    with Run(job, run_dir) as run:                      # checks all targets; sends nothing
        summary = await run.execute(credentials)        # until it is over, or run.stop() is called
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from bulkcert.circuit_breaker import CircuitBreaker
from bulkcert.dispatch import Dispatcher
from bulkcert.errors import (
    BulkcertError,
    CredentialsError,
    ProviderUnusableError,
    RunDirectoryError,
    StoreError,
)
from bulkcert.events import Event, Notice, Started
from bulkcert.job import Job
from bulkcert.model import State
from bulkcert.plan import Plan
from bulkcert.preparation import prepare
from bulkcert.progress import ProgressTracker
from bulkcert.providers import connect
from bulkcert.providers.base import ActionHandler, Provider, Setup
from bulkcert.providers.call import Source
from bulkcert.providers.clock import ProviderClock
from bulkcert.ratelimit import CAUTIOUS_UTILIZATION, Pacer
from bulkcert.report.summary import RESUMABLE, Summary, exit_code, is_finished
from bulkcert.retry import RetryPolicy
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session
from bulkcert.store.sqlite import SqliteStore
from bulkcert.store.writer import StoreWriter
from bulkcert.timings import Timings


def credentials_from(environment: Mapping[str, str], provider: Provider) -> dict[str, str]:
    """Take a provider's credentials out of environment variables.

    Raises:
        CredentialsError: some are missing.
    """
    missing = [name for name in provider.credentials if not environment.get(name)]
    if missing:
        raise CredentialsError(
            f"Credentials are missing: {' and '.join(missing)} not set.",
            "Set them in the environment; they are read from nowhere else.",
        )
    names = (*provider.credentials, *provider.optional_credentials)
    return {name: environment[name] for name in names if environment.get(name)}


class Run:
    """One execution of a job, kept in a run directory and resumable.

    Args:
        job: what to do.
        run_dir: where the run is kept; made if need be.
        rehearsal, retry_failed, stdin: see `bulkcert.preparation.prepare`.
        timings: how long to wait, and for what.

    Attributes:
        plan: what was planned, or None when an earlier process did that.
        counts: operations by state when the run was entered.

    Raises (on entering):
        TargetsError: the target file is bad.
        RunDirectoryError: the run directory is in use, or belongs to another job.
    """

    def __init__(
        self,
        job: Job,
        run_dir: Path,
        *,
        rehearsal: bool = False,
        retry_failed: bool = False,
        stdin: BinaryIO | None = None,
        timings: Timings = Timings(),
    ) -> None:
        self.job = job
        self.timings = timings
        self.directory = RunDirectory(run_dir, timings)
        self.plan: Plan | None = None
        self.counts: dict[State, int] = {}
        self._how = {"rehearsal": rehearsal, "retry_failed": retry_failed}
        self._stdin = stdin
        self._halt: Callable[[], object] = lambda: None
        self._stopping = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.directory)
            self.plan = prepare(self.job, self.directory, stdin=self._stdin, **self._how)
            with contextlib.closing(self.directory.reader()) as reader:
                self.counts = reader.counts()
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.directory.__exit__(kind, error, trace)

    @property
    def over(self) -> bool:
        """There was nothing left to do when the run was entered."""
        return is_finished(self.counts)

    def stop(self) -> None:
        """Send nothing new; `execute` returns when the open requests have ended."""
        self._stopping = True
        self._halt()

    async def execute(
        self,
        credentials: Mapping[str, str],
        on_event: Callable[[Event], object] = lambda event: None,
        *,
        endpoint: str | None = None,
    ) -> Summary:
        """Carry out what is left to do, and write the reports.

        Args:
            credentials: by the names of the environment variables.
            on_event: called on the event loop with everything that happens; must not block.
            endpoint: where to send, if not to the job's endpoint.

        Returns:
            The summary; its `exit_code` says how the run ended.

        Raises:
            CredentialsError, EndpointError: nothing was sent to the certificate API.
            BulkcertError: the run had to stop; the reports are written all the same.
        """
        failure: BulkcertError | None = None
        if not self.over:
            pacer, clock = Pacer(self.job.ceiling, timings=self.timings.pacer), ProviderClock()
            handler = connect(
                self.job.provider,
                Setup(
                    action=self.job.action,
                    endpoint=endpoint or self.job.connection.endpoint,
                    options=self.job.connection.options,
                    parameters=self.job.parameters,
                    credentials=credentials,
                    pace=pacer,
                    sources=_sources(self.job, pacer),
                    blocks_sources=self.job.provider.requests_per_second_per_source_ip is not None,
                    patience_s=self.job.circuit_breaker.stop_after_seconds,
                    tell=lambda text: on_event(Notice(text)),
                    timeout_s=self.job.limits.request_timeout_seconds,
                    ca_file=self.job.connection.ca_file,
                    selection=self.job.select,
                    keys=self.job.keys,
                    directory=self.directory.path,
                    clock=clock,
                    timings=self.timings,
                ),
            )
            opened, begun_at = False, time.time()
            try:
                opened = await self._unless_stopped(handler.open())
                if opened:
                    failure = await self._perform_all(handler, pacer, clock, on_event)
            except ProviderUnusableError as error:
                failure = error  # not reached at all, which is an early end like any other
            finally:
                await handler.close()
                if not opened:
                    self._note_opening(pacer, begun_at)
        try:
            summary = self.directory.write_reports()
        except (OSError, sqlite3.Error, RunDirectoryError) as error:
            raise failure or StoreError(
                f"The reports can't be written: {error}",
                "The checkpoint is good. Make room, then run the same command again.",
            ) from error
        if failure is not None:
            failure.exit_code = RESUMABLE  # whatever it was: requests were sent
            raise failure
        return summary

    def _note_opening(self, pacer: Pacer, begun_at: float) -> None:
        """Note what was sent by a process that got no further than that."""
        session = Session(
            started_at=begun_at,
            updated_at=time.time(),
            requests=pacer.departures,
            throttled=pacer.throttled_responses,
            busiest_second=pacer.busiest_second,
            exit_code=RESUMABLE,
        )
        # figures are no reason to hide why the process ends
        with contextlib.suppress(BulkcertError):
            checkpoint = SqliteStore(self.directory.checkpoint)
            with contextlib.closing(checkpoint), checkpoint.transaction():
                checkpoint.note_session(session)

    async def _perform_all(
        self,
        handler: ActionHandler,
        pacer: Pacer,
        clock: ProviderClock,
        on_event: Callable[[Event], object],
    ) -> BulkcertError | None:
        """Work until all is settled or something ends it; return that, unless it was `stop`."""
        job = self.job
        breaker = CircuitBreaker(
            job.circuit_breaker.failing_share,
            job.circuit_breaker.stop_after_seconds,
            asyncio.get_running_loop().time,
            self.timings.circuit_breaker,
        )
        tracker = ProgressTracker(self.counts, pacer, breaker, on_event)
        writer = StoreWriter(
            SqliteStore(self.directory.checkpoint, clock.now),
            on_durable=tracker.durable,
            on_error=lambda error: dispatcher.stop(error),
            commit_every_s=self.timings.commit_every_s,
        )
        dispatcher = Dispatcher(
            handler,
            writer,
            RetryPolicy(
                job.retry.max_attempts,
                job.action.changes,
                handler.idempotent,
                timings=self.timings,
            ),
            breaker,
            ceiling=job.ceiling,
            in_flight=job.limits.in_flight,
        )
        on_event(Started(tracker.total, tracker.settled))
        writer.start()
        ticking = asyncio.create_task(
            _tick(tracker, writer, on_event, self.timings.progress_every_s)
        )
        self._halt = dispatcher.stop
        failure: BulkcertError | None = None
        finished = False
        try:
            finished = await dispatcher.run()
            await writer.flush()
        except BulkcertError as error:
            failure = error
        finally:
            self._halt = lambda: None
            ticking.cancel()
            last = tracker.tick()
            code = exit_code(dict(last.settled)) if finished else RESUMABLE
            writer.note_session(tracker.session(last.rate, "", code))
            try:
                await writer.close()
            except BulkcertError as error:
                failure = failure or error
        on_event(last)
        return failure

    async def _unless_stopped(self, opening: Coroutine[Any, Any, None]) -> bool:
        """Await the opening; return False if `stop` came before it was done."""
        task = asyncio.create_task(opening)
        self._halt = task.cancel
        if self._stopping:
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            return False
        task.result()
        return not self._stopping


def _sources(job: Job, pacer: Pacer) -> tuple[Source, ...]:
    """The job's addresses: each with a limit of its own, if there is one, under that of all."""
    addresses = job.connection.source_addresses or (None,)
    each = job.limits.requests_per_second_per_source_ip
    if each is None:
        return tuple(Source(address, pacer) for address in addresses)
    return tuple(
        Source(address, Pacer(each, utilization=CAUTIOUS_UTILIZATION, parent=pacer))
        for address in addresses
    )


async def _tick(
    tracker: ProgressTracker,
    writer: StoreWriter,
    on_event: Callable[[Event], object],
    every_s: float,
) -> None:
    while True:
        await asyncio.sleep(every_s)
        progress = tracker.tick()
        writer.note_session(tracker.session(progress.rate, progress.note))
        on_event(progress)
