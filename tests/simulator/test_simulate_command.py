"""`bulkcert simulate` as a process: what it prints, how it ends and what it leaves behind."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from processes import bulkcert, without_credentials

from bulkcert.cli.simulate import simulate
from bulkcert.simulator import Behaviour
from bulkcert.simulator.behaviour import options

pytestmark = pytest.mark.system

CODE = "from bulkcert.cli.simulate import simulate; simulate()"


@contextmanager
def running(
    *arguments: str, before: str = "pass"
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run a simulator as a process; yields the process and the values it printed.

    Args:
        before: Python code to execute in the process first.
    """
    with subprocess.Popen(
        [sys.executable, "-c", f"{before}; {CODE}", "--port", "0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=without_credentials(measured=before == "pass"),
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "\n")
        announced = dict(line.rstrip("\n").split("=", 1) for line in lines)
        try:
            yield process, {name: shlex.split(value)[0] for name, value in announced.items()}
        finally:
            process.kill()


def fetch(url: str, body: bytes | None = None, context: ssl.SSLContext | None = None) -> bytes:
    with urllib.request.urlopen(url, body, context=context) as response:
        content: bytes = response.read()
    return content


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, "stdin"])
def test_it_stops_cleanly_with_a_complete_ledger(tmp_path: Path, end: signal.Signals | str) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with running("--ledger", str(ledger), "--stop-with-stdin") as (process, announced):
        assert list(announced.items())[1:] == [
            ("ENOS_APP_KEY", "simulator-key"),
            ("ENOS_APP_SECRET", "simulator-secret"),
            ("ALIBABA_CLOUD_ACCESS_KEY_ID", "simulator-id"),
            ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "simulator-secret"),
        ]
        endpoint = announced["ENDPOINT"]
        for _ in range(3):
            fetch(f"{endpoint}/apim-token-service/v2.0/token/get", b"{}")
        if isinstance(end, str):
            _, words = process.communicate()
        else:
            process.send_signal(end)
            _, words = process.communicate()
        assert process.returncode == 0
    assert words.splitlines()[-1] == "stopped"
    lines = [orjson.loads(line) for line in ledger.read_bytes().splitlines()]
    assert [(line["n"], line["code"]) for line in lines] == [(1, 1202), (2, 1202), (3, 1202)]


def test_ctrl_c_prints_no_traceback() -> None:
    with running() as (process, announced):
        fetch(f"{announced['ENDPOINT']}/enos/CA/cacert")  # starts the authority process
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to both processes
        _, words = process.communicate()
        assert process.returncode == 0
    assert "Traceback" not in words


def test_printed_values_are_quoted_for_the_shell() -> None:
    with running("--security-token", "STS a'b") as (_, announced):
        assert announced["ALIBABA_CLOUD_SECURITY_TOKEN"] == "STS a'b"


def test_it_stops_when_stdin_ends() -> None:
    with running("--stop-with-stdin") as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def test_the_end_of_stdin_is_ignored_by_default() -> None:
    with running() as (process, announced):
        assert process.stdin is not None
        process.stdin.close()
        fetch(f"{announced['ENDPOINT']}/_simulator/summary")
        assert process.poll() is None


def test_it_stops_if_the_ledger_cannot_be_written(tmp_path: Path) -> None:
    no_space = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    ledger = str(tmp_path / "ledger.jsonl")
    with running("--ledger", ledger, before=no_space) as (process, announced):
        fetch(f"{announced['ENDPOINT']}/apim-token-service/v2.0/token/get", b"{}")
        _, words = process.communicate()
        assert process.returncode == 1
    assert "the ledger can't be written" in words
    assert "Traceback" not in words


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--host", "192.0.2.1"], "not a loopback address"),
        (["--host", "nowhere"], "does not appear to be an IPv4 or IPv6 address"),
        (["--cut-after", "2"], "cut_after must be at most 1"),
        (["--cut-after", "0.6", "--cut-before", "0.6"], "add up to 1.2"),
        (["--revoke-again", "perhaps"], "perhaps"),
        (["--fleet", "/nowhere.csv"], "does not exist"),
        (["--tls-key", __file__], "--tls-key needs --tls-cert"),
        (["--ledger", "/nowhere/ledger"], "No such file or directory"),
    ],
)
def test_it_does_not_start_with_invalid_arguments(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(simulate, ["--port", "0", *arguments])
    assert done.exit_code == 2
    assert problem in done.stderr
    assert done.stdout == ""


def test_a_port_in_use_is_a_usage_error() -> None:
    with running() as (_, announced):
        port = announced["ENDPOINT"].rpartition(":")[2]
        done = CliRunner().invoke(simulate, ["--port", port])
    assert done.exit_code == 2
    assert f"Port {port} of 127.0.0.1 is in use" in done.stderr
    assert "--port 0 takes any free one" in done.stderr
    assert "Errno" not in done.stderr


JOB = """
provider = "apsaramq"
action = "inactivate"
targets = "mine.csv"
[connection]
endpoint = "http://127.0.0.1:1"
instance_id = "post-cn-1"
[columns]
DeviceSn = "Serial No."
[parameters]
CaSn = "007"
"""


@pytest.mark.parametrize(
    ("more", "expected"), [([], "1"), (["--fleet", "other.csv"], "2")], ids=["own", "other"]
)
def test_the_fleet_may_be_the_targets_of_a_job(
    tmp_path: Path, more: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text(JOB)
    Path("mine.csv").write_text("Serial No.,Note\n0001,\n")
    Path("other.csv").write_text("Serial No.\n0002\n")
    with running("--job", "job.toml", *more) as (_, announced):
        for serial in ("1", "2"):
            url = f"{announced['ENDPOINT']}/_simulator/device?CaSn=007&DeviceSn=000{serial}"
            assert bool(orjson.loads(fetch(url))) is (serial == expected)


def test_a_fleet_with_a_bad_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "mine.csv").write_text("Serial No.\n3.56E+17\n")
    ended = bulkcert("simulate", "--port", "0", "--job", "job.toml", folder=tmp_path)
    assert ended.code == 2
    assert "bad row" in ended.err
    assert "line 2: DeviceSn" in ended.err
    assert ended.out == ""


def test_help_lists_every_option_and_shows_an_example() -> None:
    text = CliRunner().invoke(simulate, ["-h"]).stdout
    for option in options():
        assert f"--{option.name.replace('_', '-')}" in text
    assert "Example:" in text
    assert "--stop-with-stdin" not in text
    assert {field.name for field in dataclasses.fields(Behaviour)} == {
        option.name for option in options()
    }


def test_help_needs_no_network_library() -> None:
    code = "import sys, bulkcert.cli.simulate; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_simulator_imports_nothing_else_of_bulkcert() -> None:
    code = """
import pkgutil, sys, bulkcert
own = set(sys.modules)
import bulkcert.simulator
for module in pkgutil.walk_packages(bulkcert.simulator.__path__, "bulkcert.simulator."):
    __import__(module.name)
others = {name for name in set(sys.modules) - own if name.startswith("bulkcert.")}
sys.exit(sorted(name for name in others if not name.startswith("bulkcert.simulator")) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_serves_https(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, SHA256())
    )
    pem, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with running("--tls-cert", str(pem), "--tls-key", str(secret)) as (_, announced):
        assert announced["ENDPOINT"].startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(pem))
        summary = orjson.loads(fetch(f"{announced['ENDPOINT']}/_simulator/summary", None, context))
    assert summary["requests"] == 0


def test_the_authority_process_ends_with_a_killed_simulator(tmp_path: Path) -> None:
    with running() as (process, announced):
        fetch(f"{announced['ENDPOINT']}/enos/CA/cacert")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        watch = os.pidfd_open(int(child))
        process.kill()
        process.wait()
        # a process file descriptor becomes readable when the process ends
        import select

        assert select.select([watch], [], [], 30)[0]
        os.close(watch)
