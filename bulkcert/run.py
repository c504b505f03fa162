"""One run of a job, and the one place where the stages are wired together.

    targets -> plan -> store -> dispatch -> provider -> result -> lifecycle -> store -> report

`Run` is a context manager because it locks its run directory:

    with Run(job, run_dir) as run:                      # checks all targets; sends nothing
        summary = await run.execute(credentials)        # until it is finished, or run.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from bulkcert.circuit_breaker import CircuitBreaker
from bulkcert.dispatch import Dispatcher
from bulkcert.errors import StoreError
from bulkcert.events import Event, Notice
from bulkcert.execution import Execution
from bulkcert.job import Job
from bulkcert.lifecycle import Lifecycle
from bulkcert.model import State
from bulkcert.plan import Plan
from bulkcert.preparation import prepare
from bulkcert.progress import ProgressTracker
from bulkcert.providers import connect
from bulkcert.providers.base import ActionHandler, Setup
from bulkcert.providers.call import Source
from bulkcert.providers.clock import ProviderClock
from bulkcert.ratelimit import CAUTIOUS_UTILIZATION, Pacer
from bulkcert.report.summary import RESUMABLE, Summary, is_finished
from bulkcert.rundir import RunDirectory
from bulkcert.store.sqlite import SqliteStore
from bulkcert.store.writer import StoreWriter
from bulkcert.timings import Timings


class Run:
    """One run of a job, kept in a run directory and resumable.

    Args:
        job: what to do.
        run_dir: where the run is kept; created if needed.
        rehearsal, retry_failed, stdin: see `bulkcert.preparation.prepare`.
        timings: how long to wait, and for what.

    Attributes:
        job: what to do.
        directory: where the run is kept.
        plan: what was planned, or None if an earlier process did that.
        counts: number of operations by state when the run was entered.

    Raises (on entering):
        TargetsError: the target file can't be used, or has bad rows.
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
        self.directory = RunDirectory(run_dir, timings)
        self.plan: Plan | None = None
        self.counts: dict[State, int] = {}
        self._rehearsal, self._retry_failed, self._stdin = rehearsal, retry_failed, stdin
        self._timings = timings
        self._execution: Execution | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.directory)
            self.plan = prepare(
                self.job,
                self.directory,
                rehearsal=self._rehearsal,
                retry_failed=self._retry_failed,
                stdin=self._stdin,
            )
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
    def finished(self) -> bool:
        """Whether nothing was left to do when the run was entered."""
        return is_finished(self.counts)

    def stop(self) -> None:
        """Send nothing new; `execute` returns when the requests in flight have ended."""
        self._stopping = True
        if self._execution is not None:
            self._execution.stop()

    async def execute(
        self,
        credentials: Mapping[str, str],
        on_event: Callable[[Event], object] = lambda event: None,
        *,
        endpoint: str | None = None,
    ) -> Summary:
        """Carry out what is left to do, and write the reports.

        Args:
            credentials: by the names of their environment variables.
            on_event: called on the event loop with every event; must not block.
            endpoint: where to send requests, instead of the job's endpoint.

        Returns:
            The summary. Its `exit_code` says how the run ended.

        Raises:
            CredentialsError, EndpointError: nothing was sent to the certificate API.
            BulkcertError: the run had to stop. The reports are written nevertheless.
        """
        failure = None
        if not self.finished:
            self._execution = self._wire(credentials, on_event, endpoint)
            if self._stopping:
                self._execution.stop()
            failure = await self._execution.carry_out()
        if failure is None:
            return self.directory.write_reports()
        failure.exit_code = RESUMABLE  # whatever it is by itself: requests were sent
        with contextlib.suppress(StoreError):
            self.directory.write_reports()
        raise failure

    def _wire(
        self,
        credentials: Mapping[str, str],
        on_event: Callable[[Event], object],
        endpoint: str | None,
    ) -> Execution:
        """Connect the stages. Nothing is sent yet."""
        job, timings = self.job, self._timings
        pacer, clock = Pacer(job.ceiling, timings=timings.pacer), ProviderClock()
        store = SqliteStore(self.directory.checkpoint, clock.now)
        try:
            handler = self._connect(pacer, clock, credentials, on_event, endpoint)
        except BaseException:
            store.close()
            raise
        breaker = CircuitBreaker(
            job.circuit_breaker.failing_share,
            job.circuit_breaker.stop_after_seconds,
            asyncio.get_running_loop().time,
            timings.circuit_breaker,
        )
        tracker = ProgressTracker(self.counts, pacer, breaker, on_event)
        writer = StoreWriter(
            store,
            on_durable=tracker.durable,
            on_error=lambda error: dispatcher.stop(error),
            commit_every_s=timings.commit_every_s,
        )
        dispatcher = Dispatcher(
            handler.steps,
            writer,
            Lifecycle([step.rules for step in handler.steps], job.retry.max_attempts, timings),
            breaker,
            ceiling=job.ceiling,
            in_flight=job.limits.in_flight,
        )
        return Execution(
            handler=handler,
            dispatcher=dispatcher,
            writer=writer,
            tracker=tracker,
            on_event=on_event,
            progress_every_s=timings.progress_every_s,
        )

    def _connect(
        self,
        pacer: Pacer,
        clock: ProviderClock,
        credentials: Mapping[str, str],
        on_event: Callable[[Event], object],
        endpoint: str | None,
    ) -> ActionHandler:
        """Make what carries out the job's action."""
        # imported here because most commands do without a network library
        from bulkcert.providers.sources import open_channel

        job = self.job
        endpoint = endpoint or job.connection.endpoint
        channel = open_channel(
            endpoint,
            _sources(job, pacer),
            pacer,
            timeout_s=job.limits.request_timeout_seconds,
            patience_s=job.circuit_breaker.stop_after_seconds,
            notify=lambda text: on_event(Notice(text)),
            ca_file=job.connection.ca_file,
            blocks_sources=job.provider.requests_per_second_per_source_ip is not None,
            timings=self._timings,
        )
        return connect(
            job.provider,
            Setup(
                action=job.action,
                channel=channel,
                endpoint=endpoint,
                options=job.connection.options,
                parameters=job.parameters,
                credentials=credentials,
                selection=job.select,
                keys=job.keys,
                directory=self.directory.path,
                clock=clock,
                timings=self._timings,
            ),
        )


def _sources(job: Job, pacer: Pacer) -> tuple[Source, ...]:
    """The job's source addresses: each with its own limit, if there is one, below that of all."""
    addresses = job.connection.source_addresses or (None,)
    limit = job.limits.requests_per_second_per_source_ip
    if limit is None:
        return tuple(Source(address, pacer) for address in addresses)
    return tuple(
        Source(address, Pacer(limit, utilization=CAUTIOUS_UTILIZATION, parent=pacer))
        for address in addresses
    )
