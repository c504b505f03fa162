"""Metrics of the command: scraped while it runs, and in a file when it has ended or was killed."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import urllib.request

import pytest
from harness import ProcessJob
from metric_samples import Labels, samples
from processes import Command, until, without_credentials

pytestmark = pytest.mark.system

Found = dict[tuple[str, Labels], float]


def read(content: bytes) -> Found:
    return {(name, labels): value for name, labels, value in samples(content)}


def url_of(command: Command) -> str:
    """Where a command serves its metrics, as it says."""
    assert command.process.stderr
    for line in command.process.stderr:
        if b"Metrics: " in line:
            return line.split()[-1].decode()
    raise AssertionError("it does not say where")


def scraped(url: str) -> Found:
    with urllib.request.urlopen(url, timeout=60) as response:
        return read(response.read())


def total(found: Found, name: str, **labels: str) -> float:
    """The sum of the samples with this name and these labels, whatever others they have."""
    wanted = labels.items()
    return sum(v for (n, at), v in found.items() if n == name and wanted <= dict(at).items())


def test_a_run_is_scraped_while_it_runs_killed_and_resumed(job: ProcessJob) -> None:
    """Beside those who scrape well there are some who connect and say nothing."""
    job.write(limits={"requests_per_second": 3000}, rollout={"canary": 20, "confirm": ["canary"]})
    with contextlib.ExitStack() as stack, job.start("--yes", "--metrics", "0") as command:
        url = url_of(command)
        address = ("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        first = scraped(url)
        for _ in range(30):
            stack.enter_context(socket.create_connection(address, timeout=60))
        until(lambda: total(scraped(url), "bulkcert_not_sending", reason="waiting"))
        found = scraped(url)
        command.kill()
    assert found.keys() == first.keys()
    assert total(found, "bulkcert_operations", outcome="succeeded") == 20
    assert total(found, "bulkcert_operations") == len(job.rows)
    assert total(found, "bulkcert_hosts") == total(found, "bulkcert_wave") == 1
    assert total(found, "bulkcert_not_sending") == 1
    with pytest.raises(ConnectionRefusedError), socket.create_connection(address, timeout=60):
        pass
    file = job.run_dir / "metrics.prom"
    killed = read(file.read_bytes())
    assert total(killed, "bulkcert_hosts") == 1  # it did not end, but the time stands still
    assert total(killed, "bulkcert_exited") == 0
    assert total(killed, "bulkcert_updated_timestamp_seconds") > 0

    before = len(job.entries())
    assert job.bulkcert("control", "go", job.run_dir, "canary").code == 0
    assert job.run("--metrics", ":0").code == 0
    last = read(file.read_bytes())
    assert last.keys() == first.keys()
    assert total(last, "bulkcert_operations", outcome="succeeded") == len(job.rows)
    assert total(last, "bulkcert_requests_total") == len(job.entries()) - before
    assert total(last, "bulkcert_exited") == total(last, "bulkcert_exited", code="0") == 1
    assert total(last, "bulkcert_hosts") == 0


def test_a_taken_port_is_an_error_before_anything_is_sent(job: ProcessJob) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = job.run("--metrics", port)
    assert ended.code == 2
    assert f"served at 127.0.0.1:{port}: Address already in use.\n" in ended.err
    assert "--metrics 0" in ended.err
    assert not job.run_dir.exists()
    assert job.entries() == []


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["plan"], ["status"]])
def test_other_commands_do_without_the_metrics_library(
    finished: ProcessJob, words: list[str]
) -> None:
    if len(words) == 1 and words != ["--help"]:
        words = [*words, str(finished.job_file)]
    code = "import sys; from bulkcert.cli import main; main(standalone_mode=False)"
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *words],
        check=True,
        capture_output=True,
        env=without_credentials(),
    )
    assert b"bulkcert.cli" in ended.stderr
    assert b"prometheus_client" not in ended.stderr
