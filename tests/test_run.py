"""A run as a library: load a job, run it from a coroutine, receive its events, stop it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, cast

import pytest
from job_folder import devices, toml, write_csv
from stores import Disk, MemoryStore, Row

import bulkcert
from bulkcert.errors import (
    BulkcertError,
    CommitsLostError,
    CredentialsError,
    EndpointError,
    ProviderUnusableError,
    RunDirectoryError,
    StoreError,
    TargetsRejectedError,
)
from bulkcert.event_log import RunEvent
from bulkcert.events import Notice, Progress, Settled, Started
from bulkcert.execution import Execution
from bulkcert.model import State
from bulkcert.providers import BUILT_IN
from bulkcert.repetition import OnceOnly
from bulkcert.run import RETRIED
from bulkcert.rundir import is_locked
from bulkcert.simulator import Behaviour, Simulator
from bulkcert.store.sqlite import SqliteReader
from bulkcert.timings import HostTimings, Timings

pytestmark = pytest.mark.system

CREDENTIALS = {"ENOS_APP_KEY": "simulator-key", "ENOS_APP_SECRET": "simulator-secret"}
TARGETS = 30


def make_job(folder: Path, endpoint: str, **sections: Any) -> bulkcert.Job:
    document: dict[str, Any] = {
        "provider": "enos",
        "action": "revoke",
        "targets": "targets.csv",
        "connection": {"endpoint": endpoint, "org_id": "o1"},
        "limits": {"requests_per_second": 1000},
    }
    write_csv(folder / "targets.csv", devices(TARGETS))
    (folder / "job.toml").write_text(toml(document | sections))
    return bulkcert.load_job(folder / "job.toml")


def unlogged(events: list[Any]) -> list[Any]:
    """The events that are not of the event log."""
    return [event for event in events if not isinstance(event, RunEvent)]


async def test_a_job_runs_from_a_coroutine_and_reports_events(tmp_path: Path) -> None:
    events: list[Any] = []
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        with bulkcert.Run(job, tmp_path / "run") as run:
            assert run.plan is not None
            assert run.plan.operations == TARGETS
            assert not run.finished
            summary = await run.execute(CREDENTIALS, events.append)
    assert summary.succeeded == TARGETS
    assert summary.exit_code == 0
    assert unlogged(events)[0] == Started(total=TARGETS, settled=0)
    assert [event.type for event in events if isinstance(event, RunEvent)] == ["started", "ended"]
    assert type(events[-2]) is RunEvent
    settled = [event for event in events if isinstance(event, Settled)]
    assert Counter(event.line for event in settled) == Counter(range(2, TARGETS + 2))
    last = events[-1]
    assert isinstance(last, Progress)
    assert (last.total, sum(last.settled.values()), last.left_s) == (TARGETS, TARGETS, 0.0)


async def test_an_outcome_is_durable_before_its_event(tmp_path: Path) -> None:
    early = []

    def on_event(event: Any) -> None:
        if isinstance(event, Settled):
            with closing(SqliteReader(tmp_path / "run" / "checkpoint.sqlite3")) as reader:
                outcomes = {record.line: record.outcome for record in reader.records()}
            if outcomes[event.line] is not event.outcome:
                early.append(event)

    async with Simulator(Behaviour(limit=0)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            await run.execute(CREDENTIALS, on_event)
    assert early == []


async def test_an_event_of_the_log_is_durable_before_it_is_sent(tmp_path: Path) -> None:
    early, sent = [], []

    def on_event(event: Any) -> None:
        if isinstance(event, RunEvent):
            sent.append(event)
            with closing(SqliteReader(tmp_path / "run" / "checkpoint.sqlite3")) as reader:
                stored = event in reader.events()
            copied = event.line in (tmp_path / "run" / "events.jsonl").read_bytes().splitlines()
            if not (stored and copied):
                early.append(event)

    async with Simulator(Behaviour(limit=0)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            await run.execute(CREDENTIALS, on_event)
    assert [event.seq for event in sent] == [1, 2]
    assert early == []


async def test_a_stopped_run_continues_where_it_stopped(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, limits={"requests_per_second": 100})
        with bulkcert.Run(job, tmp_path / "run") as run:

            def stop_soon(event: Any) -> None:
                if isinstance(event, Settled):
                    run.stop()

            summary = await run.execute(CREDENTIALS, stop_soon)
        assert summary.exit_code == 3
        assert 0 < summary.succeeded < TARGETS
        assert summary.unknown == 0
        with bulkcert.Run(job, tmp_path / "run") as run:
            assert run.plan is None
            summary = await run.execute(CREDENTIALS)
        assert (summary.exit_code, summary.succeeded) == (0, TARGETS)
        actions = Counter(entry["action"] for entry in simulator.ledger)
        assert actions["revoke"] == TARGETS


@pytest.mark.parametrize("when", ["before", "while opening"])
async def test_a_run_stopped_before_its_first_operation_sends_none(
    when: str, tmp_path: Path
) -> None:
    async with Simulator(Behaviour(limit=0, latency=0.3)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            if when == "before":
                run.stop()
            else:
                asyncio.get_running_loop().call_later(0.05, run.stop)
            summary = await run.execute(CREDENTIALS)
        assert summary.pending == TARGETS
        assert summary.exit_code == 3
        assert {entry["action"] for entry in simulator.ledger} <= {"token.get"}


async def test_a_finished_run_sends_nothing(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        with bulkcert.Run(job, tmp_path / "run") as run:
            first = await run.execute(CREDENTIALS)
        sent = len(simulator.ledger)
        with bulkcert.Run(job, tmp_path / "run") as run:
            assert run.finished
            assert await run.execute(CREDENTIALS) == first
        assert len(simulator.ledger) == sent


async def test_rejected_credentials_raise_an_error_and_nothing_is_sent(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        run = bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run")
        with run, pytest.raises(CredentialsError) as raised:
            await run.execute(CREDENTIALS | {"ENOS_APP_SECRET": "wrong"})
        assert raised.value.exit_code == 2
        assert {entry["action"] for entry in simulator.ledger} == {"token.get"}


async def test_credentials_that_expire_during_the_run_leave_it_resumable(tmp_path: Path) -> None:
    """The exit code of any error that ends a run is 3 once something was sent."""
    async with Simulator(Behaviour(limit=0, token_life=1)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, limits={"requests_per_second": 12})

        def withdraw_at_the_first_outcome(event: Any) -> None:
            if isinstance(event, Settled):
                _withdraw(simulator)

        run = bulkcert.Run(job, tmp_path / "run")
        with run, pytest.raises(BulkcertError) as raised:
            await run.execute(CREDENTIALS, withdraw_at_the_first_outcome)
        assert isinstance(raised.value, CredentialsError | EndpointError | ProviderUnusableError)
        assert raised.value.exit_code == 3
    with closing(SqliteReader(tmp_path / "run" / "checkpoint.sqlite3")) as reader:
        assert {str(state) for state in reader.counts()} == {"succeeded", "planned"}
    assert (tmp_path / "run" / "summary.json").exists()


def _withdraw(simulator: Simulator) -> None:
    """Make the token service forget the application."""
    tokens = simulator._vendors.enos._tokens
    tokens._behaviour = Behaviour(app_key="another", token_life=1)


def test_only_the_credentials_of_the_provider_are_read() -> None:
    environment = CREDENTIALS | {"PATH": "/bin", "ALIBABA_CLOUD_ACCESS_KEY_ID": "x"}
    assert bulkcert.credentials_from(environment, BUILT_IN["enos"]) == CREDENTIALS


@pytest.mark.parametrize("given", [{}, {"ENOS_APP_KEY": "k"}, {**CREDENTIALS, "ENOS_APP_KEY": ""}])
def test_missing_credentials_are_named(given: dict[str, str]) -> None:
    with pytest.raises(CredentialsError) as raised:
        bulkcert.credentials_from(given, BUILT_IN["enos"])
    for name in CREDENTIALS:
        assert (name in raised.value.problem) == (not given.get(name))


# ---- faults, of the program and of its caller


async def test_a_listener_that_fails_disturbs_nothing_and_is_reported_once(tmp_path: Path) -> None:
    seen: list[Any] = []
    reported: list[Any] = []

    def listen(event: Any) -> None:
        seen.append(event)
        raise RuntimeError("not expected")

    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: reported.append(context["exception"])
    )
    async with Simulator(Behaviour(limit=0)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            summary = await run.execute(CREDENTIALS, listen)
    assert (summary.succeeded, summary.exit_code) == (TARGETS, 0)
    assert (tmp_path / "run" / "summary.json").exists()
    assert len(seen) > TARGETS
    assert [type(error) for error in reported] == [RuntimeError]


@pytest.mark.parametrize("where", ["dispatch.Dispatcher.run", "execution.ProgressTracker.session"])
async def test_after_a_fault_of_the_program_the_reports_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"bulkcert.{where}", fail)
    async with Simulator(Behaviour(limit=0)) as simulator:
        run = bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run")
        with run, pytest.raises(ZeroDivisionError):
            await run.execute(CREDENTIALS)
    assert (tmp_path / "run" / "results.jsonl").exists()
    assert (tmp_path / "run" / "summary.json").exists()


# ---- cancelled, stopped from elsewhere, used in the wrong order


async def sent(simulator: Simulator) -> None:
    """Wait until the first operation has been sent, and has not been answered yet."""
    figures = simulator.summary()
    while figures["requests"] < 2 or not figures["open"]:
        await asyncio.sleep(0.005)
        figures = simulator.summary()


async def test_what_was_sent_before_a_cancellation_is_recorded(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0, latency=0.1)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, limits={"requests_per_second": 100})
        with bulkcert.Run(job, tmp_path / "run") as run:
            task = asyncio.create_task(run.execute(CREDENTIALS))
            await sent(simulator)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # the open requests were awaited
            outcomes = Counter(result.outcome for result in bulkcert.results(tmp_path / "run"))
            assert set(outcomes) == {"succeeded", "pending"}
            assert not run.finished
            assert (await run.execute(CREDENTIALS)).succeeded == TARGETS
            assert run.finished
        assert Counter(entry["action"] for entry in simulator.ledger)["revoke"] == TARGETS
    assert not is_locked(tmp_path / "run")


async def test_a_second_cancellation_does_not_wait_and_leaves_doubt(tmp_path: Path) -> None:
    fleet = write_csv(tmp_path / "fleet.csv", devices(TARGETS))
    async with Simulator(Behaviour(limit=0, latency=0.5), fleet=fleet) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        with bulkcert.Run(job, tmp_path / "run") as run:
            task = asyncio.create_task(run.execute(CREDENTIALS))
            await sent(simulator)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert run.counts == {State.IN_FLIGHT: 1, State.PLANNED: TARGETS - 1}
        assert (tmp_path / "run" / "summary.json").exists()
        with bulkcert.Run(job, tmp_path / "run") as run:
            summary = await run.execute(CREDENTIALS)
    assert summary.succeeded + summary.already_done == TARGETS


async def test_cancelled_over_and_over_a_run_still_records_everything(tmp_path: Path) -> None:
    """As the cancel scopes of anyio do."""
    async with Simulator(Behaviour(limit=0, latency=0.2)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            task = asyncio.create_task(run.execute(CREDENTIALS))
            await sent(simulator)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert task.cancelled()
            assert run.counts == {State.IN_FLIGHT: 1, State.PLANNED: TARGETS - 1}
        assert not is_locked(tmp_path / "run")


async def test_a_time_limit_ends_a_run_in_order(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, limits={"requests_per_second": 10})
        with bulkcert.Run(job, tmp_path / "run") as run:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await run.execute(CREDENTIALS)
            assert set(run.counts) <= {State.PLANNED, State.SUCCEEDED}


async def test_a_run_may_be_stopped_from_another_thread_and_executed_again(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, limits={"requests_per_second": 100})
        with bulkcert.Run(job, tmp_path / "run") as run:

            def stop(event: Any) -> None:
                if isinstance(event, Settled) and not stopping.is_alive():
                    stopping.start()

            stopping = threading.Thread(target=run.stop)
            summary = await run.execute(CREDENTIALS, stop)
            stopping.join()
            assert (summary.exit_code, summary.unknown) == (3, 0)
            assert (await run.execute(CREDENTIALS)).exit_code == 0
        run.stop()  # nothing to stop any more


async def test_several_runs_share_an_event_loop(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        slower = replace(job, limits=replace(job.limits, requests_per_second=400))  # another plan
        with (
            bulkcert.Run(job, tmp_path / "one") as one,
            bulkcert.Run(slower, tmp_path / "two") as two,
        ):
            summaries = await asyncio.gather(one.execute(CREDENTIALS), two.execute(CREDENTIALS))
    assert [summary.exit_code for summary in summaries] == [0, 0]
    # each revocation succeeds in one of the runs, and is found done in the other
    assert sum(summary.succeeded for summary in summaries) == TARGETS


async def test_what_failed_is_retried_once_by_each_run(tmp_path: Path) -> None:
    fleet = write_csv(tmp_path / "fleet.csv", devices(TARGETS - 1))
    async with Simulator(Behaviour(limit=0), fleet=fleet) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        with bulkcert.Run(job, tmp_path / "run") as run:
            await run.execute(CREDENTIALS)
        with bulkcert.Run(job, tmp_path / "run", retry_failed=True) as run:
            assert run.retried == 1
            await run.execute(CREDENTIALS)
            assert (run.retried, run.finished) == (0, True)
            requests = len(simulator.ledger)
            await run.execute(CREDENTIALS)
        assert len(simulator.ledger) == requests


async def test_a_run_that_is_left_while_it_is_executed_stops_and_keeps_its_lock_until_then(
    tmp_path: Path,
) -> None:
    async with Simulator(Behaviour(limit=0, latency=0.1)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, limits={"requests_per_second": 100})
        with bulkcert.Run(job, tmp_path / "run") as run:
            task = asyncio.create_task(run.execute(CREDENTIALS))
            await sent(simulator)
        assert is_locked(tmp_path / "run")
        assert (await task).exit_code == 3
    assert not is_locked(tmp_path / "run")


async def test_a_run_in_use_says_so(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0, latency=0.1)) as simulator:
        run = bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run")
        with pytest.raises(RuntimeError, match="not entered"):
            await run.execute(CREDENTIALS)
        with run:
            with pytest.raises(RuntimeError, match="entered already"):
                run.__enter__()
            task = asyncio.create_task(run.execute(CREDENTIALS))
            await sent(simulator)
            with pytest.raises(RuntimeError, match="executed already"):
                await run.execute(CREDENTIALS)
            await task
        with pytest.raises(RuntimeError, match="not entered"):
            await run.execute(CREDENTIALS)
        with run:  # once more
            assert run.finished

            async def listen(event: Any) -> None: ...

            with pytest.raises(TypeError, match="an ordinary function"):
                await run.execute(CREDENTIALS, listen)


# ---- results, and how things look


async def test_results_are_typed_records(tmp_path: Path) -> None:
    fleet = write_csv(tmp_path / "fleet.csv", devices(TARGETS - 1))
    async with Simulator(Behaviour(limit=0), fleet=fleet) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            pending = list(bulkcert.results(str(tmp_path / "run")))
            await run.execute(CREDENTIALS)
    assert [result.outcome for result in pending] == [bulkcert.Outcome.PENDING] * TARGETS
    assert pending[0].finished_at is None
    results = list(bulkcert.results(tmp_path / "run"))
    assert [result.line for result in results] == [*range(2, TARGETS + 2)]
    first = results[0]
    assert first.finished_at is not None
    assert first.finished_at.tzinfo is UTC
    assert first.target == {"assetId": "A0000", "certSn": 1000}
    [failed] = bulkcert.results(tmp_path / "run", "failed")
    assert (failed.code, failed.attempts) == (11404, 1)
    (tmp_path / "run" / "checkpoint.sqlite3").unlink()
    from_file = list(bulkcert.results(tmp_path / "run" / "results.jsonl"))
    assert from_file == list(bulkcert.results(tmp_path / "run"))
    assert [result[:7] for result in from_file] == [result[:7] for result in results]
    with pytest.raises(ValueError, match="nonsense"):
        next(bulkcert.results(tmp_path / "run", "nonsense"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="does not contain a run"):
        next(bulkcert.results(tmp_path / "empty"))


async def test_a_run_is_kept_beside_its_job_file_by_default(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        with bulkcert.Run(job) as run:
            await run.execute(CREDENTIALS)
        assert run.directory.path == tmp_path / "runs/job"
    by_file = list(bulkcert.results(str(tmp_path / "job.toml")))
    assert len(by_file) == TARGETS
    assert by_file == list(bulkcert.results(run.directory))
    with pytest.raises(RunDirectoryError, match="no place beside it"):
        bulkcert.Run(replace(job, file=None))


async def test_objects_describe_themselves_briefly(tmp_path: Path) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        job = make_job(tmp_path, simulator.endpoint, parameters={"reason": "KEY_COMPROMISE"})
        run = bulkcert.Run(job, tmp_path / "run")
        assert repr(run) == f"<Run of 'job' in {tmp_path}/run: not entered>"
        with run:
            assert repr(run) == f"<Run of 'job' in {tmp_path}/run: {TARGETS} pending>"
            summary = await run.execute(CREDENTIALS)
            assert repr(run) == f"<Run of 'job' in {tmp_path}/run: {TARGETS} succeeded>"
    targets = tmp_path / "targets.csv"
    assert repr(job) == f"<Job 'job': enos revoke, targets {targets}, at most 1000 requests/s>"
    assert repr(summary).startswith(f"<Summary of 'job': {TARGETS} succeeded; exit code 0; 31 req")


def test_a_job_is_named_by_text_or_path_and_may_get_other_targets(tmp_path: Path) -> None:
    job = make_job(tmp_path, "http://127.0.0.1:9")
    file = tmp_path / "job.toml"
    assert bulkcert.load_job(str(file)) == bulkcert.load_job(file) == job
    assert job.file == file
    assert bulkcert.load_job(file, targets="other.csv").targets == Path("other.csv")
    assert bulkcert.load_job(file, targets="-").targets is None


async def test_credentials_are_read_from_the_environment_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator(Behaviour(limit=0)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), str(tmp_path / "run")) as run:
            with pytest.raises(CredentialsError, match="ENOS_APP_KEY and ENOS_APP_SECRET"):
                await run.execute()
            for name, value in CREDENTIALS.items():
                monkeypatch.setenv(name, value)
            assert (await run.execute()).exit_code == 0


# ---- --retry-failed


def test_what_is_retried_is_what_the_store_puts_back() -> None:
    disk = Disk({number: Row(line=1, fields={}, state=state) for number, state in enumerate(State)})
    store = MemoryStore(disk)
    with store.transaction():
        assert store.retry_failed() == len(RETRIED)
    changed = [state for number, state in enumerate(State) if disk.rows[number].state != state]
    assert set(changed) == set(RETRIED)


async def test_nothing_is_retried_before_the_credentials_are_accepted(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.csv"
    fleet.write_text("assetId,certSn\nA2,1\n")
    async with Simulator(Behaviour(limit=0), fleet=fleet) as simulator:
        job = make_job(tmp_path, simulator.endpoint)
        (tmp_path / "targets.csv").write_text("assetId,certSn\nA1,9999\nA2,1\n")

        def failed() -> int:
            with closing(SqliteReader(tmp_path / "run" / "checkpoint.sqlite3")) as reader:
                return reader.counts().get(State.FAILED, 0)

        with bulkcert.Run(job, tmp_path / "run") as run:
            await run.execute(CREDENTIALS)
        assert failed() == 1
        with bulkcert.Run(job, tmp_path / "run", retry_failed=True) as run:
            assert (run.retried, run.finished) == (1, False)
            assert failed() == 1  # entering, such as for a confirmation, changes nothing
            with pytest.raises(CredentialsError):
                await run.execute(CREDENTIALS | {"ENOS_APP_SECRET": "wrong"})
        assert failed() == 1
        events: list[Any] = []
        with bulkcert.Run(job, tmp_path / "run", retry_failed=True) as run:
            await run.execute(CREDENTIALS, events.append)
        assert unlogged(events)[0] == Started(total=2, settled=1)


# ---- the lock


def test_a_run_directory_is_locked_while_the_run_is_entered(tmp_path: Path) -> None:
    job = make_job(tmp_path, "http://127.0.0.1:9")
    with bulkcert.Run(job, tmp_path / "run"):
        assert is_locked(tmp_path / "run")
        with pytest.raises(RunDirectoryError, match="in use"):
            bulkcert.Run(job, tmp_path / "run").__enter__()
    assert not is_locked(tmp_path / "run")


def test_a_run_that_cannot_be_entered_leaves_no_lock(tmp_path: Path) -> None:
    job = make_job(tmp_path, "http://127.0.0.1:9")
    (tmp_path / "targets.csv").write_text("assetId,certSn\nA,-1\n")
    with pytest.raises(TargetsRejectedError):
        bulkcert.Run(job, tmp_path / "run").__enter__()
    assert not is_locked(tmp_path / "run")


async def test_a_pause_outlives_its_process_and_no_stop_waits_for_its_end(tmp_path: Path) -> None:
    behaviour = Behaviour(
        limit=0,
        faults_on="revoke",
        throttle_retry_after=1.0,
        retry_after=3600,
        retry_after_form="date",
    )
    an_hour = r"throttled \(pausing for (1 h 00 min|5\d min)"
    paused = asyncio.Event()

    def watch(event: Any) -> None:
        if isinstance(event, Progress) and re.search(an_hour, event.note):
            paused.set()

    async with Simulator(behaviour) as simulator, asyncio.timeout(60):
        job = make_job(tmp_path, simulator.endpoint)
        with bulkcert.Run(job, tmp_path / "run") as run:
            executing = asyncio.create_task(run.execute(CREDENTIALS, watch))
            await paused.wait()
            run.stop()
            summary = await executing
            assert (summary.exit_code, summary.pending) == (3, TARGETS)
        sent = len(simulator.ledger)
        with bulkcert.Run(job, tmp_path / "run") as run:
            told: asyncio.Queue[Any] = asyncio.Queue()
            executing = asyncio.create_task(run.execute(CREDENTIALS, told.put_nowait))
            while type(event := await told.get()) is RunEvent:
                pass
            said = event.text
            assert re.match(f"Nothing is sent yet: {an_hour}", said)
            run.stop()
            assert (await executing).exit_code == 3
        assert len(simulator.ledger) == sent


async def test_a_host_that_was_fenced_begins_anew_also_if_the_store_is_away_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = Timings(hosts=HostTimings(watch_every_s=0.01))
    run = bulkcert.Run(make_job(tmp_path, "https://example.com"), timings=times)
    errors: list[BulkcertError] = [
        StoreError("The store is away.", ""),
        RunDirectoryError("So it is.", ""),
    ]
    monkeypatch.setattr(run, "_count", lambda: None)

    life = cast(Execution, object())

    async def begin_life() -> Execution:
        if errors:
            raise errors.pop()
        return life

    assert await run._begin_anew(begin_life) is life
    errors.append(CommitsLostError())
    with pytest.raises(CommitsLostError):
        await run._begin_anew(begin_life)


async def test_what_is_looked_at_before_the_first_operation_does_not_block_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = []

    def begin(self: OnceOnly) -> str:
        on.append(threading.current_thread())
        return "remember this"

    monkeypatch.setattr(OnceOnly, "begin", begin)
    events: list[Any] = []
    async with Simulator(Behaviour(limit=0)) as simulator:
        with bulkcert.Run(make_job(tmp_path, simulator.endpoint), tmp_path / "run") as run:
            await run.execute(CREDENTIALS, events.append)
    assert on != [threading.main_thread()]
    assert Notice("remember this") in events
