"""What a run directory contains when a run begins: an earlier checkpoint, or a new plan."""

from __future__ import annotations

import gzip
import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_folder import devices, toml, write_csv

from bulkcert import load_job
from bulkcert.control import Verb, control_after
from bulkcert.errors import JobError, RunDirectoryError, TargetsRejectedError
from bulkcert.job import Job
from bulkcert.model import State
from bulkcert.plan import Plan
from bulkcert.preparation import prepare
from bulkcert.rules import Check, Rules
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Change
from bulkcert.store.sqlite import SqliteStore
from bulkcert.verify import reading_run

TARGETS = 4
DEVICES = list(devices(TARGETS))
CSV = b"assetId,certSn\nA1,1\nA2,2\n"


class PreparedFolder:
    """A job and its run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = RunDirectory(folder / "run")
        self.targets(TARGETS)

    def targets(self, count: int) -> None:
        write_csv(self.folder / "targets.csv", devices(count))

    def job(self, **parameters: Any) -> Job:
        document = {
            "provider": "enos",
            "action": "revoke",
            "targets": "targets.csv",
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
            "parameters": parameters,
        }
        (self.folder / "job.toml").write_text(toml(document))
        return load_job(self.folder / "job.toml")

    def prepare(self, job: Job | None = None, **how: Any) -> Plan | None:
        with self.directory:
            return prepare(job or self.job(), self.directory, **how)

    def settle(self, *states: State) -> None:
        """Settle the first operations in these states."""
        with closing(SqliteStore(self.directory.checkpoint)) as store, store.transaction():
            store.claim(len(states))
            store.record(
                [
                    Change(number, State.IN_FLIGHT, state, 1)
                    for number, state in enumerate(states, 1)
                ]
            )

    @property
    def states(self) -> list[State]:
        with closing(self.directory.reader()) as reader:
            return [record.state for record in reader.records()]


@pytest.fixture
def folder(tmp_path: Path) -> PreparedFolder:
    return PreparedFolder(tmp_path)


def planned(plan: Plan | None) -> int | None:
    """The number of operations that were planned; None if nothing was."""
    return None if plan is None else plan.operations


def test_a_new_directory_gets_a_plan(folder: PreparedFolder) -> None:
    assert planned(folder.prepare()) == TARGETS
    assert folder.states == [State.PLANNED] * TARGETS


@pytest.mark.parametrize("rehearsal", [False, True])
def test_an_unfinished_run_is_continued(folder: PreparedFolder, rehearsal: bool) -> None:
    folder.prepare(rehearsal=rehearsal)
    folder.settle(State.SUCCEEDED, State.FAILED)
    assert folder.prepare(rehearsal=rehearsal) is None
    assert folder.states == [State.SUCCEEDED, State.FAILED, State.PLANNED, State.PLANNED]


def test_a_finished_run_stays_finished(folder: PreparedFolder) -> None:
    folder.prepare()
    folder.settle(*[State.SUCCEEDED] * TARGETS)
    assert folder.prepare() is None
    assert folder.states == [State.SUCCEEDED] * TARGETS


def test_a_finished_rehearsal_starts_again(folder: PreparedFolder) -> None:
    folder.prepare(rehearsal=True)
    folder.settle(*[State.SUCCEEDED] * TARGETS)
    assert planned(folder.prepare(rehearsal=True)) == TARGETS
    assert folder.states == [State.PLANNED] * TARGETS


def test_a_rehearsal_of_another_job_is_replaced(folder: PreparedFolder) -> None:
    folder.prepare(folder.job(reason=1), rehearsal=True)
    folder.settle(State.SUCCEEDED)
    assert planned(folder.prepare(folder.job(reason=3), rehearsal=True)) == TARGETS
    assert folder.states == [State.PLANNED] * TARGETS


def test_a_rehearsal_of_another_target_file_is_replaced(folder: PreparedFolder) -> None:
    folder.prepare(rehearsal=True)
    folder.targets(TARGETS + 1)
    assert planned(folder.prepare(rehearsal=True)) == TARGETS + 1


def test_a_rehearsal_from_standard_input_is_replaced(folder: PreparedFolder) -> None:
    """Standard input can be read only once, so the targets can't be compared and then planned."""
    job = replace(folder.job(), targets=None)
    folder.prepare(job, rehearsal=True, stdin=io.BytesIO(CSV))
    folder.settle(State.SUCCEEDED)
    assert planned(folder.prepare(job, rehearsal=True, stdin=io.BytesIO(CSV))) == 2
    assert folder.states == [State.PLANNED] * 2


def test_a_run_from_standard_input_is_continued_with_the_same_targets(
    folder: PreparedFolder,
) -> None:
    job = replace(folder.job(), targets=None)
    folder.prepare(job, stdin=io.BytesIO(CSV))
    assert folder.prepare(job, stdin=io.BytesIO(CSV)) is None
    folder.settle(State.SUCCEEDED)
    assert folder.prepare(job, stdin=io.BytesIO(CSV)) is None
    with pytest.raises(RunDirectoryError, match="the content of the target file has changed"):
        folder.prepare(job, stdin=io.BytesIO(CSV + b"A3,3\n"))


@pytest.mark.parametrize("first", [False, True])
def test_a_run_never_continues_a_rehearsal_nor_replaces_a_run(
    folder: PreparedFolder, first: bool
) -> None:
    folder.prepare(rehearsal=first)
    folder.settle(State.SUCCEEDED)
    before = f"rehearsal was {first} and is now {not first}"
    with pytest.raises(RunDirectoryError, match=before):
        folder.prepare(rehearsal=not first)
    assert folder.states == [State.SUCCEEDED] + [State.PLANNED] * (TARGETS - 1)


@pytest.mark.parametrize(
    ("before", "difference"),
    [
        ({"reason": 1}, "parameters.reason was 1 and is now 3"),
        ({}, "parameters.reason was 'not set' and is now 3"),
    ],
)
def test_a_run_of_another_job_is_refused_and_kept(
    folder: PreparedFolder, before: dict[str, Any], difference: str
) -> None:
    folder.prepare(folder.job(**before))
    folder.settle(State.SUCCEEDED)
    with pytest.raises(RunDirectoryError) as refused:
        folder.prepare(folder.job(reason=3))
    assert refused.value.problem == (
        f"The run in {folder.directory.path} has begun, and its job has changed since:"
        f" {difference}."
    )
    assert folder.states == [State.SUCCEEDED] + [State.PLANNED] * (TARGETS - 1)


def test_a_run_whose_checkpoint_is_lost_does_not_begin_anew(folder: PreparedFolder) -> None:
    """It would do everything again, and a renewal would issue second certificates."""
    folder.prepare()
    folder.directory.results.write_text("{}")
    folder.directory.checkpoint.unlink()
    with pytest.raises(RunDirectoryError, match="but not its checkpoint"):
        folder.prepare()
    assert not folder.directory.checkpoint.exists()
    assert planned(folder.prepare(rehearsal=True)) == TARGETS


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.IN_FLIGHT, State.PLANNED])
def test_a_changed_target_file_is_refused(folder: PreparedFolder, state: State) -> None:
    folder.prepare()
    folder.settle(state)  # one attempt, whatever came of it
    folder.targets(TARGETS + 1)
    with pytest.raises(RunDirectoryError, match="the content of the target file has changed"):
        folder.prepare()
    assert len(folder.states) == TARGETS


@pytest.mark.parametrize(
    ("rows", "difference"),
    [
        ([*DEVICES[1:], ("B1", 1), ("B2", 2)], "targets: 2 added, 1 gone"),
        (DEVICES[::-1], "targets: the same, in another order"),
        ([("A1", "no number"), *DEVICES], "targets: the same, in another order"),
    ],
)
def test_a_changed_target_file_is_compared(
    folder: PreparedFolder, rows: list[tuple[object, ...]], difference: str
) -> None:
    folder.prepare()
    folder.settle(State.SUCCEEDED)
    write_csv(folder.folder / "targets.csv", rows)
    with pytest.raises(RunDirectoryError) as refused:
        folder.prepare()
    assert f"has changed; {difference}; all else is equal." in refused.value.problem
    assert not folder.directory.rejected.exists()


def test_a_target_file_that_cannot_be_planned_has_changed(folder: PreparedFolder) -> None:
    folder.prepare()
    folder.settle(State.SUCCEEDED)
    (folder.folder / "targets.csv").write_text("nonsense\n")
    with pytest.raises(RunDirectoryError, match="has changed; all else is equal"):
        folder.prepare()


def test_a_run_that_has_sent_nothing_is_planned_anew(folder: PreparedFolder) -> None:
    folder.prepare(folder.job(reason=1))
    folder.targets(TARGETS + 1)
    folder.directory.write_reports()  # as a process does that was stopped before it sent anything
    plan = folder.prepare(folder.job(reason=3))
    assert planned(plan) == len(folder.states) == TARGETS + 1
    assert not folder.directory.results.exists()
    assert plan
    assert plan.warnings[-1] == (
        "planned anew, because nothing had been sent: parameters.reason was 1 and is now 3"
    )
    assert folder.prepare(folder.job(reason=3)) is None


def test_a_pause_outlives_a_new_plan(folder: PreparedFolder) -> None:
    folder.prepare(folder.job(reason=1))
    with (
        closing(SqliteStore(folder.directory.checkpoint)) as store,
        store.transaction(),
    ):
        store.add_control(1.0, "ann@ops1", "not before Monday", Verb.PAUSE)
        store.add_control(2.0, "bob@ops1", "", Verb.RATE, "max")
        store.add_control(2.0, "bob@ops1", "", Verb.RATE, "50")
        store.add_control(3.0, "bob@ops1", "", Verb.GO, "canary")
    assert folder.prepare(folder.job(reason=3))
    with closing(folder.directory.reader()) as reader:
        controls = reader.controls()
    control = control_after(controls)
    assert [entry.verb for entry in controls] == [Verb.PAUSE, Verb.RATE, Verb.RATE]
    assert control.paused
    assert (control.paused.at, control.paused.why) == (1.0, "not before Monday")
    assert control.requests_per_second == 50
    assert not control.goes  # its waves are others now


def test_a_run_that_has_sent_nothing_survives_bad_rows_on_the_way(folder: PreparedFolder) -> None:
    """The first target file was good, the second is not, and the third is the corrected one."""
    folder.prepare()
    folder.directory.write_reports()
    write_csv(folder.folder / "targets.csv", [("A1", "no number")])
    with pytest.raises(TargetsRejectedError):
        folder.prepare()
    assert folder.directory.rejected.exists()
    folder.targets(TARGETS + 1)
    assert planned(folder.prepare()) == TARGETS + 1
    assert not folder.directory.rejected.exists()


@pytest.mark.parametrize("begun", [False, True])
def test_another_target_file_is_another_plan_until_something_was_sent(
    folder: PreparedFolder, begun: bool
) -> None:
    folder.prepare()
    other = replace(folder.job(), targets=write_csv(folder.folder / "other.csv", devices(2)))
    if begun:
        folder.settle(State.SUCCEEDED)
        with pytest.raises(RunDirectoryError, match="has begun") as refused:
            folder.prepare(other)
        assert refused.value.next_step == (
            "Undo the change to continue the run.\n"
            "For another campaign, write a job with another name."
        )
    else:
        assert planned(folder.prepare(other)) == 2


def test_targets_from_standard_input_are_planned_anew(folder: PreparedFolder) -> None:
    job = replace(folder.job(), targets=None)
    folder.prepare(job, stdin=io.BytesIO(CSV))
    plan = folder.prepare(job, stdin=io.BytesIO(CSV + b"A3,3\n"))
    assert planned(plan) == len(folder.states) == 3


def test_the_same_targets_compressed_anew_are_the_same_targets(folder: PreparedFolder) -> None:
    folder.prepare()
    folder.settle(State.SUCCEEDED)
    plain = (folder.folder / "targets.csv").read_bytes()
    zipped = folder.folder / "targets.csv.gz"
    for level in (1, 9):
        zipped.write_bytes(gzip.compress(plain, level))
        assert folder.prepare(replace(folder.job(), targets=zipped)) is None
    assert folder.prepare(replace(folder.job(), targets=None), stdin=io.BytesIO(plain)) is None


def test_a_verification_uses_the_limits_and_addresses_of_the_last_process(
    folder: PreparedFolder,
) -> None:
    job = folder.job()
    folder.prepare(job)
    folder.settle(State.SUCCEEDED)
    lowered = replace(
        job,
        limits=replace(job.limits, requests_per_second=50.0),
        connection=replace(job.connection, source_addresses=("127.0.0.1", "192.0.2.7")),
    )
    assert folder.prepare(lowered) is None
    with closing(folder.directory.reader()) as reader:
        assert reader.manifest().ceiling == 50.0
        assert reader.manifest().name == "job"
        reading = reading_run(reader, folder.folder / "scratch")
    assert reading.job.ceiling == 50.0
    # of these, this machine has only one: a run may be verified elsewhere
    assert reading.job.connection.source_addresses == ("127.0.0.1",)


class TestCheck:
    """The command of `[check]` is looked at before a run begins, and before it goes on."""

    @pytest.fixture
    def folder(self, folder: PreparedFolder) -> PreparedFolder:
        """The run is prepared, and its command has been removed since."""
        program = folder.folder / "fleet-ok.sh"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        folder.prepare(self.job(folder))
        program.unlink()
        return folder

    def job(self, folder: PreparedFolder) -> Job:
        rules = Rules(check=Check(command=("./fleet-ok.sh",)))
        return replace(folder.job(), rules=rules)

    def test_a_missing_command_refuses_a_new_plan(self, folder: PreparedFolder) -> None:
        folder.directory.checkpoint.unlink()
        with pytest.raises(JobError, match=r"fleet-ok\.sh does not exist"):
            folder.prepare(self.job(folder))

    def test_a_missing_command_refuses_to_go_on(self, folder: PreparedFolder) -> None:
        with pytest.raises(JobError, match=r"fleet-ok\.sh does not exist"):
            folder.prepare(self.job(folder))

    def test_a_run_that_is_over_needs_no_command(self, folder: PreparedFolder) -> None:
        folder.settle(*[State.SUCCEEDED] * TARGETS)
        assert folder.prepare(self.job(folder)) is None
