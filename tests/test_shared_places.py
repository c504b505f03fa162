"""Runs that are kept in a shared store: planned once, joined by others, and never begun twice."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from job_folder import devices, toml, write_csv
from shared_run import SharedRun

from bulkcert import Run, begun_runs, load_job
from bulkcert.control import Verb
from bulkcert.errors import BulkcertError, RepetitionError, RunDirectoryError
from bulkcert.job import Job
from bulkcert.model import Change, State
from bulkcert.repetition import OnceOnly
from bulkcert.rundir import RunDirectory
from bulkcert.shared_numbering import RunsOfJob
from bulkcert.store.base import Store
from bulkcert.store.place import SharedPlace, shared_runs

pytestmark = pytest.mark.system

TARGETS = 3
_names = count(1)


class SharedJob:
    """A job of its own in a shared store, on several machines: each is a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self.url = folder, url
        self.name = f"places-{next(_names)}"

    def job(self, machine: str = "one", *, targets: int = TARGETS, name: str = "") -> Job:
        folder = self._folder / machine
        folder.mkdir(exist_ok=True)
        # what is planned must differ from what other tests plan in this store
        rows = [(f"{self.name}-{asset}", *rest) for asset, *rest in devices(targets)]
        write_csv(folder / "targets.csv", rows)
        document = {
            "name": name or self.name,
            "provider": "enos",
            "action": "revoke",
            "targets": "targets.csv",
            "store": self.url,
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
        }
        (folder / "job.toml").write_text(toml(document))
        return load_job(folder / "job.toml")

    def settle(self, run: Run, *states: State) -> None:
        """Settle operations as a process of the run does."""

        def work(store: Store) -> None:
            claimed = store.claim(len(states))
            store.record(
                [
                    Change(each.id, State.IN_FLIGHT, state, 1)
                    for each, state in zip(claimed, states, strict=True)
                ]
            )

        run.directory.commit(work)

    def begin(self, job: Job, *states: State) -> None:
        with Run(job) as run:
            OnceOnly(job, run.directory).begin()
            self.settle(run, *states)
            OnceOnly(job, run.directory).end()


@pytest.fixture
def shared(tmp_path: Path, shared_store: str, monkeypatch: pytest.MonkeyPatch) -> SharedJob:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return SharedJob(tmp_path, shared_store)


def counts(run: Run) -> dict[State, int]:
    with closing(run.directory.reader()) as reader:
        return reader.counts()


def test_the_second_host_joins_the_run_of_the_first(shared: SharedJob) -> None:
    with Run(shared.job("one")) as first, Run(shared.job("two")) as second:
        assert (first.plan is None, second.plan is None) == (False, True)
        assert first.directory.path != second.directory.path
        shared.settle(first, State.SUCCEEDED)
        assert counts(second) == {State.SUCCEEDED: 1, State.PLANNED: TARGETS - 1}
    assert not first.directory.checkpoint.exists()
    # the directory names the store, so it stands for the run
    assert RunDirectory(first.directory.path).place == first.directory.place


def test_of_two_hosts_that_plan_at_the_same_time_one_publishes(
    shared: SharedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Run(shared.job("two"))
    publish = SharedPlace.publish

    def late(place: SharedPlace, checkpoint: Path, files: Mapping[str, bytes]) -> bool:
        monkeypatch.setattr(SharedPlace, "publish", publish)
        with other:
            shared.settle(other, State.SUCCEEDED)
        return publish(place, checkpoint, files)

    monkeypatch.setattr(SharedPlace, "publish", late)
    with Run(shared.job("one")) as run:
        assert counts(run) == {State.SUCCEEDED: 1, State.PLANNED: TARGETS - 1}
    assert not [path.name for path in run.directory.path.iterdir() if "sqlite" in path.name]


def test_a_host_with_another_target_file_is_refused(shared: SharedJob) -> None:
    shared.begin(shared.job("one"), State.SUCCEEDED)
    with pytest.raises(RunDirectoryError, match=r"its job has changed.*1 added, 0 gone"):
        Run(shared.job("two", targets=TARGETS + 1)).__enter__()


def test_a_plan_of_which_nothing_was_sent_is_planned_anew(shared: SharedJob) -> None:
    with Run(shared.job("one")) as first:
        first.directory.commit(lambda store: store.add_control(1.0, "ann@ops1", "", Verb.PAUSE))
        with Run(shared.job("two", targets=TARGETS + 1)) as second:
            assert counts(second) == {State.PLANNED: TARGETS + 1}
            with closing(second.directory.reader()) as reader:
                assert [each.verb for each in reader.controls()] == [Verb.PAUSE]
        with pytest.raises(RunDirectoryError, match="planned anew by another host"):
            counts(first)


def test_a_plan_on_which_a_host_works_is_not_replaced(shared: SharedJob, tmp_path: Path) -> None:
    with Run(shared.job("one")) as run:
        SharedRun.of(shared.url, run.directory.place.run).host("ops1")  # type: ignore[attr-defined]
        with pytest.raises(
            RunDirectoryError, match=r"A host works on .* another plan: the content"
        ):
            Run(shared.job("two", targets=TARGETS + 1)).__enter__()


def test_a_run_does_not_move_into_a_shared_store_or_out_of_it(shared: SharedJob) -> None:
    job = shared.job()
    with Run(replace(job, store="")) as run:
        pass
    shared.begin(job, State.SUCCEEDED)  # nothing was sent for the plan in the folder
    with pytest.raises(RunDirectoryError, match="now no shared store is named"):
        Run(replace(job, store="")).__enter__()
    elsewhere = shared.job("two", name=f"{shared.name}-local", targets=1)
    with Run(replace(elsewhere, store="")) as run:
        shared.settle(run, State.SUCCEEDED)
    with pytest.raises(RunDirectoryError, match="has begun without a shared store"):
        Run(elsewhere).__enter__()


def test_a_job_with_a_store_never_runs_without_it(
    shared: SharedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Run(shared.job(), store="").store == shared.url
    monkeypatch.setenv("BULKCERT_STORE", shared.url)
    without = replace(shared.job(), store="")
    assert (Run(without).store, Run(without, store="").store) == (shared.url, "")


def test_a_directory_is_for_one_shared_run(shared: SharedJob) -> None:
    with Run(shared.job()) as run:
        path = run.directory.path
    other = shared.job("two", name=f"{shared.name}-other", targets=1)
    with pytest.raises(RunDirectoryError, match="was used for the run"):
        Run(other, path).__enter__()


def test_a_store_may_get_another_url(shared: SharedJob) -> None:
    job = shared.job()
    with Run(job):
        pass
    renamed = f"{shared.url}&application_name=nightly"
    with Run(job, store=renamed) as run:
        assert run.plan is None
    assert RunDirectory(run.directory.path).place == SharedPlace(renamed, shared.name)


def test_the_results_of_a_run_that_the_store_does_not_have_are_not_replaced(
    shared: SharedJob,
) -> None:
    job = shared.job()
    with Run(job) as run:
        run.directory.write_reports()
        run.directory.shared.unlink()
        run.directory.pin()
        run.directory.place.remove()
    with pytest.raises(RunDirectoryError, match=r"results of an earlier run, but .* has no run"):
        Run(job).__enter__()


def test_the_next_run_has_a_number_in_the_store(shared: SharedJob) -> None:
    job = shared.job()
    with Run(job, new=True):
        pass
    shared.begin(job, State.SUCCEEDED)
    with pytest.raises(RunDirectoryError, match="is not over"):
        Run(job, new=True)
    shared.begin(job, *[State.SUCCEEDED] * (TARGETS - 1))
    with Run(job, new=True) as following:
        assert following.directory.path.name == f"{shared.name}-2"
        assert counts(following) == {State.PLANNED: TARGETS}
    runs = RunsOfJob(shared.url, shared.name)
    assert (runs.latest(), runs.upcoming()) == (1, 2)  # it has not begun
    with Run(job, new=True) as following:
        assert following.plan is None
        shared.settle(following, State.SUCCEEDED)
    with Run(shared.job("two")) as second:  # other hosts go on with it without --new
        assert second.directory.path.name == f"{shared.name}-2"
        assert counts(second)[State.SUCCEEDED] == 1


def test_a_plan_is_carried_out_once_in_a_store(
    shared: SharedJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared.begin(shared.job("one"), State.SUCCEEDED)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    renamed = shared.job("two", name=f"{shared.name}-renamed")
    with pytest.raises(RepetitionError, match=f"begun as the run '{shared.name}' in the shared"):
        Run(renamed).__enter__()
    assert not begun_runs.recall().runs
    shared.begin(shared.job("two"), State.SUCCEEDED)  # under its name it goes on


def test_a_plan_of_a_store_is_not_carried_out_without_it(shared: SharedJob) -> None:
    job = shared.job("one")
    shared.begin(job, State.SUCCEEDED)
    shutil.rmtree(job.folder / "runs")  # what is in there can be made again
    with Run(job):
        pass
    with pytest.raises(RepetitionError, match=f"run 1 of {shared.name} in postgresql:"):
        Run(replace(job, store=""), job.folder / "elsewhere").__enter__()


def test_what_a_store_has_is_listed(shared: SharedJob) -> None:
    shared.begin(shared.job(), State.SUCCEEDED)
    [found] = [run for run in shared_runs(shared.url) if run.name == shared.name]
    assert (found.begun, found.over, found.confirmed, found.worked_on) == (
        True,
        False,
        False,
        False,
    )
    assert found.manifest.name == shared.name


def test_a_store_that_can_not_be_reached_is_an_error_before_anything_is_sent(
    shared: SharedJob, tmp_path: Path
) -> None:
    with pytest.raises(BulkcertError, match="The shared store can't be used") as error:
        Run(shared.job(), store=f"postgresql:///?host={tmp_path}")
    assert error.value.exit_code == 2


async def test_a_host_does_not_begin_by_rules_that_were_amended_meanwhile(
    shared: SharedJob, tmp_path: Path
) -> None:
    credentials = {"ENOS_APP_KEY": "key", "ENOS_APP_SECRET": "secret"}
    with Run(shared.job("one")) as run:
        shared.settle(run, State.SUCCEEDED)
        path = shared.job("two").file
        assert path is not None
        with path.open("a") as file:
            file.write("[protect]\nmax_operations = 3\n")
        with Run(load_job(path), amend=True) as other:
            other._record_amendment()
        with pytest.raises(RunDirectoryError, match="just amended the run") as caught:
            await run.execute(credentials)
    assert caught.value.exit_code == 3
