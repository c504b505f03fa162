"""The stages of a run, wired together: the whole flow on one screen.

store -> dispatch -> pacer -> provider -> result -> lifecycle -> store -> report
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from uuid import UUID

from bulkcert.check import Checker, Situation
from bulkcert.circuit_breaker import CircuitBreaker
from bulkcert.control import pause_file
from bulkcert.credentials import STAND_IN_PASSWORD, password_from
from bulkcert.dispatch import CLAIM_AHEAD_S, Dispatcher
from bulkcert.event_file import catch_up
from bulkcert.event_log import RunEvent
from bulkcert.events import Listener, Notice
from bulkcert.execution import Execution, RunningCheck
from bulkcert.horizon import Horizon
from bulkcert.hosts.life import Life, LifeAlone, SharedLife
from bulkcert.hosts.steward import Steward
from bulkcert.jitter import Jitter
from bulkcert.job import Job
from bulkcert.job_commands import outside_command
from bulkcert.lifecycle import Lifecycle
from bulkcert.metrics.figures import Recorder
from bulkcert.model import Fields, Outcome, State
from bulkcert.never_touch import refusing
from bulkcert.notifier import Notifier, StoredEvents
from bulkcert.process_log import ProcessLog
from bulkcert.progress import ProgressTracker, slowdown_left
from bulkcert.providers import connect
from bulkcert.providers.advice import advise
from bulkcert.providers.base import Setup
from bulkcert.providers.call import Channel, Pace, Permit, Source
from bulkcert.providers.clock import ProviderClock, boot_time_s
from bulkcert.ratelimit import CAUTIOUS_UTILIZATION, UTILIZATION, Pacer
from bulkcert.ready_slots import READY_SHARE
from bulkcert.report.summary import outcome_counts
from bulkcert.rules import Rules
from bulkcert.rules.rehearsal import rehearsed
from bulkcert.rundir import RunDirectory
from bulkcert.shared_material import shared_material
from bulkcert.sharing import SharedLimits, account_limits, account_scopes, endpoint_scope
from bulkcert.statefolder import state_folder
from bulkcert.stopped import stopped_by
from bulkcert.store.base import Session, Store
from bulkcert.store.claims import Claims
from bulkcert.store.place import SharedPlace
from bulkcert.store.writer import StoreWriter
from bulkcert.threads import in_thread
from bulkcert.timings import Timings


class Transport(Protocol):
    """What a run sends through instead of the network; see `bulkcert.testing.FakeTransport`.

    Attributes:
        timings: the waiting times of the run.
        credentials: those of the run, unless it is given others.
    """

    @property
    def timings(self) -> Timings: ...

    @property
    def credentials(self) -> Mapping[str, str]: ...

    def prepare(self, job: Job, targets: Iterable[Fields]) -> Job:
        """Get ready for a run.

        Args:
            job: the job of the run.
            targets: its targets, each to be read once.

        Returns:
            The job as it is to be executed.
        """

    def open_channel(self, endpoint: str, pace: Pace, timeout_s: float) -> Channel:
        """Return what the requests to an endpoint are sent through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """How far one process goes.

    Attributes:
        retry_failed: also retry operations that failed or are unknown.
        until: name of the wave after which it stops; empty for none.
        wait: wait for windows, waves and people.
        stop_after: number of the last control that was there before this process; see `Claims`.
        on_begin: called before the first operation is claimed, in a thread; what it raises ends the
            run.
    """

    retry_failed: bool = False
    until: str = ""
    wait: bool = True
    stop_after: int | None = None
    on_begin: Callable[[], object] = lambda: None


async def wire(
    job: Job,
    directory: RunDirectory,
    counts: dict[State, int],
    credentials: Mapping[str, str],
    on_event: Listener,
    *,
    recorder: Recorder,
    endpoint: str | None,
    steering: Steering,
    timings: Timings,
    transport: Transport | None,
) -> Execution:
    """Connect the stages. Nothing is sent yet.

    Args:
        job: what to do.
        directory: the run directory, with a checkpoint.
        counts: number of operations by state.
        credentials: by the names of their environment variables.
        on_event: called on the event loop with every event; must not block, nor raise.
        recorder: takes the figures for metrics.
        endpoint: where to send requests, instead of the job's endpoint.
        steering: how far this process goes.
        timings: how long to wait, and for what.
        transport: sends the requests instead of the network.
    """
    if transport is not None:
        with contextlib.closing(directory.reader()) as reader:
            job = transport.prepare(job, (record.fields for record in reader.records()))
    refuse = refusing(job, directory.manifest().shapes)
    endpoint = endpoint or job.connection.endpoint
    place, clock, loop = directory.place, ProviderClock(), asyncio.get_running_loop()
    # read before there is a lease: whoever has one waits for a store that is away
    last, (planned_at_s, sample) = _last_session(directory), _planned(directory)
    run_id, rehearsal = directory.manifest().run_id, directory.manifest().rehearsal
    alone = transport is not None or rehearsal
    limits = SharedLimits(
        None if alone or place.is_shared else state_folder() / "slots",
        endpoint_scope(job.provider, endpoint),
        job.name,
        boot_time_s,
        notify=lambda text: on_event(Notice(text)),
    )
    last = _last_session(directory)
    life: Life
    if isinstance(place, SharedPlace):
        life = await in_thread(
            lambda: SharedLife(
                place,
                job,
                account_scopes(job, endpoint, credentials),
                timings.hosts,
                lambda text: loop.call_soon_threadsafe(on_event, Notice(text)),
            )
        )
    else:
        slots = limits.add(job.ceiling, *account_limits(job, credentials))
        life = LifeAlone(place.open(clock.now), slots)
    store = life.store
    pacer = _pacer(job, last, life, timings)
    breaker = CircuitBreaker(
        job.circuit_breaker.failing_share,
        job.circuit_breaker.stop_after_seconds,
        lambda: pacer.active_s,
        timings.circuit_breaker,
    )
    tracker = ProgressTracker(
        counts,
        pacer,
        breaker,
        on_event,
        boot_time_s,
        log=lambda happened: execution.log(happened),
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(store.close)
        stack.callback(life.end)
        stack.callback(limits.leave)
        channels = weakref.WeakSet[Channel]()
        sources = _sources(job, pacer, limits)

        def open_channel(endpoint: str) -> Channel:
            channel = _channel(
                job,
                endpoint,
                sources=sources,
                pacer=pacer,
                permit=life.lease,
                notify=tracker.notify,
                explain=tracker.detail,
                timings=timings,
                transport=transport,
            )
            channels.add(channel)
            return channel

        def abort() -> None:
            for channel in list(channels):
                channel.abort()

        channel = open_channel(endpoint)
        stack.push_async_callback(channel.close)
        setup = Setup(
            action=job.action,
            channel=channel,
            endpoint=endpoint,
            open_channel=open_channel,
            options=job.connection.options,
            parameters=job.parameters,
            sample=sample,
            credentials=credentials,
            selection=job.selection(planned_at_s),
            planned_s=clock.elapsed_s() - max(0.0, store.now() - planned_at_s),
            keys=job.keys,
            shared=shared_material(job, run_id) if directory.place.is_shared else None,
            pkcs12_password=_pkcs12_password(job, credentials, transport),
            directory=directory.path,
            clock=clock,
            timings=timings,
        )
        handler = connect(job.provider, setup)
        stack.pop_all()  # from here on, the execution closes both
    recorder.hosts = lambda: life.hosts
    rules = rehearsed(job.rules) if rehearsal else job.rules
    claims = Claims(
        rules,
        until=steering.until,
        stop_after=steering.stop_after,
        pause_file=lambda: pause_file(directory.path),
        now=store.now,
    )

    def on_events(events: Sequence[RunEvent]) -> None:
        recorder.logged(events)
        execution.logged(events)

    writer = StoreWriter(
        store,
        on_durable=lambda changes: execution.durable(changes),
        on_error=lambda error: execution.stop(error),
        commit_every_s=timings.hosts.commit_every_s if store.shared else timings.commit_every_s,
        claims=claims,
        on_gate=lambda gate: execution.follow(gate),
        on_events=on_events,
        mirror=_mirror(directory.events, on_event),
    )
    dispatcher = Dispatcher(
        handler.steps,
        writer,
        Lifecycle(
            [step.rules for step in handler.steps],
            job.retry.max_attempts,
            job.retry.settling_seconds,
            timings,
            life.takeover_wait_s,
        ),
        breaker,
        ceiling=job.ceiling,
        in_flight=job.limits.in_flight,
        on_result=tracker.observe,
        on_ended=recorder.ended,
        on_settled=lambda change: execution.settled(change),
        on_wait=tracker.waits,
        on_stop=pacer.stop,
        advise=functools.partial(advise, job.provider.advice),
        refuse=refuse,
        now=store.now,
        claim_ahead_s=timings.hosts.claim_ahead_s if store.shared else CLAIM_AHEAD_S,
        ready_share=timings.hosts.ready_s if store.shared else READY_SHARE,
    )
    checker: Checker | None = None
    if rules.check is not None:
        checker = Checker(
            rules.check,
            outside_command(job, rules.check.command, credentials, timings),
            functools.partial(
                _as_checks_see_it, job, directory, claims, tracker, lambda: dispatcher.open_requests
            ),
            lambda result: writer.write(lambda store: store.set_check_result(result)),
            store.now,
        )
    check: RunningCheck | None = checker
    if store.shared and not rehearsal and (checker or job.notify):
        check = Steward(
            lambda: writer.write_now(lambda store: store.be_steward()),
            lambda: writer.write(lambda store: store.resign()),
            checker,
            timings.hosts.beat_every_s,
        )
    execution = Execution(
        handler=handler,
        dispatcher=dispatcher,
        pacer=pacer,
        writer=writer,
        claims=claims,
        tracker=tracker,
        on_event=on_event,
        on_begin=lambda: in_thread(steering.on_begin),
        on_tick=recorder.tick,
        check=check,
        horizon=_horizon(job, rules, rehearsal=rehearsal),
        stopped_by=functools.partial(stopped_by, job, directory.path),
        process_log=ProcessLog(
            total=tracker.total,
            settled=tracker.settled,
            ceiling=job.ceiling,
            rehearsal=rehearsal,
            options=_options(steering),
            last_seen_s=last.updated_at if last else 0.0,
            lease=str(life.lease.id) if life.lease else "",
        ),
        left_out=directory.manifest().left_out,
        retry_failed=steering.retry_failed,
        wait=steering.wait,
        timings=timings,
        now=store.now,
        leave=limits.leave,
        life=life,
        abort=abort,
        at_desk=_desk(directory, writer),
    )
    return execution


def _desk(
    directory: RunDirectory, writer: StoreWriter
) -> Callable[[Callable[[Store], object]], Awaitable[object]]:
    """What has something done to the run as a whole, which may take a while.

    In a shared store that is done beside the writer, whose commits are the heartbeat of this host.
    """
    if not directory.place.is_shared:
        return writer.write_now
    return lambda work: in_thread(lambda: directory.commit(work))


def notifier_of(
    job: Job,
    directory: RunDirectory,
    credentials: Mapping[str, str],
    on_event: Listener,
    timings: Timings,
    lease: Callable[[], UUID | None] = lambda: None,
) -> Notifier | None:
    """What gives the events of a run to the command of its job; None if the job has none.

    Args:
        job: the job.
        directory: its run directory, with a checkpoint.
        credentials: by the names of their environment variables.
        on_event: called on the event loop with what people should know; must not raise.
        timings: how long to wait, and for what.
        lease: returns the lease of this process; None if it has none.
    """
    if job.notify is None:
        return None
    return Notifier(
        outside_command(job, job.notify.command, credentials, timings),
        job.notify.timeout_s,
        StoredEvents(directory.place.open, lease),
        on_event,
        timings.notify,
    )


async def pass_on_events(
    job: Job, directory: RunDirectory, credentials: Mapping[str, str], on_event: Listener
) -> None:
    """Give the command of a job what it has not got yet of the events of a run, within bounds.

    Args:
        job: the job.
        directory: its run directory; no process may be working in it, which does the same.
        credentials: by the names of their environment variables.
        on_event: called on the event loop with what people should know; must not raise.
    """
    notifier = notifier_of(job, directory, credentials, on_event, Timings())
    if notifier is not None:
        async with notifier:
            pass  # its exit does the work


async def _as_checks_see_it(
    job: Job,
    directory: RunDirectory,
    claims: Claims,
    tracker: ProgressTracker,
    open_requests: Callable[[], int],
) -> Situation:
    """How the run stands, for an outside check: with all hosts that work on it."""
    progress = tracker.tick()
    situation = Situation(
        name=job.name,
        run_dir=directory.path,
        wave=claims.wave,
        total=progress.total,
        counts=tracker.outcomes,
        open_requests=open_requests(),
        requests=progress.requests,
        throttled=tracker.throttled,
        rate=progress.rate,
        ceiling=job.ceiling,
        reasons=tuple(map(str, progress.reasons)),
    )
    if directory.place.is_shared:
        return await in_thread(lambda: _with_all_hosts(situation, directory))
    return situation


def _with_all_hosts(situation: Situation, directory: RunDirectory) -> Situation:
    with contextlib.closing(directory.reader()) as reader:
        counts, hosts = reader.counts(), reader.hosts()
    outcomes = outcome_counts(counts)
    under_way = counts.get(State.IN_FLIGHT, 0)
    outcomes[Outcome.UNKNOWN] -= under_way
    outcomes[Outcome.PENDING] += under_way
    return replace(
        situation,
        total=sum(counts.values()),
        counts=outcomes,
        open_requests=sum(host.open_requests for host in hosts),
        requests=sum(host.requests for host in hosts),
        throttled=sum(host.session.throttled for host in hosts if host.session),
        rate=sum(host.rate for host in hosts),
    )


def _horizon(job: Job, rules: Rules, *, rehearsal: bool) -> Horizon | None:
    """What looks ahead to the end of the run; None if no rule and no deadline concerns it."""
    deadline_s = None if rehearsal else job.deadline_s
    if deadline_s is None and rules.rollout is None and rules.window is None:
        return None
    return Horizon(
        rules,
        deadline_s,
        requests_per_operation=job.requests_per_operation,
        ceiling=job.ceiling,
    )


def _pkcs12_password(job: Job, credentials: Mapping[str, str], transport: Transport | None) -> str:
    """The password of PKCS#12 files; empty if the job wants none.

    Raises:
        CredentialsError: it is missing.
    """
    variable = job.certificates.pkcs12_password_env
    if variable and transport is not None:  # what it issues is of no use
        return credentials.get(variable, STAND_IN_PASSWORD)
    return password_from(credentials, variable) if variable else ""


def _planned(directory: RunDirectory) -> tuple[float, Fields]:
    """When the run was planned, as Unix time in seconds; and the fields of its first target."""
    with contextlib.closing(directory.reader()) as reader:
        return reader.manifest().planned_at, next(record.fields for record in reader.records())


def _last_session(directory: RunDirectory) -> Session | None:
    """The figures of the process that worked on the run before this one."""
    with contextlib.closing(directory.reader()) as reader:
        sessions = reader.sessions()
    return sessions[-1] if sessions else None


def _pacer(job: Job, last: Session | None, life: Life, timings: Timings) -> Pacer:
    """The account's pacer. A pause that the provider asked of an earlier process goes on."""
    # Where a limit blocks, nothing is tried. Several hosts have agreed on how much they use.
    alone = isinstance(life, LifeAlone) and life.slots is not None
    blocks = job.limits.requests_per_second_per_source_ip is not None
    pacer = Pacer(
        job.ceiling,
        utilization=timings.hosts.utilization if life.store.shared else UTILIZATION,
        timings=timings.pacer,
        elapsed_s=boot_time_s,
        slots=life.slots,
        may_leave=life.may_leave,
        jitter=Jitter(job.ceiling) if alone and not blocks else None,
    )
    if not life.store.shared and last and (slowdown := slowdown_left(last, time.time())):
        pacer.resume(slowdown)
    return pacer


def _options(steering: Steering) -> list[str]:
    """What else the process was asked to do, as the event log says it."""
    return [
        *(["retry-failed"] if steering.retry_failed else []),
        *([f"until={steering.until}"] if steering.until else []),
        *([] if steering.wait else ["no-wait"]),
    ]


def _mirror(path: Path, on_event: Listener) -> Callable[[Store], None]:
    """What copies the event log to its file. A file that can't be written stops nothing."""
    loop, failed = asyncio.get_running_loop(), False

    def copy(store: Store) -> None:
        nonlocal failed
        try:
            catch_up(path, store.events)
        except Exception as error:  # it would end the thread of the store, and the run would hang
            if not failed:
                failed = True
                reason = error.strerror if isinstance(error, OSError) else None
                text = f"{path.name} can't be written: {reason or error}."
                notice = Notice(f"{text} The events are in the checkpoint nevertheless.")
                loop.call_soon_threadsafe(on_event, notice)

    return copy


def _channel(
    job: Job,
    endpoint: str,
    *,
    sources: tuple[Source, ...],
    pacer: Pacer,
    permit: Permit | None,
    notify: Callable[[str], object],
    explain: Callable[[str], object],
    timings: Timings,
    transport: Transport | None,
) -> Channel:
    """What the requests are sent through."""
    if transport is not None:
        return transport.open_channel(endpoint, pacer, job.limits.request_timeout_seconds)
    # imported here because most commands do without a network library
    from bulkcert.providers.sources import open_channel

    return open_channel(
        endpoint,
        sources,
        pacer,
        timeout_s=job.limits.request_timeout_seconds,
        patience_s=job.circuit_breaker.stop_after_seconds,
        notify=notify,
        explain=explain,
        ca_file=job.connection.ca_file,
        proxy=job.connection.proxy,
        permit=permit,
        blocks_sources=job.provider.requests_per_second_per_source_ip is not None,
        timings=timings,
    )


def _sources(job: Job, pacer: Pacer, limits: SharedLimits) -> tuple[Source, ...]:
    """The job's source addresses: each with its own limit, if there is one, below that of all."""
    addresses = job.connection.source_addresses or (None,)
    limit = job.limits.requests_per_second_per_source_ip
    if limit is None:
        return tuple(Source(address, pacer) for address in addresses)
    return tuple(
        Source(
            address,
            Pacer(
                limit,
                utilization=CAUTIOUS_UTILIZATION,
                parent=pacer,
                slots=limits.add(
                    limit, ("address", address or ""), utilization=CAUTIOUS_UTILIZATION
                ),
            ),
        )
        for address in addresses
    )
