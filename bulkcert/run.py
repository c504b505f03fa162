"""One run of a job: planned or continued, carried out, reported.

`Run` is a context manager because it locks its run directory:

    with Run(job, run_dir) as run:           # checks all targets; sends nothing
        summary = await run.execute()        # until it is finished, or run.stop()

However the work ends, what was sent is on record, and the same job continues from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from uuid import UUID

from bulkcert import event_log
from bulkcert.amendment import Amendment
from bulkcert.approval.statement import Subject
from bulkcert.approval.verdict import Approved, Verdict, require
from bulkcert.control import control_after
from bulkcert.credentials import credentials_from
from bulkcert.decisions import record_amendment, record_approvals, record_override
from bulkcert.errors import (
    BulkcertError,
    CommitsLostError,
    LeaseLostError,
    RepetitionError,
    RunDirectoryError,
    StoppedByRulesError,
    StoreError,
    StoreVersionError,
)
from bulkcert.events import Listener, Notice, shielded
from bulkcert.execution import Execution
from bulkcert.job import Job
from bulkcert.job_files import files_of
from bulkcert.metrics.figures import Recorder
from bulkcert.metrics.file import MetricsFile
from bulkcert.model import State
from bulkcert.notifier import Notifier
from bulkcert.numbering import Place, first_of, following, named, numbered
from bulkcert.plan import Plan
from bulkcert.plan_hash import PlanHash
from bulkcert.preparation import amendment_of, has_begun, join, prepare
from bulkcert.process_log import close_log
from bulkcert.rejections import skip_options
from bulkcert.repetition import OnceOnly, refuse_lost
from bulkcert.report.summary import RESUMABLE, Summary, is_finished, outcome_counts
from bulkcert.rundir import RunDirectory
from bulkcert.runs import place_of
from bulkcert.shared_numbering import RunsOfJob
from bulkcert.stopped import refuse_bad_override, refuse_unknown_wave, stopped_by
from bulkcert.store.base import Abort, pending_abort
from bulkcert.store.manifest import called
from bulkcert.store.place import SharedPlace
from bulkcert.store_url import VARIABLE, chosen
from bulkcert.threads import in_thread
from bulkcert.timings import Timings
from bulkcert.wiring import Steering, Transport, notifier_of, wire

RETRIED = (State.FAILED, State.FLAWED, State.UNKNOWN)
"""The states of operations that are retried on request."""


class Run:
    """One run of a job, kept in a run directory and resumable.

    A context manager: the run directory is locked inside. `execute` may be awaited there as often
    as wanted, on any event loop; each time it goes on where the last one stopped.

    Args:
        job: what to do.
        run_dir: where the run is kept; created if needed. By default `runs/NAME` beside the job
            file, as for the command.
        retry_failed: also retry operations that failed or are unknown, once. Nothing about them
            changes before `execute` knows that the credentials are accepted.
        skip_rejected: leave bad rows out when the run is planned. Without it, they are an error.
        skip_protected: the same for rows that must not be touched.
        transport: sends the requests instead of the network, for tests; see `bulkcert.testing`.
        rehearsal: mark a new run as a rehearsal, which no real run may continue.
        stdin: where targets come from if the job reads them from standard input.
        new: begin the next run of a job whose run before is over; it is kept beside that one, in
            `runs/NAME-2` by default. A rehearsal begins anew without it.
        amend: the limits and rules of the job may have changed since the run began: `execute` goes
            on with those that it has now, and records the change.
        timings: how long to wait, and for what.
        override: the id of the abort that has stopped the run: go on nevertheless.
        why: the reason for that; required with it.
        until: name of the wave after which `execute` returns, with exit code 3; empty for none.
        wait: wait for change windows, between waves, for a `go` and for the end of a pause;
            otherwise `execute` returns, with exit code 3.
        store: the URL of the shared store in which the run is kept, so that several hosts can work
            on it. By default that of the job, or else that in `BULKCERT_STORE`. Empty for that of
            the job or none, whatever the environment says.
        joins: the number of a run in the shared store that has begun: work on it as it was planned,
            without the target file. None to plan a run, or to go on with the latest.

    Attributes:
        job: what to do.
        directory: where the run is kept; `directory.path` is its path.
        store: the shared store in which the run is; empty for none.
        plan: what was planned, or None if an earlier process did that.
        counts: number of operations by state when the run was entered, or `execute` last ended.
        retried: how many of them failed or are unknown, and will be retried.
        amendment: how the job changes the limits and rules of the run; None if it does not.
        pending: the abort that has stopped the run; None if there is none.

    Raises:
        RunDirectoryError: the job has no file in a folder, so the directory must be named.

    Raises (on entering):
        TargetsError: the target file can't be used, or has bad rows or some that must not be
            touched.
        ProtectionError: a never-touch list can't be used, or there are too many operations.
        RunDirectoryError: the run directory is in use, or belongs to another job.
        RuntimeError: the run is entered already.
    """

    def __init__(
        self,
        job: Job,
        run_dir: str | os.PathLike[str] | None = None,
        *,
        skip_rejected: bool = False,
        skip_protected: bool = False,
        retry_failed: bool = False,
        transport: Transport | None = None,
        rehearsal: bool = False,
        stdin: BinaryIO | None = None,
        new: bool = False,
        amend: bool = False,
        timings: Timings = Timings(),
        override: str = "",
        why: str = "",
        until: str = "",
        wait: bool = True,
        store: str | None = None,
        joins: int | None = None,
    ) -> None:
        self._transport = transport
        self._rehearsal = rehearsal or transport is not None
        self.store = ""
        if not self._rehearsal:
            self.store = chosen(job.store, store or "", {} if store == "" else os.environ)
        self.job = job = dataclasses.replace(job, store=self.store)
        self._joins = joins
        place = self._place(run_dir, new=new)
        self._number = place.number
        name = called(job.name, rehearsal=self._rehearsal, number=self._number)
        stored = SharedPlace(self.store, name) if self.store else None
        self.directory = RunDirectory(place.path, timings, stored)
        self._recorder = Recorder(job, name, rehearsal=self._rehearsal)
        self._once_only = job.action.changes and not self._rehearsal
        self._once: OnceOnly | None = None
        self.plan: Plan | None = None
        self.amendment: Amendment | None = None
        self._amend = amend
        self.counts: dict[State, int] = {}
        self.retried = 0
        self.pending: Abort | None = None
        self._last_control = 0  # before this process, or the last `execute`
        self._retry_failed, self._stdin = retry_failed, stdin
        self._skip_rejected, self._skip_protected = skip_rejected, skip_protected
        self._override, self._why = override, why
        self._until, self._wait = until, wait
        self._timings = timings if transport is None else transport.timings
        self._entered = False
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None  # while it is executed
        self._execution: Execution | None = None
        self._notifier: Notifier | None = None

    def __repr__(self) -> str:
        counts = [f"{count:,} {name}" for name, count in outcome_counts(self.counts).items()]
        state = ", ".join(text for text in counts if not text.startswith("0 ")) or "not entered"
        return f"<Run of {self.job.name!r} in {self.directory.path}: {state}>"

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("This run is entered already: use one `with` block at a time.")
        self._refuse_other_store()
        if self._once_only and not self.store:
            refuse_lost(self.directory.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.directory)
            self.plan = self._prepared()
            self._count()
            self.amendment = None if self.finished else amendment_of(self.job, self.directory)
            self._refuse_bad_steering()
            self._refuse_repetition()
            stack.pop_all()
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered = False
        self.stop()  # in case somebody else awaits `execute`, which then unlocks the directory
        self._unlock_if_left()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, as of `counts`."""
        return is_finished(self.counts) and not self.retried

    @property
    def plan_hash(self) -> PlanHash:
        """What identifies the plan that is carried out, with the limits and rules of the job.

        Raises:
            JobError: a file that a rule names can't be read.
        """
        plan = self.directory.manifest().plan
        return plan if self.finished else PlanHash.within(plan, self.job)

    @property
    def is_joining(self) -> bool:
        """Whether other hosts work on the run."""
        return self.directory.place.is_shared and self.directory.is_worked_on()

    @property
    def open_requests(self) -> int:
        """Requests that have left and have not ended."""
        return self._execution.dispatcher.open_requests if self._execution else 0

    @property
    def in_doubt(self) -> int:
        """Operations that may have been executed, and of which that is not known yet."""
        return self._execution.dispatcher.in_doubt if self._execution else 0

    def approvals(self) -> tuple[Approved, ...]:
        """Who has approved what `execute` is about to begin; empty if nobody has to.

        `execute` asks by itself. This only shows the answer before.

        Raises:
            ApprovalError: too few people have.
        """
        subject = self._needs_approval()
        return require(subject, time.time()).approved if subject else ()

    def metrics(self) -> bytes:
        """Return the latest figures in the text format of Prometheus, as in `metrics.prom`.

        May be called from any thread, also before the run is entered.
        """
        # imported here because most commands do without
        from bulkcert.metrics.exposition import text

        return text(self._recorder.latest)

    def stop(self) -> None:
        """Send nothing new; `execute` returns when the requests in flight have ended.

        May be called from any thread, and before `execute`, which then returns at once.
        """
        self._stopping = True
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
                loop.call_soon_threadsafe(self._pass_on_stop)

    async def execute(
        self,
        credentials: Mapping[str, str] | None = None,
        on_event: Listener | None = None,
        *,
        endpoint: str | None = None,
    ) -> Summary:
        """Carry out what is left to do, and write the reports.

        If the task is cancelled, the run is stopped as by `stop` before `CancelledError` is raised;
        if it is cancelled twice, what is in flight is not awaited, but looked up the next time.

        Args:
            credentials: by the names of their environment variables; by default they are read from
                the environment, see `credentials_from`.
            on_event: called on the event loop with every event; must not block. What it raises goes
                to the loop's exception handler, and does not disturb the run.
            endpoint: where to send requests, instead of the job's endpoint.

        Returns:
            The summary. Its `exit_code` says how the run ended.

        Raises:
            ApprovalError, CredentialsError, EndpointError: nothing was sent to the certificate API.
            BulkcertError: the run had to stop. The reports are written nevertheless, as they are
                after any other exception.
            RuntimeError: the run is not entered, or is being executed already.
            TypeError: `on_event` is a coroutine function; nobody would await what it returns.
        """
        if not self._entered:
            raise RuntimeError("This run is not entered: `with Run(...) as run:` comes first.")
        if self._loop is not None:
            raise RuntimeError("This run is being executed already.")
        listener = _listener(on_event)
        self._loop = asyncio.get_running_loop()
        try:
            return await self._to_the_end(
                asyncio.create_task(self._measured(self._execute(credentials, listener, endpoint)))
            )
        finally:
            self._loop, self._execution, self._stopping = None, None, False
            self._notifier = None
            self._unlock_if_left()

    def _prepared(self) -> Plan | None:
        """Make sure that there is a run for the job; return the plan, if a new one was made."""
        if self._joins is not None:
            join(self.job, self.directory)
            return None
        return prepare(
            self.job,
            self.directory,
            rehearsal=self._rehearsal,
            replace=self._transport is None,
            skip_rejected=self._skip_rejected,
            skip_protected=self._skip_protected,
            stdin=self._stdin,
            number=self._number,
            retry_failed=self._retry_failed,
            amend=self._amend,
        )

    def _refuse_bad_steering(self) -> None:
        """Check that the abort is the pending one, and that the wave is one of the run.

        Raises:
            OverrideError: it is not.
        """
        if self._override:
            refuse_bad_override(self.job, self.directory.path, self._override, self.pending)
        if self._until:
            with contextlib.closing(self.directory.reader()) as reader:
                refuse_unknown_wave(self._until, [wave.name for wave in reader.waves()])

    def _unlock_if_left(self) -> None:
        if not self._entered and self._loop is None:
            self.directory.__exit__(None, None, None)
            self._stopping = False

    async def _to_the_end(self, work: asyncio.Task[Summary]) -> Summary:
        """Wait for the work, which a cancellation of the caller must not leave half done."""
        cancelled = 0
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled == 1:
                    self._stopping = True
                    self._pass_on_stop()
                elif cancelled == 2:
                    work.cancel()
        if cancelled:
            raise asyncio.CancelledError from None if work.cancelled() else work.exception()
        return work.result()

    def _place(self, run_dir: str | os.PathLike[str] | None, *, new: bool) -> Place:
        new = new and not self._rehearsal
        if run_dir is not None:
            path = Path(run_dir)
            if self._joins is not None:
                return Place(path, self._joins)
            if self.store:
                runs = RunsOfJob(self.store, self.job.name)
                if new:
                    return numbered(first_of(path), runs.following())
                return Place(path, runs.latest())
            return following(path, self.job.name) if new else named(path)
        if self.job.file is None:
            raise RunDirectoryError(
                "A job that a program has built has no file, so there is no place beside it to keep"
                " its run.",
                "Name a directory: Run(job, run_dir).",
            )
        return place_of(
            self.job.file, self.job.name, self.store, rehearsal=self._rehearsal, new=new
        )

    def _refuse_other_store(self) -> None:
        """Refuse to begin anew on this machine what is in a shared store.

        Raises:
            RunDirectoryError: the directory was used for a run in a shared store.
        """
        place = self.directory.place
        if place.is_shared and not self.store:
            raise RunDirectoryError(
                f"{self.directory.path} was used for the run {place.describe()}, and now no shared"
                " store is named. Here, everything would be done again.",
                f"Name it: with --store, with `store` in the job, or in {VARIABLE}.",
            )

    def _refuse_repetition(self) -> None:
        """Refuse to carry out a plan for the second time. What only reads may be repeated.

        Raises:
            RepetitionError: the plan was begun before, in another run.
        """
        if not self._once_only or self.finished:
            return
        self._once = OnceOnly(self.job, self.directory)
        try:
            self._once.check()
        except RepetitionError:
            if self.plan is not None and not self.store:  # another host may have published it
                self.directory.remove_run()
            raise

    def _pass_on_stop(self) -> None:
        if self._execution is not None:
            self._execution.stop()
        if self._notifier is not None:
            self._notifier.hurry()

    async def _measured(self, work: Coroutine[Any, Any, Summary]) -> Summary:
        """Do the work, and keep the metrics up to date until it has ended."""
        file = MetricsFile(self.directory.metrics, self.metrics, self._timings.metrics)
        self._recorder.begin(self.counts)
        file.start()
        code = RESUMABLE
        try:
            summary = await work
            code = summary.exit_code
            return summary
        except BulkcertError as error:
            code = error.exit_code
            raise
        finally:
            self._recorder.end(code)
            await in_thread(file.close)

    async def _execute(
        self, credentials: Mapping[str, str] | None, on_event: Listener, endpoint: str | None
    ) -> Summary:
        """Do the work; what the log gets goes to the command of the job, if it has one."""
        known = os.environ if credentials is None else credentials
        job = dataclasses.replace(self.job, notify=None) if self._rehearsal else self.job
        notifier = notifier_of(job, self.directory, known, on_event, self._timings, self._lease)
        if notifier is None:
            return await self._work(credentials, on_event, endpoint)
        self._notifier = notifier
        async with notifier:
            try:
                return await self._work(credentials, notifier.listen, endpoint)
            finally:
                notifier.unrecorded = self._unrecorded()

    def _lease(self) -> UUID | None:
        """The lease of the present life of this process; None if it has none."""
        lease = self._execution.life.lease if self._execution is not None else None
        return None if lease is None else lease.id

    def _unrecorded(self) -> Mapping[str, Any] | None:
        """The end of this process as an object, if it could not be recorded."""
        if self._execution is None or (happened := self._execution.unrecorded) is None:
            return None
        run, plan = self._recorder.latest.run, ""
        with contextlib.suppress(BulkcertError):  # the disk may have failed altogether
            manifest = self.directory.manifest()
            run, plan = manifest.run, manifest.plan.hash
        return event_log.unrecorded(run, plan, happened)

    async def _work(
        self, credentials: Mapping[str, str] | None, on_event: Listener, endpoint: str | None
    ) -> Summary:
        failure = None
        lifted = self.pending and self.amendment and self.amendment.lifts(self.pending.rule)
        if self.pending is not None and not self._override and not lifted:
            raise stopped_by(self.job, self.directory.path, self.pending)
        if not self.finished or self._override:
            still_approved = await self._require_approval()
            if self._transport is None:
                given = os.environ if credentials is None else credentials
                credentials = credentials_from(given, self.job.provider, self.job.passwords)
            elif credentials is None:
                credentials = self._transport.credentials
            try:
                if self._override:
                    await in_thread(self._go_on_nevertheless)
                if self.amendment is not None:
                    await in_thread(self._record_amendment)
                failure = await self._carry_out(credentials, on_event, endpoint, still_approved)
            except BulkcertError:
                raise
            except BaseException:  # a fault of ours, or the caller has cancelled its task twice
                with contextlib.suppress(Exception):
                    await self._report()
                raise
        else:
            await in_thread(lambda: close_log(self.directory, self.job.rules))
        if failure is None:
            return await self._report()
        if not isinstance(failure, StoppedByRulesError):
            failure.exit_code = RESUMABLE  # whatever it is by itself: requests were sent
        with contextlib.suppress(StoreError):
            await self._report()
        raise failure

    def _needs_approval(self) -> Subject | None:
        """What people must have approved before this process begins anything; None if nothing."""
        changes = bool(self._override) or self.amendment is not None
        begins = changes or not (self.pending or has_begun(self.directory))
        if self._rehearsal or not self.job.rules.needed_approval or not begins:
            return None
        manifest = self.directory.manifest()
        return Subject(
            job=self.job,
            plan=self.plan_hash,
            run=manifest.number,
            abort=self._override,
            skipped=skip_options(manifest.left_out, manifest.protected),
            fingerprints=self.directory.fingerprints,
        )

    async def _require_approval(self) -> Callable[[], Verdict | None]:
        """Refuse to begin without approvals.

        Returns:
            What refuses it when the first operation is claimed: approvals and keys may have expired
            by then, and others may have approved.

        Raises:
            ApprovalError: too few people have approved.
        """
        if (subject := self._needs_approval()) is None:
            return lambda: None

        def check() -> Verdict:
            plan = self.plan_hash  # the files that rules name may have changed as well
            return require(dataclasses.replace(subject, plan=plan), time.time())

        await in_thread(check)
        return check

    async def _carry_out(
        self,
        credentials: Mapping[str, str],
        on_event: Listener,
        endpoint: str | None,
        still_approved: Callable[[], Verdict | None],
    ) -> BulkcertError | None:
        begun, loop = False, asyncio.get_running_loop()

        def begin() -> None:
            nonlocal begun
            if begun:  # in an earlier life
                return
            if verdict := still_approved():
                execution.writer.write(lambda store: record_approvals(store, verdict))
            if self._once is not None and (warning := self._once.begin()):
                loop.call_soon_threadsafe(on_event, Notice(warning))
            begun = True

        async def begin_life() -> Execution:
            return await wire(
                self.job,
                self.directory,
                self.counts,
                credentials,
                on_event,
                recorder=self._recorder,
                endpoint=endpoint,
                steering=Steering(
                    retry_failed=bool(self.retried),
                    until=self._until,
                    wait=self._wait,
                    stop_after=self._last_control,
                    on_begin=begin,
                ),
                timings=self._timings,
                transport=self._transport,
            )

        with self._resumable():
            execution = await begin_life()
        while True:
            self._execution = execution
            if self._stopping:
                execution.stop()
            elif self.directory.place.is_shared:
                try:
                    await in_thread(self._refuse_amended)
                except BulkcertError as error:
                    execution.stop(error)
            try:
                failure = await execution.carry_out()
            except LeaseLostError as error:  # before anything was begun
                failure = error
            finally:
                self._retry_failed = self._retry_failed and not execution.retried
            if not isinstance(failure, LeaseLostError) or self._stopping:
                return failure
            on_event(Notice(f"{failure.problem} It begins anew."))
            with self._resumable():
                execution = await self._begin_anew(begin_life)

    def _refuse_amended(self) -> None:
        """Refuse rules that are not those of the run any more. To be called when this host is known
        to others: then nobody can amend the run.

        Raises:
            RunDirectoryError: somebody has, since this process looked at them.
        """
        if amendment_of(self.job, self.directory) is not None:
            raise RunDirectoryError(
                "Somebody has just amended the run.",
                "Change the job of this host in the same way, then run the same command again.",
            )

    async def _begin_anew(self, begin_life: Callable[[], Awaitable[Execution]]) -> Execution:
        """Begin another life, also if the store is out of reach for a while."""
        give_up_at = time.monotonic() + self._timings.hosts.new_life_patience_s
        while True:
            try:
                await in_thread(self._count)
                return await begin_life()
            except CommitsLostError:
                raise
            except (StoreError, RunDirectoryError) as error:
                is_final = isinstance(error.__cause__ or error, StoreVersionError)
                if is_final or self._stopping or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(self._timings.hosts.watch_every_s)

    @contextlib.contextmanager
    def _resumable(self) -> Iterator[None]:
        """A shared store that can't be read when a host begins is worth another attempt: this ends
        with the exit code that says so."""
        try:
            yield
        except RunDirectoryError as error:
            if self.directory.place.is_shared:
                raise StoreError(error.problem, error.next_step) from error
            raise

    def _go_on_nevertheless(self) -> None:
        """Store that somebody overrides the abort."""
        self.directory.commit(lambda store: record_override(store, self._override, self._why))
        self._override, self.pending = "", None

    def _record_amendment(self) -> None:
        """Store what changes from here on, by whom."""
        assert self.amendment is not None
        manifest, amendment = self.directory.manifest(), self.amendment
        self.directory.commit(
            lambda store: record_amendment(store, manifest, amendment, self.pending)
        )
        if isinstance(self.directory.place, SharedPlace):
            self.directory.place.keep_files(files_of(self.job))
        if self.pending is not None and amendment.lifts(self.pending.rule):
            self.pending = None
        self.amendment = None

    async def _report(self) -> Summary:
        """Write the reports, and count; in a thread, because other runs may use the loop."""

        def report() -> Summary:
            summary = self.directory.write_reports()
            if self._once is not None:
                self._once.end()
            self._count()
            return summary

        return await in_thread(report)

    def _count(self) -> None:
        with contextlib.closing(self.directory.reader()) as reader:
            self.counts = reader.counts()
            self._recorder.stands(self.counts, reader.sessions())
            self.pending = pending_abort(reader.aborts())
            self._last_control = control_after(reader.controls()).last_id
        retried = RETRIED if self._retry_failed else ()
        self.retried = sum(self.counts.get(state, 0) for state in retried)


def _listener(on_event: Listener | None) -> Listener:
    if inspect.iscoroutinefunction(on_event):
        raise TypeError("on_event must be an ordinary function, which may start a task.")
    return shielded(on_event) if on_event is not None else lambda event: None
