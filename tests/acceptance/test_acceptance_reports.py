"""`bulkcert status` and `bulkcert results`: during a run, after it, and without one."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS
from harness import ProcessJob, as_a_process
from job_folder import Row
from processes import stopped, until

from bulkcert.rundir import RunDirectory, is_locked

pytestmark = pytest.mark.system

OUTCOMES = ("succeeded", "already_done", "failed", "unknown", "pending")


def status(job: ProcessJob) -> dict[str, Any]:
    ended = job.bulkcert("status", job.run_dir, "--json")
    assert ended.code == 0, ended
    return dict(json.loads(ended.out))


def test_status_and_results_show_the_progress_of_a_running_run(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 5})
    with job.start("--yes") as command:
        assert job.await_requests(6, command)
        until(lambda: status(job)["seconds_left"])
        with stopped(command):  # the commands take a while, and the run would go on meanwhile
            figures = status(job)
            text = job.bulkcert("status", job.run_dir).out
            lines = job.bulkcert("results", job.run_dir).out.splitlines()
        assert figures["state"] == "running"
        assert sum(figures[name] for name in OUTCOMES) + figures["in_flight"] == 60
        assert 0 < figures["succeeded"] < 60
        assert 0 < figures["requests_per_second"] <= 6
        assert "job: running" in text
        assert "left" in text
        command.kill()
    outcomes = [json.loads(line)["outcome"] for line in lines]
    assert len(outcomes) == 60
    assert set(outcomes) == {"succeeded", "unknown", "pending"}

    figures = status(job)
    assert figures["state"] == "interrupted"
    assert figures["pending"] + figures["unknown"] + figures["succeeded"] == 60
    assert figures["in_flight"] == 0
    assert "To continue from here" in job.bulkcert("status", job.run_dir).out


def test_status_shows_the_outcomes_of_a_finished_run(finished: ProcessJob) -> None:
    figures = status(finished)
    assert figures["state"] == "over"
    assert figures["exit_code"] == 0
    assert figures["succeeded"] == figures["total"] == 60
    text = finished.bulkcert("status", finished.run_dir)
    assert "job: finished" in text.out
    assert text.err == ""


def test_status_never_keeps_a_run_from_starting(tmp_path: Path) -> None:
    """Status tests the lock of the run directory for an instant; a run takes that lock."""
    tmp_path.chmod(0o700)
    deadline = time.monotonic() + 0.5
    wrong = []

    def look() -> None:
        while time.monotonic() < deadline:
            is_locked(tmp_path)

    with ThreadPoolExecutor() as pool:
        watchers = [pool.submit(look) for _ in range(2)]
        while time.monotonic() < deadline:
            with RunDirectory(tmp_path):
                wrong += [] if is_locked(tmp_path) else ["unlocked"]
        for watcher in watchers:
            watcher.result()
    assert not wrong


def test_concurrent_status_commands_do_not_mistake_each_other_for_a_run(tmp_path: Path) -> None:
    deadline = time.monotonic() + 0.3

    def look() -> bool:
        seen = False
        while time.monotonic() < deadline:
            seen |= is_locked(tmp_path)
        return seen

    with ThreadPoolExecutor() as pool:
        assert [watcher.result() for watcher in [pool.submit(look) for _ in range(4)]] == [
            False
        ] * 4


def test_results_prints_the_same_lines_as_results_jsonl(mixed: ProcessJob) -> None:
    ended = mixed.bulkcert("results", mixed.run_dir)
    assert ended.code == 0
    assert ended.out == (mixed.run_dir / "results.jsonl").read_text()


def test_results_prints_csv(mixed: ProcessJob) -> None:
    rows = list(
        csv.DictReader(io.StringIO(mixed.bulkcert("results", mixed.run_dir, "--format", "csv").out))
    )
    results = mixed.results()
    assert [row["line"] for row in rows] == ["2", "3", "4"]
    assert [row["certSn"] for row in rows] == ["1000", "9999", "1001"]
    for name in ("outcome", "message", "request_id", "finished_at"):
        assert [row[name] for row in rows] == [result[name] or "" for result in results]


def test_results_can_be_limited_to_some_outcomes(mixed: ProcessJob) -> None:
    def lines(*words: str) -> list[int]:
        out = mixed.bulkcert("results", mixed.run_dir, *words).out
        return [json.loads(line)["line"] for line in out.splitlines()]

    failed = [r["line"] for r in mixed.results() if r["outcome"] == "failed"]
    assert lines("--outcome", "failed") == failed
    assert lines("--outcome", "unknown", "--outcome", "pending") == []
    assert lines("--outcome", "failed", "--outcome", "succeeded") == [2, 3, 4]


def test_results_can_be_written_to_a_file(mixed: ProcessJob) -> None:
    ended = mixed.bulkcert("results", mixed.run_dir, "-o", "out.jsonl")
    assert (ended.code, ended.out) == (0, "")
    assert (mixed.folder / "out.jsonl").read_text() == (mixed.run_dir / "results.jsonl").read_text()


def test_results_are_written_into_an_existing_pipe(mixed: ProcessJob) -> None:
    pipe = mixed.folder / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:  # noqa: PTH123
        ended = mixed.bulkcert("results", mixed.run_dir, "-o", "pipe")
        assert (ended.code, ended.out) == (0, "")
        assert reader.read() == (mixed.run_dir / "results.jsonl").read_bytes()
    assert pipe.is_fifo()


@pytest.mark.parametrize("output", ["no/such/folder/out", "/dev/full"])
def test_results_that_cannot_be_written_end_with_a_clear_message(
    output: str, mixed: ProcessJob
) -> None:
    ended = mixed.bulkcert("results", mixed.run_dir, "-o", output)
    assert ended.code not in {0, 3}
    assert output in ended.err


@pytest.mark.parametrize("command", ["status", "results"])
def test_a_folder_without_a_run_is_refused(command: str, finished: ProcessJob) -> None:
    for named, problem in (
        (finished.folder, "does not contain a run"),
        (finished.folder / "nothing", "nor the name of a run"),
    ):
        ended = finished.bulkcert(command, named)
        assert ended.code == 2
        assert problem in ended.err


def test_the_history_of_one_device_has_each_request_that_the_provider_saw(
    tmp_path: Path,
) -> None:
    """The ledger of the simulator is the other side of the history."""
    rows: list[Row] = [{"assetId": f"A{number}", "certSn": number + 1} for number in range(30)]
    with as_a_process(tmp_path, ENOS, "revoke", rows, seed=3, error_after=0.3) as job:
        job.write()
        assert job.run().code == 0
        check_history(job)


def check_history(job: ProcessJob) -> None:
    """Compare the history of the device with the most requests with what the simulator saw."""
    times = Counter(entry["device"] for entry in job.entries("revoke", "list"))
    device, requests = times.most_common(1)[0]
    assert requests > 1
    ended = job.bulkcert("history", job.run_dir, device, "--json")
    (operation,) = json.loads(ended.out)["operations"]
    seen = [entry["event"].replace("_", "") for entry in operation["history"]]
    asked = [e["action"] for e in job.entries("revoke", "list") if e["device"] == device]
    assert [{"attempt": "revoke", "lookup": "list"}[event] for event in seen] == asked
    assert all(entry["source"] == "127.0.0.1" for entry in operation["history"])
    assert all(entry["latency_ms"] >= 0 for entry in operation["history"])
    text = job.bulkcert("history", job.run_dir, device).out
    assert all(f"(request {entry['request_id']})" in text for entry in operation["history"])
    assert job.bulkcert("history", job.run_dir, "assetId=none").code == 2
    (line,) = job.bulkcert("results", job.run_dir, "--target", device).out.splitlines()
    assert json.loads(line)["request_id"] == operation["history"][-1]["request_id"]


def test_a_file_that_is_named_csv_is_csv(finished: ProcessJob, tmp_path: Path) -> None:
    for name, options, start in (
        ("a.csv", (), "line,"),
        ("a.jsonl", (), '{"line":'),
        ("b.csv", ("--format", "jsonl"), '{"line":'),
        ("b.txt", ("--format", "csv"), "line,"),
    ):
        file = tmp_path / name
        ended = finished.bulkcert("results", finished.run_dir, *options, "-o", file)
        assert ended.code == 0, ended
        assert file.read_text().startswith(start)
