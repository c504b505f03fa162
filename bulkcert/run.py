"""One run of a job: planned or continued, carried out, reported.

`Run` is a context manager because it locks its run directory:

    with Run(job, run_dir) as run:                      # checks all targets; sends nothing
        summary = await run.execute(credentials)        # until it is finished, or run.stop()
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from bulkcert.errors import BulkcertError, StoreError
from bulkcert.events import Listener, shielded
from bulkcert.execution import Execution
from bulkcert.job import Job
from bulkcert.model import State
from bulkcert.plan import Plan
from bulkcert.preparation import prepare
from bulkcert.report.summary import RESUMABLE, Summary, is_finished
from bulkcert.rundir import RunDirectory
from bulkcert.timings import Timings
from bulkcert.wiring import wire

RETRIED = (State.FAILED, State.FLAWED, State.UNKNOWN)
"""The states of operations that are retried on request."""


class Run:
    """One run of a job, kept in a run directory and resumable.

    Args:
        job: what to do.
        run_dir: where the run is kept; created if needed.
        rehearsal, stdin: see `bulkcert.preparation.prepare`.
        retry_failed: also retry operations that failed or are unknown. Nothing about them changes
            before `execute` knows that the credentials are accepted.
        timings: how long to wait, and for what.

    Attributes:
        job: what to do.
        directory: where the run is kept.
        plan: what was planned, or None if an earlier process did that.
        counts: number of operations by state when the run was entered.
        retried: how many of them failed or are unknown, and will be retried.

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
        self.retried = 0
        self._rehearsal, self._retry_failed, self._stdin = rehearsal, retry_failed, stdin
        self._timings = timings
        self._execution: Execution | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.directory)
            self.plan = prepare(
                self.job, self.directory, rehearsal=self._rehearsal, stdin=self._stdin
            )
            with contextlib.closing(self.directory.reader()) as reader:
                self.counts = reader.counts()
            if self._retry_failed:
                self.retried = sum(self.counts.get(state, 0) for state in RETRIED)
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
        return is_finished(self.counts) and not self.retried

    def stop(self) -> None:
        """Send nothing new; `execute` returns when the requests in flight have ended."""
        self._stopping = True
        if self._execution is not None:
            self._execution.stop()

    async def execute(
        self,
        credentials: Mapping[str, str],
        on_event: Listener = lambda event: None,
        *,
        endpoint: str | None = None,
    ) -> Summary:
        """Carry out what is left to do, and write the reports.

        Args:
            credentials: by the names of their environment variables.
            on_event: called on the event loop with every event; must not block. What it raises goes
                to the loop's exception handler, and does not disturb the run.
            endpoint: where to send requests, instead of the job's endpoint.

        Returns:
            The summary. Its `exit_code` says how the run ended.

        Raises:
            CredentialsError, EndpointError: nothing was sent to the certificate API.
            BulkcertError: the run had to stop. The reports are written nevertheless, as they are
                after any other exception.
        """
        failure = None
        if not self.finished:
            try:
                failure = await self._carry_out(credentials, shielded(on_event), endpoint)
            except BulkcertError:
                raise
            except BaseException:  # a fault of ours, or the caller has cancelled this task
                with contextlib.suppress(Exception):
                    self.directory.write_reports()
                raise
        if failure is None:
            return self.directory.write_reports()
        failure.exit_code = RESUMABLE  # whatever it is by itself: requests were sent
        with contextlib.suppress(StoreError):
            self.directory.write_reports()
        raise failure

    async def _carry_out(
        self, credentials: Mapping[str, str], on_event: Listener, endpoint: str | None
    ) -> BulkcertError | None:
        self._execution = await wire(
            self.job,
            self.directory,
            self.counts,
            credentials,
            on_event,
            endpoint=endpoint,
            retry_failed=bool(self.retried),
            timings=self._timings,
        )
        if self._stopping:
            self._execution.stop()
        return await self._execution.carry_out()
