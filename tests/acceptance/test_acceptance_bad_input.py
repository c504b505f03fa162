"""Bad input: a clear message, exit code 2, no traceback, and nothing sent.

Each case uses `run` with credentials and `--yes`, so that only the bad input keeps it from sending.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS, devices
from harness import ProcessJob
from processes import Ended, SimulatorProcess

pytestmark = pytest.mark.system

GOOD = b"assetId,certSn\nA1,1\nA2,2\n"


def assert_refused(job: ProcessJob, ended: Ended, *messages: str) -> None:
    """Assert that nothing was sent, and that the messages appear in the output."""
    assert ended.code == 2, ended
    assert ended.out == ""
    for message in messages:
        assert message in ended.err, ended.err
    assert len(ended.err.encode()) < 20_000
    assert not (job.run_dir / "checkpoint.sqlite3").exists()
    assert job.entries() == []


TARGETS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "missing column": (b"assetId\nA1\n", ("certSn is missing",)),
    "no identifier": (b"certSn\n1\n", ("assetId, or productKey and deviceKey",)),
    "half an identifier": (b"productKey,certSn\np,1\n", ("deviceKey",)),
    "a damaged identifier": (
        b"assetId,certSn\nA1,1\n3.56217E+17,2\n",
        ("line 3: assetId is in scientific notation", "'3.56217E+17'"),
    ),
    "a repeated header": (GOOD + GOOD, ("line 4: repeats the header",)),
    "neither identifier": (
        b"assetId,productKey,deviceKey,certSn\n,,,1\n",
        ("line 2:", "does not name the device"),
    ),
    "certSn empty": (b"assetId,certSn\nA1,1\nA2,\n", ("line 3: certSn is empty or missing",)),
    "certSn negative": (b"assetId,certSn\nA1,-1\n", ("line 2: certSn must not be negative",)),
    "certSn not a number": (
        b"assetId,certSn\nA1,52a\n",
        ("line 2: certSn must be a whole number",),
    ),
    "certSn a float": (b"assetId,certSn\nA1,52.0\n", ("line 2: certSn must be a whole number",)),
    "certSn beyond 64 bits": (
        b"assetId,certSn\nA1,9223372036854775808\n",
        ("line 2: certSn is beyond 64 bits",),
    ),
    "unknown reason": (
        b"assetId,certSn,reason\nA1,1,BORED\n",
        ("line 2: reason is not a revocation reason", "KEY_COMPROMISE"),
    ),
    "unassigned reason": (b"assetId,certSn,reason\nA1,1,2\n", ("line 2: reason is not",)),
    "one certificate, two reasons": (
        b"assetId,certSn,reason\nA1,1,1\nA1,1,4\n",
        ("line 3:", "the same certificate as line 2, with other parameters"),
    ),
    "NUL byte": (b"assetId,certSn\nA\x001,1\n", ("line 2:", "NUL")),
    "invalid UTF-8": (b"assetId,certSn\nA\xff,1\n", ("line 2:", "not valid UTF-8")),
    "a line of 10 MB": (
        b"assetId,certSn\nA1,1\n" + b"A" * 10_000_000 + b",1\n",
        ("line 3:", "longer than 1 MiB"),
    ),
    "an unclosed quote": (b'assetId,certSn\n"A1,1\nA2,2\n', ("line 2", "quote")),
    "too many cells": (b"assetId,certSn\nA1,1,2\n", ("line 2: has 3 cells",)),
    "empty": (b"", ("no targets",)),
    "only a header": (b"assetId,certSn\n", ("no targets",)),
    "semicolons": (b"assetId;certSn\nA1;1\n", ("Separate the columns with commas",)),
}


Batch = dict[str, tuple[ProcessJob, Ended]]


def run_all(
    folder: Path,
    simulator: SimulatorProcess,
    cases: Iterable[str],
    prepare: Callable[[ProcessJob, str], None],
) -> Batch:
    """Run each case in its own folder, one process per CPU at a time."""

    def run(case: str) -> tuple[ProcessJob, Ended]:
        own = folder / case.replace(" ", "-")
        own.mkdir()
        job = ProcessJob(own, ENOS, "revoke", devices(60), simulator)
        prepare(job, case)
        return job, job.run()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(cases, pool.map(run, cases), strict=True))


@pytest.fixture(scope="module")
def bad_targets(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> Batch:
    def prepare(job: ProcessJob, case: str) -> None:
        job.target_file.write_bytes(TARGETS[case][0])

    return run_all(tmp_path_factory.mktemp("targets"), simulator, TARGETS, prepare)


@pytest.mark.parametrize("case", TARGETS)
def test_bad_targets_are_refused(case: str, bad_targets: Batch) -> None:
    assert_refused(*bad_targets[case], *TARGETS[case][1])


def test_bad_lines_of_json_are_reported_with_their_line_numbers(job: ProcessJob) -> None:
    (job.folder / "fleet.jsonl").write_text(
        '{"assetId": "A1", "certSn": 1}\n{"assetId": "A2", "certSn": 1.5}\n{"assetId":\n[]\n'
    )
    messages = ("line 2: certSn must be a whole number", "line 3:", "line 4:")
    assert_refused(job, job.run("--targets", "fleet.jsonl"), *messages)


def _gzip_cut_short(folder: Path) -> str:
    (folder / "t.csv.gz").write_bytes(gzip.compress(GOOD * 1000)[:-9])
    return "t.csv.gz"


def _not_gzip(folder: Path) -> str:
    (folder / "t.csv.gz").write_bytes(GOOD)
    return "t.csv.gz"


def _folder(folder: Path) -> str:
    (folder / "t.csv").mkdir()
    return "t.csv"


def _unknown_format(folder: Path) -> str:
    (folder / "t.ods").write_bytes(GOOD)
    return "t.ods"


FILES: dict[str, tuple[Callable[[Path], str], str]] = {
    "gzip cut short": (_gzip_cut_short, "cut short or damaged"),
    "not gzip": (_not_gzip, "gzip"),
    "a directory": (_folder, "directory"),
    "missing": (lambda folder: "nowhere.csv", "No such file"),
    "unknown format": (_unknown_format, "ends in one of .csv"),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> Batch:
    def prepare(job: ProcessJob, case: str) -> None:
        job.write(targets=FILES[case][0](job.folder))

    return run_all(tmp_path_factory.mktemp("files"), simulator, FILES, prepare)


@pytest.mark.parametrize("case", FILES)
def test_unusable_target_files_are_refused(case: str, bad_files: Batch) -> None:
    job, ended = bad_files[case]
    assert_refused(job, ended, job.document["targets"], FILES[case][1])


def test_empty_and_closed_standard_input_are_refused(job: ProcessJob) -> None:
    assert_refused(job, job.run("--targets", "-", stdin=b""), "no targets")
    closed = job.run("--targets", "-", preexec_fn=lambda: os.close(0))
    assert_refused(job, closed, "standard input")


JOBS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "http to another host": (
        {"connection": {"endpoint": "http://apim.example.com"}},
        ("https://",),
    ),
    "secret": ({"connection": {"app_secret": "hush"}}, ("connection.app_secret", "environment")),
    "unknown key": ({"limits": {"request_per_second": 5}}, ("requests_per_second",)),
    "unknown section": ({"limit": {"in_flight": 5}}, ("limits",)),
    "unknown provider": ({"provider": "enoss"}, ("enos",)),
    "unknown action": ({"action": "revok"}, ("revoke",)),
    "unknown parameter": ({"parameters": {"Reason": 1}}, ("reason",)),
    "bad parameter": ({"parameters": {"reason": "BORED"}}, ("parameters.reason",)),
    "a ceiling of 0": ({"limits": {"requests_per_second": 0}}, ("limits.requests_per_second",)),
    "TLS verification off": ({"connection": {"verify": "false"}}, ("connection.verify",)),
    "missing CA file": (
        {"connection": {"endpoint": "https://127.0.0.1:9", "ca_file": "no.pem"}},
        ("ca_file", "no.pem"),
    ),
}


@pytest.fixture(scope="module")
def bad_jobs(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> Batch:
    def prepare(job: ProcessJob, case: str) -> None:
        job.write(**JOBS[case][0])

    return run_all(tmp_path_factory.mktemp("jobs"), simulator, JOBS, prepare)


@pytest.mark.parametrize("case", JOBS)
def test_bad_jobs_are_refused(case: str, bad_jobs: Batch) -> None:
    job, ended = bad_jobs[case]
    assert "hush" not in ended.err
    assert ended.code == 2, ended
    for words in JOBS[case][1]:
        assert words in ended.err, ended.err
    assert job.entries() == []


def test_a_job_that_is_not_toml_is_refused_with_its_line_number(job: ProcessJob) -> None:
    job.job_file.write_text('provider = "enos"\naction = revoke\n')
    assert_refused(job, job.run(), "line 2", "TOML")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_missing_job_is_refused(command: str, job: ProcessJob) -> None:
    ended = job.bulkcert(command, "nowhere.toml")
    assert ended.code == 2
    assert "nowhere.toml" in ended.err


def test_the_simulator_listens_on_loopback_only(job: ProcessJob) -> None:
    ended = job.bulkcert("simulate", "--host", "0.0.0.0", "--port", "0")
    assert ended.code == 2
    assert "loopback" in ended.err
