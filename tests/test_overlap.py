"""Which earlier runs of this user have done something to the targets of a plan."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from job_folder import toml, write_csv

from bulkcert import load_job
from bulkcert.cli import main
from bulkcert.cli.overlap_screen import overlap_lines
from bulkcert.job import Job
from bulkcert.known_runs import KnownRun, remember
from bulkcert.model import Change, Outcome, State
from bulkcert.overlap import MOST_RUNS, Overlap, overlap_with_earlier_runs
from bulkcert.plan import build
from bulkcert.preparation import prepare
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session
from bulkcert.store.sqlite import SqliteStore
from bulkcert.store.sqlite.keys import Interrupted, KeyList
from bulkcert.targets import TargetFile

DONE, FAILED, UNKNOWN = State.SUCCEEDED, State.FAILED, State.UNKNOWN


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Runs:
    """Jobs in a folder, each with a target file of its own, and their runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times = itertools.count(1_800_000_000)

    def job(
        self, name: str, rows: list[tuple[Any, ...]], header: str = "assetId,certSn", **how: Any
    ) -> Job:
        write_csv(self.folder / f"{name}.csv", rows, header)
        document = {
            "provider": "enos",
            "action": "revoke",
            "targets": f"{name}.csv",
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
        }
        (self.folder / f"{name}.toml").write_text(toml(document | how))
        return load_job(self.folder / f"{name}.toml")

    def run(self, job: Job, *settled: State, rehearsal: bool = False) -> Path:
        """Plan a run of a job, let a process work on it, and settle its first operations."""
        directory = RunDirectory(self.folder / "runs" / job.name)
        with directory:
            prepare(job, directory, rehearsal=rehearsal)
        store = SqliteStore(directory.checkpoint)
        at_s = float(next(self.times))
        with store.transaction():
            store.claim(len(settled))
            store.record(
                [Change(n, State.IN_FLIGHT, each, 1) for n, each in enumerate(settled, start=1)]
            )
            store.note_session(Session(at_s, at_s))
        store.close()
        for path in directory.path.glob("checkpoint*"):
            os.utime(path, (at_s, at_s))
        provider, action = job.provider.name, job.action.name
        remember(KnownRun(name=job.name, path=directory.path, action=action, provider=provider))
        return directory.path

    def overlap(self, job: Job, **options: Any) -> Overlap:
        directory = RunDirectory(self.folder / "runs" / job.name)
        checkpoint = self.folder / "plan.sqlite3"
        build(job, TargetFile.of(job), checkpoint, directory)
        return overlap_with_earlier_runs(job, checkpoint, directory.path, **options)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


ROWS: list[tuple[Any, ...]] = [("A1", 1), ("A2", 2), ("A3", 3)]


def found(overlap: Overlap) -> list[tuple[str, int, dict[Outcome, int]]]:
    return [(run.name, run.operations, dict(run.outcomes)) for run in overlap.runs]


def test_each_run_is_named_with_how_its_operations_ended_the_newest_first(runs: Runs) -> None:
    runs.run(runs.job("old", ROWS), DONE, FAILED)
    others = [("A3", 3, 4), ("A9", 9, 4), ("A1", 77, 4)]
    runs.run(runs.job("new", others, "assetId,certSn,reason"), UNKNOWN, DONE, DONE)
    runs.run(runs.job("elsewhere", [("B1", 1)]), DONE)
    overlap = runs.overlap(runs.job("plan", ROWS))
    assert found(overlap) == [
        ("new", 1, {Outcome.UNKNOWN: 1}),
        ("old", 3, {Outcome.SUCCEEDED: 1, Outcome.FAILED: 1, Outcome.PENDING: 1}),
    ]
    assert (overlap.left, overlap.unreadable) == (0, 0)
    assert overlap.runs[0].action == "revoke"
    assert overlap.runs[0].at_s > overlap.runs[1].at_s


def test_the_device_counts_where_a_selection_is_still_to_find_the_certificates(
    runs: Runs,
) -> None:
    runs.run(runs.job("old", [("A1", 1), ("A1", 11), ("A2", 2)]), DONE, FAILED, DONE)
    plan = runs.job("plan", [("A1",), ("A3",)], "assetId", select={"issued_before": "2026-01-01"})
    assert found(runs.overlap(plan)) == [("old", 1, {Outcome.SUCCEEDED: 1, Outcome.FAILED: 1})]


def test_what_is_of_another_account_or_did_nothing_is_not_counted(runs: Runs) -> None:
    at = {"endpoint": "https://example.com"}
    runs.run(runs.job("other-org", ROWS, connection={**at, "org_id": "o2"}), DONE)
    runs.run(runs.job("staging", ROWS, connection={"endpoint": "https://x.com", "org_id": "o1"}))
    runs.run(runs.job("list", [("A1",)], "assetId", action="list"), DONE)
    runs.run(runs.job("rehearsed", ROWS), DONE, rehearsal=True)
    own = runs.job("plan", ROWS)
    runs.run(own, DONE)
    assert runs.overlap(own) == Overlap()
    # the same account, whether the connection or each row names it
    rows = [(*row, "o1") for row in ROWS]
    runs.run(runs.job("by-row", rows, "assetId,certSn,orgId", connection=at), DONE)
    assert [run.name for run in runs.overlap(own).runs] == ["by-row"]


def test_serial_numbers_that_are_text_are_compared_as_such(runs: Runs) -> None:
    where = {
        "provider": "apsaramq",
        "connection": {"region": "cn-hangzhou", "instance_id": "i"},
    }
    header = "DeviceSn,CaSn"
    first = runs.job("old", [("0a", "1"), ("0A", "1")], header, action="inactivate", **where)
    runs.run(first, DONE, FAILED)
    plan = runs.job("plan", [("0a", "1"), ("a", "1")], header, action="delete", **where)
    assert found(runs.overlap(plan)) == [("old", 1, {Outcome.SUCCEEDED: 1})]


def test_what_can_not_be_read_disturbs_nothing(runs: Runs) -> None:
    runs.run(runs.job("old", ROWS), DONE)
    damaged = runs.run(runs.job("damaged", ROWS), DONE)
    (damaged / "checkpoint.sqlite3").write_bytes(b"x" * 5000)
    overlap = runs.overlap(runs.job("plan", ROWS))
    assert [run.name for run in overlap.runs] == ["old"]
    assert overlap.unreadable == 1


def test_only_the_newest_runs_are_compared(runs: Runs) -> None:
    for number in range(MOST_RUNS + 2):
        runs.run(runs.job(f"run-{number}", ROWS), DONE)
    overlap = runs.overlap(runs.job("plan", ROWS))
    assert [run.name for run in overlap.runs] == [f"run-{n}" for n in range(MOST_RUNS + 1, 1, -1)]
    assert overlap.left == 2


def test_a_comparison_that_takes_too_long_ends_and_says_so(runs: Runs) -> None:
    for name in ("old", "new"):
        runs.run(runs.job(name, ROWS), DONE)
    plan = runs.job("plan", ROWS)

    def clock() -> Iterator[float]:
        # begun; the plan is read; the newer run is read; then it has taken too long
        yield from (0.0, 1.0, 1.0)
        yield from itertools.repeat(100.0)

    overlap = runs.overlap(plan, clock=clock().__next__)
    assert ([run.name for run in overlap.runs], overlap.left) == (["new"], 1)
    overlap = runs.overlap(plan, clock=itertools.count(0, 100).__next__)
    assert (overlap.runs, overlap.left) == ((), 2)


def test_a_device_that_is_named_in_another_way_can_not_be_compared(runs: Runs) -> None:
    named = [("P", "D1", 1, ""), ("", "", 2, "A2")]
    runs.run(runs.job("old", named, "productKey,deviceKey,certSn,assetId"), DONE, DONE)
    plan = runs.job("plan", [("A2", 2), ("A1", 1)])
    assert found(runs.overlap(plan)) == [("old", 1, {Outcome.SUCCEEDED: 1})]


def test_what_was_not_compared_is_shown() -> None:
    def shown(overlap: Overlap) -> list[str]:
        return [" ".join(line.split()) for line in overlap_lines(overlap)]

    assert shown(Overlap()) == []
    assert shown(Overlap(left=2, unreadable=1)) == [
        "earlier runs 2 older runs were not compared: that would take too long",
        "1 run can't be read, and may overlap as well",
    ]


def test_numbers_in_both_lists_are_counted_in_all_and_by_group() -> None:
    with KeyList(lambda: False) as keys:
        keys.fill([*range(1000), 7])
        others = [(n, str(n % 2)) for n in range(500, 1500)]
        assert keys.count(others) == (500, {"0": 250, "1": 250})
        assert keys.count([(1, "a"), (1, "b"), (1, "b")]) == (1, {"a": 1, "b": 1})


def test_a_long_statement_is_interrupted() -> None:
    is_over = False

    def others() -> Iterator[tuple[int, str]]:
        nonlocal is_over
        yield from ((n, "a") for n in range(50_000))
        is_over = True  # all have been read, and are to be counted now

    with KeyList(lambda: is_over) as keys:
        keys.fill(range(50_000))
        with pytest.raises(Interrupted):
            keys.count(others())


def test_plan_shows_it_and_run_does_not(runs: Runs) -> None:
    runs.run(runs.job("old", ROWS), DONE, FAILED)
    job = runs.job("plan", ROWS)
    shown = CliRunner().invoke(main, ["plan", str(job.file)])
    text = " ".join(shown.output.split())
    assert "earlier runs 3 of the targets are in old (revoke, last worked on" in text
    assert "1 succeeded, 1 failed, 1 pending" in text
    printed = CliRunner().invoke(main, ["plan", str(job.file), "--json"])
    overlap = json.loads(printed.stdout)["overlap"]
    [run] = overlap["runs"]
    assert (run["name"], run["operations"]) == ("old", 3)
    assert run["outcomes"] == {"succeeded": 1, "failed": 1, "pending": 1}
    assert (overlap["not_compared"], overlap["unreadable"]) == (0, 0)
