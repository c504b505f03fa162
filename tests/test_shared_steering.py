"""Steering a run on which several hosts work, and finding it by its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from job_folder import devices, toml, write_csv
from shared_run import SharedRun

from bulkcert import Run, load_job, results
from bulkcert.cli import main
from bulkcert.control import Verb
from bulkcert.errors import RunDirectoryError
from bulkcert.known_runs import KnownRun, remember
from bulkcert.rundir import RunDirectory
from bulkcert.runs import find_run
from bulkcert.steering import ControlRequest, Force, Steered
from bulkcert.store.base import Session
from bulkcert.store.place import SharedPlace

pytestmark = pytest.mark.system


@pytest.fixture
def run(tmp_path: Path, shared_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedRun]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return SharedRun(tmp_path, shared_store, 3)


def directory_of(run: SharedRun) -> RunDirectory:
    return RunDirectory(Path("runs", run.name), place=SharedPlace(run.dsn, run.name))


def steer(
    run: SharedRun, verb: Verb, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]
) -> Steered:
    """Ask for something; with each look at the run the next thing happens, then patience ends."""
    clock, waiting = [0.0], iter(steps)

    def sleep(_: float) -> None:
        if (step := next(waiting, None)) is not None:
            step()
        else:
            clock[0] += 1e6

    monkeypatch.setattr("bulkcert.steering.time.sleep", sleep)
    monkeypatch.setattr("bulkcert.steering.time.monotonic", lambda: clock[0])
    asked = ControlRequest(directory_of(run), verb, why="busy")
    asked.record()
    return asked.wait()


def obey(run: SharedRun, lease: str) -> None:
    run.execute("UPDATE bulkcert.lease SET control = 1 WHERE id = %s::uuid", lease)


def test_a_control_is_in_force_when_each_host_has_it_or_is_fenced(
    run: SharedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(1.0, 2.0, under_way=7, open_requests=0)
    first, second = run.host("ops1", session=session), run.host("ops2", session=session)
    seen = steer(
        run,
        Verb.PAUSE,
        monkeypatch,
        lambda: obey(run, first),
        lambda: run.execute(
            "UPDATE bulkcert.lease SET state = 'fenced', ended_by = 'ops1' WHERE id = %s::uuid",
            second,
        ),
    )
    assert seen.force is Force.IN_FORCE
    assert ([host.name for host in seen.fenced], seen.missing) == (["ops2"], [])
    assert seen.now.session is not None
    assert seen.now.session.under_way == 14


def test_a_host_that_does_not_answer_is_named(
    run: SharedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run.host("ops1")
    run.host("ops2")
    seen = steer(run, Verb.PAUSE, monkeypatch, lambda: obey(run, first))
    assert (seen.force, [host.name for host in seen.missing]) == (Force.PENDING, ["ops2"])


def test_a_pause_waits_for_open_requests_and_a_stop_for_the_end(
    run: SharedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = run.host("ops1", session=Session(1.0, 2.0, open_requests=3))
    seen = steer(run, Verb.PAUSE, monkeypatch, lambda: obey(run, lease))
    assert (seen.force, seen.now.session and seen.now.session.open_requests) == (Force.IN_FORCE, 3)
    left = "UPDATE bulkcert.lease SET state = 'left', control = 2 WHERE id = %s::uuid"
    seen = steer(run, Verb.STOP, monkeypatch, lambda: run.execute(left, lease))
    assert (seen.force, seen.now.running) == (Force.IN_FORCE, False)


def test_a_host_that_has_died_alone_is_not_waited_for(
    run: SharedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.host("ops1", beat_s=100.0)
    assert steer(run, Verb.PAUSE, monkeypatch).force is Force.NO_PROCESS


# ---- by name


def invoke(*words: object, store: str = "") -> tuple[int, str, str]:
    os.environ["BULKCERT_STORE"] = store
    try:
        ended = CliRunner().invoke(main, list(map(str, words)))
    finally:
        del os.environ["BULKCERT_STORE"]
    return ended.exit_code, ended.stdout, ended.stderr


def test_every_command_finds_a_run_of_a_store_by_its_name(run: SharedRun, tmp_path: Path) -> None:
    option, report = ("--store", run.dsn), tmp_path / "report.html"
    for words in (
        ("status", run.name, "--json"),
        ("hosts", run.name),
        ("results", run.name),
        ("history", run.name, "assetId=A1"),
        ("report", run.name, "-o", report),
        ("control", "pause", run.name),
    ):
        assert invoke(*words)[0] == 2  # nothing names a store
        for found in (invoke(*words, *option), invoke(*words, store=run.dsn)):
            assert (found[0], found[2]) == (0, ""), words
    assert not (tmp_path / "runs").exists()
    listed = invoke("runs", tmp_path, *option)[1]
    [line] = [line for line in listed.splitlines() if line.startswith(run.name)]
    assert ("not begun" in line, line.endswith(run.dsn)) == (True, True)


def test_a_name_that_is_here_and_in_the_store_is_an_error_that_names_both(
    run: SharedRun, tmp_path: Path
) -> None:
    write_csv(tmp_path / "targets.csv", devices(2))
    document = {
        "name": run.name,
        "provider": "enos",
        "action": "revoke",
        "targets": "targets.csv",
        "connection": {"endpoint": "https://example.com", "org_id": "o1"},
    }
    (tmp_path / "job.toml").write_text(toml(document))
    with Run(load_job(tmp_path / "job.toml"), store="") as local:
        path = local.directory.path
    assert find_run(run.name).path == path
    with pytest.raises(RunDirectoryError, match="one of 2 runs") as both:
        find_run(run.name, run.dsn)
    assert (str(path) in both.value.problem, run.dsn in both.value.problem) == (True, True)
    assert find_run(str(path), run.dsn).path == path
    # of a job, the run is meant that `run` would go on with
    assert not find_run("job.toml").place.is_shared
    assert find_run("job.toml", run.dsn).place == SharedPlace(run.dsn, run.name)


def test_the_directory_of_a_host_stands_for_the_run(run: SharedRun, tmp_path: Path) -> None:
    path = tmp_path / "here"
    with RunDirectory(path, place=SharedPlace(run.dsn, run.name)):
        pass
    assert find_run(str(path)).place == SharedPlace(run.dsn, run.name)
    assert len(list(results(path))) == 3
    remember(KnownRun(name=run.name, path=path, action="revoke", provider="enos"))
    for store in ("", run.dsn):
        assert find_run(run.name, store).path == path
    shutil.rmtree(path)
    assert find_run(run.name, run.dsn).path == tmp_path / "runs" / run.name
