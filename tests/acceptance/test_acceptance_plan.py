"""`bulkcert plan`: it checks and shows everything, sends nothing and leaves nothing behind."""

from __future__ import annotations

import gzip

import pytest
from harness import ProcessJob

pytestmark = pytest.mark.system


def test_plan_shows_what_a_run_would_do_and_leaves_nothing_behind(job: ProcessJob) -> None:
    job.write(
        parameters={"reason": "KEY_COMPROMISE"},
        limits={"requests_per_second": 100, "in_flight": 30},
    )
    job.write_rows([("A", 1), ("B", 2), *((f"C{n}", n) for n in range(58)), ("A", 1)])
    before = sorted(job.folder.rglob("*"))
    ended = job.bulkcert("plan", job.job_file)  # without credentials
    assert ended.code == 0, ended
    shown = " ".join(ended.out.split())
    assert "job: revoke on enos, which can't be undone" in shown
    assert "operations 60 from 61 rows, 1 repeated" in shown
    assert "line 62: the same operation as line 2" in shown
    assert "KEY_COMPROMISE" in shown
    assert "100 requests in any second, 30 in flight" in shown
    assert "at least 0.6 s" in shown
    assert shown.count("WARNING") == 1
    assert "publishes its revocation list daily at 00:00" in shown
    assert "a connection that is open goes on" in shown
    assert ended.err == ""
    assert job.entries() == []
    left = [path for path in sorted(job.folder.rglob("*")) if path not in before]
    assert [path.name for path in left] in ([], ["runs", "job", ".gitignore", "repeated.csv"])


def test_plan_shows_the_first_request_with_all_secrets_masked(job: ProcessJob) -> None:
    del job.document["limits"]
    job.write()
    ended = job.bulkcert("plan", job.job_file, environment=job.simulator.credentials)
    assert f"action=revoke&assetId={job.rows[0]['assetId']}&orgId=o1" in ended.out
    assert '{"certSn":1000}' in ended.out
    for name in ("apim-accesstoken", "apim-timestamp", "apim-signature"):
        assert f"{name}: ***" in ended.out
    # the default ceiling is the limit that the provider documents
    assert "500 requests in any second, 1,000 in flight" in ended.out


def test_plan_lists_all_bad_rows_in_rejected_csv_and_prints_the_first_twenty(
    job: ProcessJob,
) -> None:
    job.write_rows([(f"A{n}", -n) for n in range(1, 31)])
    ended = job.bulkcert("plan", job.job_file)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.count("certSn must not be negative") == 20
    assert "line 2: certSn must not be negative" in ended.err
    assert "and 10 more" in ended.err
    rejected = (job.run_dir / "rejected.csv").read_text().splitlines()
    own = "rejected_line,rejected_field,rejected_reason,rejected_text"
    assert rejected[0] == f"{own},assetId,certSn"
    assert len(rejected) == 31
    assert rejected[-1] == "31,certSn,certSn must not be negative,,A30,-30"
    # once the file is fixed, the list is removed
    job.write_rows([("A", 1)])
    assert job.bulkcert("plan", job.job_file).code == 0
    assert not (job.run_dir / "rejected.csv").exists()


def test_a_ceiling_above_the_documented_limit_is_accepted_with_a_warning(job: ProcessJob) -> None:
    ended = job.bulkcert("plan", job.job_file)
    assert ended.code == 0
    assert "3000, above the 500" in " ".join((ended.out + ended.err).split())


CSV = "assetId,certSn\r\nT1,1\r\nT2,2\r\n"
JSONL = '{"assetId": "T1", "certSn": 1}\n{"assetId": "T2", "certSn": "2"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("crlf.csv", CSV.encode()),
        ("bom.csv", CSV.encode("utf-8-sig")),
        ("zipped.csv.gz", gzip.compress(CSV.encode())),
        ("lines.jsonl", JSONL.encode()),
        ("zipped.jsonl.gz", gzip.compress(JSONL.encode("utf-8-sig"))),
    ],
)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_targets_are_read_in_every_format(
    name: str, content: bytes, source: str, job: ProcessJob
) -> None:
    (job.folder / name).write_bytes(content)
    job.write(targets=name if source == "file" else "-")
    stdin = None if source == "file" else content
    ended = job.bulkcert("plan", job.job_file, stdin=stdin)
    assert ended.code == 0, ended
    assert "operations     2 from 2 rows" in ended.out


@pytest.mark.parametrize("command", ["plan", "run", "status", "results", "simulate"])
def test_the_help_of_every_command_shows_an_example(command: str, job: ProcessJob) -> None:
    ended = job.bulkcert(command, "-h")
    assert ended.code == 0
    assert f"bulkcert {command} " in ended.out.split("Example", 1)[1]
