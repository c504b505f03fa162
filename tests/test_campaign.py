"""Runs with the rules of a campaign, against the simulator: waves, aborts, caps, holds and checks.

The ledger of the simulator says what was sent, and in which order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS, devices
from harness import InProcessJob, in_this_process

from bulkcert import Run, event_log, load_job
from bulkcert.control import ControlEntry, Verb
from bulkcert.errors import BulkcertError, OverrideError, StoppedByRulesError, StoreError
from bulkcert.events import Progress
from bulkcert.horizon import Horizon
from bulkcert.store.sqlite import SqliteReader, SqliteStore
from bulkcert.threads import in_thread

pytestmark = pytest.mark.system

WAVES = {"canary": 3, "waves": ["50%"]}
ABSENT = 20  # of the devices, the last ones


@contextlib.asynccontextmanager
async def campaign(
    folder: Path, count: int = 40, *, absent: int = 0, behaviour: Any = None, **sections: Any
) -> AsyncIterator[InProcessJob]:
    """A revocation; the simulator does not know the last devices."""
    rows = devices(count)
    async with in_this_process(
        folder, ENOS, "revoke", rows, behaviour=behaviour, fleet=rows[: count - absent], **sections
    ) as job:
        yield job


def control(job: InProcessJob, verb: Verb, value: str = "") -> None:
    """Ask something of the run, as another process does."""
    store = SqliteStore(job.run_dir / "checkpoint.sqlite3")
    with contextlib.closing(store), store.transaction():
        number = store.add_control(1.0, "ann@ops1", "deploy", verb, value)
        entry = ControlEntry(number, 1.0, "ann@ops1", "deploy", verb, value)
        store.add_event(event_log.control(1.0, entry, in_force=False))


def pending_abort(job: InProcessJob) -> str:
    with contextlib.closing(SqliteReader(job.run_dir / "checkpoint.sqlite3")) as reader:
        return reader.aborts()[-1].id


def revoked(job: InProcessJob) -> list[str]:
    """The devices in the order in which their revocations were sent."""
    return [entry["device"] for entry in job.entries("revoke")]


async def until(job: InProcessJob, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


def shown(job: InProcessJob) -> set[str]:
    """Every reason that was shown."""
    progress = [event for event in job.events if isinstance(event, Progress)]
    return {str(reason) for event in progress for reason in event.reasons}


async def test_no_operation_leaves_before_the_wave_before_is_settled(tmp_path: Path) -> None:
    async with campaign(tmp_path, rollout=WAVES, behaviour={"latency": 0.05}) as job:
        assert (await job.run()).exit_code == 0
        entries = job.entries("revoke")
        for end in (3, 20):
            settled_at = max(entry["answered_at"] for entry in entries[:end])
            assert all(entry["at"] >= settled_at for entry in entries[end:])
        assert job.violations() == []


async def test_a_run_stops_after_the_wave_that_was_named(tmp_path: Path) -> None:
    async with campaign(tmp_path, rollout=WAVES) as job:
        for wave, done in (("canary", 3), ("canary", 3), ("50%", 20)):
            summary = await job.run(until=wave)
            assert (summary.exit_code, summary.succeeded) == (3, done)
        with pytest.raises(OverrideError, match="The waves are canary, 50%, rest"):
            await job.run(until="canry")
        assert (await job.run()).exit_code == 0


async def test_a_wave_waits_for_a_go(tmp_path: Path) -> None:
    async with campaign(tmp_path, rollout=WAVES | {"confirm": ["canary"]}) as job:
        assert (await job.run(wait=False)).exit_code == 3
        stopping = "Stopping instead of waiting: waiting (go canary)."
        assert job.notices()[-1] == stopping
        sent = len(job.entries())
        assert (await job.run(wait=False)).exit_code == 3
        assert job.notices() == [stopping]
        assert len(job.entries()) == sent  # not even a token
        control(job, Verb.GO, "canary")
        assert (await job.run(wait=False)).exit_code == 0


@pytest.mark.parametrize("how", ["control", "file"])
async def test_nothing_leaves_while_a_run_is_paused(tmp_path: Path, how: str) -> None:
    async with campaign(tmp_path, 60, behaviour={"latency": 0.05}) as job:
        job.write(limits={"requests_per_second": 30})
        file = job.run_dir / "PAUSE"

        # in a thread: the simulator notes on this loop when requests arrive
        async def pause() -> None:
            if how == "control":
                await in_thread(lambda: control(job, Verb.PAUSE))
            else:
                file.write_text("deploy\n")

        job.plan()
        await pause()
        running = asyncio.create_task(job.run())
        await until(job, lambda: any("Nothing is sent yet: paused" in n for n in job.notices()))
        assert job.entries() == []
        control(job, Verb.RESUME) if how == "control" else file.unlink()
        await until(job, lambda: len(revoked(job)) > 10)
        await pause()
        await until(job, lambda: any("paused" in reason for reason in shown(job)))
        await until(job, lambda: not job.simulator.summary()["open"])
        sent = len(job.entries())
        await asyncio.sleep(0.5)
        assert len(job.entries()) == sent < 60
        control(job, Verb.RESUME) if how == "control" else file.unlink()
        assert (await running).exit_code == 0
        assert set(job.executed("revoke").values()) == {1}
        assert job.violations() == []


async def test_too_many_failures_stop_the_run_until_somebody_overrides(tmp_path: Path) -> None:
    async with campaign(tmp_path, 60, absent=ABSENT, abort={"failed": "10% of 20"}) as job:
        job.write(limits={"requests_per_second": 100, "in_flight": 4})
        with pytest.raises(StoppedByRulesError, match="3 of the last 20 settled failed") as stopped:
            await job.run()
        assert "mostly 3 x 11404" in stopped.value.problem
        first = pending_abort(job)
        assert f"--override {first} --why TEXT" in stopped.value.next_step
        assert job.summary()["exit_code"] == 4
        sent = len(job.entries())
        assert sent <= 1 + 40 + 3 + 4  # a token, what succeeded, what failed, what was under way
        with pytest.raises(StoppedByRulesError):
            await job.run()
        with pytest.raises(OverrideError, match=f"is {first}, not 123456"):
            await job.run(override="123456", why="no")
        assert len(job.entries()) == sent

        with pytest.raises(StoppedByRulesError, match="of the last"):
            await job.run(override=first, why="known devices")
        assert pending_abort(job) != first
        assert len(job.entries()) >= sent + 3  # the failures before the override do not count
        with pytest.raises(OverrideError, match=f"not {first}"):
            await job.run(override=first, why="known devices")
        assert job.violations(over=False) == []


async def test_the_last_operation_can_stop_a_run(tmp_path: Path) -> None:
    async with campaign(tmp_path, 5, absent=1, abort={"failed": 0}) as job:
        job.write(limits={"in_flight": 1})
        with pytest.raises(StoppedByRulesError, match="1 of 5 failed") as stopped:
            await job.run()
        assert f"--override {pending_abort(job)}" in stopped.value.next_step
        with pytest.raises(StoppedByRulesError):
            await job.run()
        assert (await job.run(override=pending_abort(job), why="known")).exit_code == 1


async def test_what_fails_while_a_process_stops_stops_the_run(tmp_path: Path) -> None:
    # spread: on a busy machine the responses would else come all together
    behaviour = {"latency": 0.3, "latency_spread": 2.0}
    async with campaign(tmp_path, 40, absent=39, abort={"failed": 0}, behaviour=behaviour) as job:
        running = asyncio.create_task(job.run())
        await until(job, lambda: job.simulator.summary()["open"] > 20)
        job.running.stop()
        with pytest.raises(StoppedByRulesError, match=r"more attempts? w.* under way: .* failed"):
            await running


async def test_a_stop_that_comes_before_somebody_has_confirmed_the_run_is_obeyed(
    tmp_path: Path,
) -> None:
    async with campaign(tmp_path, 5) as job:
        with Run(load_job(job.job_file), job.run_dir) as run:  # the person is asked now
            control(job, Verb.STOP)
            assert (await run.execute(job.credentials)).exit_code == 3
            assert job.entries() == []
            assert (await run.execute(job.credentials)).exit_code == 0


async def test_a_fault_beside_the_work_does_not_leave_a_run_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(horizon: Horizon, *args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Horizon, "see", fault)
    async with campaign(tmp_path, 5, rollout=WAVES | {"confirm": ["canary"]}) as job:
        with pytest.raises(BulkcertError, match="ZeroDivisionError"):
            async with asyncio.timeout(20):
                await job.run()


async def test_a_full_disk_ends_a_run_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with campaign(tmp_path, 5) as job:
        job.plan()
        (job.run_dir / "PAUSE").touch()
        running = asyncio.create_task(job.run())
        await until(job, lambda: any("paused" in notice for notice in job.notices()))

        def full(store: SqliteStore) -> None:
            raise StoreError("The checkpoint can't be written: disk full")

        monkeypatch.setattr(SqliteStore, "transaction", full)
        with pytest.raises(StoreError, match="disk full"):
            async with asyncio.timeout(20):
                await running


async def test_a_code_and_the_canary_have_limits_of_their_own(tmp_path: Path) -> None:
    async with campaign(tmp_path, 20, absent=20, abort={"11404": 2}) as job:
        job.write(limits={"in_flight": 1})
        with pytest.raises(StoppedByRulesError, match=r"abort\.11404 tolerates 2"):
            await job.run()
        assert len(revoked(job)) == 3
    folder = tmp_path / "canary"
    folder.mkdir()
    rules = {"rollout": {"canary": 5}, "abort": {"canary": 1}}
    async with campaign(folder, 20, absent=20, **rules) as job:
        job.write(limits={"in_flight": 1})
        with pytest.raises(StoppedByRulesError, match=r"abort\.canary tolerates 1"):
            await job.run()
        assert len(revoked(job)) == 2


async def test_what_may_have_been_executed_is_looked_up_after_an_abort(tmp_path: Path) -> None:
    behaviour = {"latency": 0.2, "cut_after": 0.5, "faults_on": "revoke", "seed": 3}
    async with campaign(tmp_path, 60, absent=40, behaviour=behaviour, abort={"failed": 0}) as job:
        job.write(limits={"in_flight": 30})
        with pytest.raises(StoppedByRulesError, match="under way"):
            await job.run()
        unknown = [row["target"]["assetId"] for row in job.results() if row["outcome"] == "unknown"]
        assert {int(name.removeprefix("A")) >= 20 for name in unknown} <= {True}  # nobody has them
        lookups = [entry for entry in job.entries() if entry["action"] == "list"]
        assert lookups
        assert job.violations(over=False) == []


async def test_failures_are_remembered_by_the_next_process(tmp_path: Path) -> None:
    async with campaign(tmp_path, 30, absent=30, abort={"failed": 4}) as job:
        job.write(limits={"in_flight": 1, "requests_per_second": 20})
        running = asyncio.create_task(job.run())
        await until(job, lambda: len(revoked(job)) >= 3)
        job.running.stop()
        assert (await running).exit_code == 3
        with pytest.raises(StoppedByRulesError, match="5 of 5 failed"):
            await job.run()
        assert len(revoked(job)) == 5


async def test_no_more_operations_are_begun_than_allowed(tmp_path: Path) -> None:
    """What a selection finds counts too, so the plan can't know."""
    names = [{"assetId": f"A{number}"} for number in range(4)]
    fleet = [name | {"certSn": number} for name in names for number in range(1, 4)]
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        names,
        fleet=fleet,
        select={"issued_before": datetime.now(UTC).date().isoformat()},
        protect={"max_operations": 7},
    ) as job:
        with pytest.raises(StoppedByRulesError, match="max_operations is 7") as stopped:
            await job.run()
        assert stopped.value.exit_code == job.summary()["exit_code"] == 4
        assert len(revoked(job)) <= 7
        with pytest.raises(OverrideError, match="can't be overridden"):
            await job.run(override=pending_abort(job), why="more")


async def test_what_is_retried_is_one_more_wave(tmp_path: Path) -> None:
    async with campaign(tmp_path, 10, rollout={"canary": 2}, absent=3) as job:
        assert (await job.run()).exit_code == 1
        assert (await job.run(retry_failed=True)).failed == 3
        with contextlib.closing(SqliteReader(job.run_dir / "checkpoint.sqlite3")) as reader:
            assert [wave.name for wave in reader.waves()] == ["canary", "rest", "retry-2"]
            assert reader.standing().wave == 2


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 10", "the check says so: exit code 10"), ("echo unwell; exit 1", "unwell")],
)
async def test_a_check_can_end_a_run(tmp_path: Path, script: str, said: str) -> None:
    check = {"command": ["sh", "-c", script], "every": "0.2s", "patience": "0.5s"}
    async with campaign(tmp_path, 5, check=check) as job:
        with pytest.raises(StoppedByRulesError, match=said):
            await job.run()
        assert job.entries() == []


async def test_a_check_holds_a_run_until_it_says_go(tmp_path: Path) -> None:
    script = "cat > /dev/null; test -e well"
    check = {"command": ["sh", "-c", script], "every": "0.1s"}
    async with campaign(tmp_path, 10, check=check, rollout=WAVES) as job:
        running = asyncio.create_task(job.run())
        await until(job, lambda: any("held (check" in notice for notice in job.notices()))
        assert job.entries() == []
        (tmp_path / "well").touch()
        assert (await running).exit_code == 0
        assert job.violations() == []


async def test_a_run_goes_on_when_the_rule_is_amended_that_has_stopped_it(tmp_path: Path) -> None:
    """What has failed before counts on."""
    async with campaign(tmp_path, 12, absent=12, abort={"failed": 2}) as job:
        job.write(limits={"in_flight": 1})
        with pytest.raises(StoppedByRulesError, match="3 of 3 failed"):
            await job.run()
        job.write(abort={"failed": 5})
        with pytest.raises(StoppedByRulesError, match="6 of 6 failed"):
            await job.run(amend=True)
        job.write(abort={"failed": 20})
        assert (await job.run(amend=True)).failed == 12
