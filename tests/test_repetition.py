"""A plan is carried out once; and `--new` begins the next run of a job.

The runs are checkpoints in which operations were settled; nothing is sent.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from job_folder import devices, toml, write_csv

from bulkcert import begun_runs, load_job
from bulkcert.errors import RepetitionError, RunDirectoryError
from bulkcert.found_runs import RunState, describe
from bulkcert.model import State
from bulkcert.numbering import Place, following, latest, upcoming
from bulkcert.preparation import prepare
from bulkcert.repetition import OnceOnly, refuse_lost
from bulkcert.rundir import RunDirectory
from bulkcert.runs import find
from bulkcert.store.base import Change, Session
from bulkcert.store.sqlite import SqliteStore

TARGETS = 3
ALL = [State.SUCCEEDED] * TARGETS


class Runs:
    """Runs of jobs in one folder, and what is remembered of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job("renew")

    def job(self, name: str, action: str = "revoke", rows: int = TARGETS) -> Path:
        write_csv(self.folder / f"{name}.csv", devices(rows))
        apsaramq = action == "inactivate"
        where = {"region": "cn-hangzhou", "instance_id": "i1"} if apsaramq else {"org_id": "o1"}
        if apsaramq:
            (self.folder / f"{name}.csv").write_text("DeviceSn,CaSn\n0a,0b\n")
        document = {
            "provider": "apsaramq" if apsaramq else "enos",
            "action": action,
            "targets": f"{name}.csv",
            "connection": where if apsaramq else {"endpoint": "https://example.com", **where},
        }
        (self.folder / f"{name}.toml").write_text(toml(document))
        return self.folder / f"{name}.toml"

    def path(self, name: str = "renew") -> Path:
        return self.folder / "runs" / name

    def once(self, place: Place, job: str = "renew") -> OnceOnly:
        loaded = load_job(self.folder / f"{job}.toml")
        with RunDirectory(place.path) as directory:
            prepare(loaded, directory, number=place.number)
        return OnceOnly(loaded, directory)

    def begin(self, place: Place, *settled: State, job: str = "renew", at: float = 1e9) -> str:
        """Work on a run as a process does; return what it warns of."""
        once = self.once(place, job)
        once.check()
        warning = once.begin()
        with closing(SqliteStore(place.path / "checkpoint.sqlite3")) as store, store.transaction():
            store.claim(len(settled))
            store.record([Change(n, State.IN_FLIGHT, s, 1) for n, s in enumerate(settled, 1)])
            store.note_session(Session(at, at))
        once.end()
        return warning


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Runs(tmp_path)


FIRST = 1


def first(runs: Runs) -> Place:
    return Place(runs.path(), FIRST)


# ---- a plan is carried out once


def test_a_run_goes_on_where_it_is(runs: Runs) -> None:
    assert runs.begin(first(runs), State.SUCCEEDED) == ""
    assert runs.begin(first(runs), at=2e9) == ""
    [known] = begun_runs.recall().runs
    assert (known.name, known.number, known.path) == ("renew", 1, runs.path())
    assert (known.over, known.worked_until) == (False, 2e9)


@pytest.mark.parametrize("settled", [[State.SUCCEEDED], ALL])
def test_the_same_plan_is_refused_in_another_directory(runs: Runs, settled: list[State]) -> None:
    runs.begin(first(runs), *settled)
    with pytest.raises(RepetitionError) as refused:
        runs.begin(Place(runs.folder / "elsewhere", 1))
    assert f"as run 1 of renew in {runs.path()}" in refused.value.problem
    assert "--run-dir" not in str(refused.value)
    assert ("it is over" in refused.value.problem) == (settled == ALL)


def test_the_same_plan_is_refused_under_another_name(runs: Runs) -> None:
    runs.begin(first(runs), State.SUCCEEDED)
    runs.job("renamed")
    with pytest.raises(RepetitionError, match=f"renew in {runs.path()}"):
        runs.begin(Place(runs.path("renamed"), 1), job="renamed")


def test_another_plan_is_not_refused(runs: Runs) -> None:
    runs.begin(first(runs), State.SUCCEEDED)
    runs.job("other", rows=TARGETS + 1)
    runs.begin(Place(runs.path("other"), 1), job="other")
    assert len(begun_runs.recall().runs) == 2


def test_a_copy_of_a_run_is_refused_and_a_moved_one_goes_on(runs: Runs) -> None:
    runs.begin(first(runs), State.SUCCEEDED)
    copy = Place(runs.folder / "copy", 1)
    shutil.copytree(runs.path(), copy.path)
    with pytest.raises(RepetitionError, match=f"copy is a copy of the run in {runs.path()}"):
        runs.begin(copy)
    shutil.rmtree(runs.path())
    runs.begin(copy)
    assert [run.path for run in begun_runs.recall().runs] == [copy.path]


def test_an_older_copy_is_refused_in_place_of_the_run(runs: Runs) -> None:
    """It would do again what has been done since."""
    runs.begin(first(runs), State.SUCCEEDED)
    shutil.copytree(runs.path(), runs.folder / "backup")
    runs.begin(first(runs), at=2e9)
    shutil.rmtree(runs.path())
    shutil.copytree(runs.folder / "backup", runs.path())
    with pytest.raises(RepetitionError, match="would be done again") as refused:
        runs.begin(first(runs))
    [known] = begun_runs.recall().runs
    assert str(known.file) in refused.value.next_step
    known.file.unlink()
    runs.begin(first(runs))


def test_a_deleted_run_that_was_not_over_is_refused_whatever_the_plan(runs: Runs) -> None:
    runs.begin(first(runs), State.SUCCEEDED)
    shutil.rmtree(runs.path())
    with pytest.raises(RepetitionError, match="no longer there, and it was not over") as refused:
        refuse_lost(runs.path())
    [known] = begun_runs.recall().runs
    assert str(known.file) in refused.value.next_step
    with pytest.raises(RepetitionError, match="which is no longer there"):
        runs.begin(Place(runs.folder / "elsewhere", 1))
    with pytest.raises(RunDirectoryError, match="was not over, and is no longer there"):
        following(runs.path(), "renew")


def test_a_deleted_run_that_was_over_is_refused_only_for_its_plan(runs: Runs) -> None:
    runs.begin(first(runs), *ALL)
    shutil.rmtree(runs.path())
    refuse_lost(runs.path())
    with pytest.raises(RepetitionError, match="and it is over"):
        runs.begin(first(runs))


def test_a_run_that_has_claimed_nothing_is_no_obstacle(runs: Runs) -> None:
    """Its process may have died, or its credentials were wrong."""
    assert runs.once(first(runs)).begin() == ""
    runs.begin(Place(runs.folder / "elsewhere", 1), State.SUCCEEDED)


def test_a_run_that_another_process_is_about_to_begin_is_one(runs: Runs) -> None:
    once = runs.once(first(runs))
    with RunDirectory(runs.path()):
        once.begin()
        with pytest.raises(RepetitionError, match="Go on with that one"):
            runs.begin(Place(runs.folder / "elsewhere", 1))


def test_all_plans_of_a_run_are_remembered(runs: Runs) -> None:
    """With a limit that was lowered meanwhile, it is another plan, and the same repetition."""
    runs.begin(first(runs), State.SUCCEEDED)
    job = runs.folder / "renew.toml"
    whole = job.read_text()
    job.write_text(f"{whole}[limits]\nin_flight = 5\n")
    runs.begin(first(runs))
    [known] = begun_runs.recall().runs
    assert len(known.plans) == 2
    for content in (whole, job.read_text()):
        job.write_text(content)
        with pytest.raises(RepetitionError):
            runs.begin(Place(runs.folder / "elsewhere", 1))


# ---- where nothing can be remembered


def test_without_any_memory_a_run_goes_on_with_a_warning(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs.folder / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(runs.folder / "file"))
    warning = runs.begin(first(runs), State.SUCCEEDED)
    assert "It can't be remembered that this plan is begun" in warning
    assert "Not a directory" in warning


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run_id": 1}'])
def test_a_damaged_memory_refuses_what_cannot_be_undone(runs: Runs, content: str) -> None:
    begun_runs.folder().mkdir(parents=True)
    damaged = begun_runs.folder() / "x.json"
    damaged.write_text(content)
    with pytest.raises(RepetitionError, match="can't be told") as refused:
        runs.begin(first(runs))
    assert str(damaged) in refused.value.problem
    runs.job("undoable", "inactivate")
    warning = runs.begin(Place(runs.path("undoable"), 1), State.SUCCEEDED, job="undoable")
    assert str(damaged) in warning


def test_a_damaged_memory_does_not_keep_a_run_from_going_on(runs: Runs) -> None:
    runs.begin(first(runs), State.SUCCEEDED)
    [known] = begun_runs.recall().runs
    known.file.write_text("damaged")
    assert "can't be told" in runs.begin(first(runs))


def test_a_memory_that_cannot_be_written_refuses_what_cannot_be_undone(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.begin(first(runs), State.SUCCEEDED)

    def fails(run: begun_runs.BegunRun) -> None:
        raise OSError(28, "No space left on device", str(run.file))

    monkeypatch.setattr(begun_runs, "remember", fails)
    runs.job("other", rows=TARGETS + 1)
    with pytest.raises(RepetitionError, match="No space left on device"):
        runs.begin(Place(runs.path("other"), 1), job="other")
    assert "No space left on device" in runs.begin(first(runs))


def test_an_entry_under_a_wrong_name_is_damaged(runs: Runs) -> None:
    runs.begin(first(runs), State.SUCCEEDED)
    [known] = begun_runs.recall().runs
    entry = json.loads(known.file.read_bytes())
    (begun_runs.folder() / "copied.json").write_text(json.dumps(entry))
    memory = begun_runs.recall()
    assert len(memory.runs) == len(memory.unreadable) == 1


# ---- the next run


def test_without_a_run_before_the_first_one_is_meant(runs: Runs) -> None:
    assert latest(runs.path(), "renew") == following(runs.path(), "renew") == first(runs)


@pytest.mark.parametrize("settled", [[State.SUCCEEDED], [State.FAILED, State.SUCCEEDED]])
def test_there_is_no_next_run_while_one_is_not_over(runs: Runs, settled: list[State]) -> None:
    runs.begin(first(runs), *settled)
    with pytest.raises(RunDirectoryError, match="is not over") as refused:
        following(runs.path(), "renew")
    assert "--new" in refused.value.next_step
    assert upcoming(runs.path(), "renew") == first(runs)


def test_runs_are_counted_and_the_latest_is_meant(runs: Runs) -> None:
    runs.begin(first(runs), *ALL)
    for number in (2, 3, 4):
        place = following(runs.path(), "renew")
        assert place == Place(runs.path(f"renew-{number}"), number)
        assert upcoming(runs.path(), "renew") == place
        runs.begin(place, *ALL)  # the same plan: it is the next round
        assert latest(runs.path(), "renew") == place
        assert find(str(runs.folder / "renew.toml")) == place.path
        assert following(place.path, "renew").number == number + 1
        found = describe(place.path)
        assert (found.name, found.state) == (f"renew-{number}", RunState.OVER)


def test_a_next_run_that_has_not_begun_stays_the_next(runs: Runs) -> None:
    """It was not confirmed, or its approvals are missing; a plain `run` must not begin it."""
    runs.begin(first(runs), *ALL)
    place = following(runs.path(), "renew")
    runs.once(place)
    assert following(runs.path(), "renew") == place
    assert latest(runs.path(), "renew") == first(runs)
    with RunDirectory(place.path):  # a process waits for its window
        assert latest(runs.path(), "renew") == place


def test_the_number_of_a_deleted_run_is_not_given_again(runs: Runs) -> None:
    runs.begin(first(runs), *ALL)
    runs.begin(following(runs.path(), "renew"), *ALL)
    shutil.rmtree(runs.folder / "runs")
    assert latest(runs.path(), "renew").number == 2
    assert following(runs.path(), "renew").number == 3


def test_the_run_of_another_job_is_not_taken_for_a_later_one(runs: Runs) -> None:
    runs.begin(first(runs), *ALL)
    runs.job("renew-2", rows=TARGETS + 1)
    runs.begin(Place(runs.path("renew-2"), 1), *ALL, job="renew-2")
    assert latest(runs.path(), "renew") == first(runs)
    assert following(runs.path(), "renew").number == 3


def test_two_copies_of_a_job_do_not_begin_the_same_round(runs: Runs) -> None:
    runs.begin(first(runs), *ALL)
    copy = runs.folder / "copy"
    shutil.copytree(runs.path(), copy)
    runs.begin(following(runs.path(), "renew"), *ALL)
    with pytest.raises(RepetitionError, match="as run 2 of renew"):
        runs.begin(following(copy, "renew"))
