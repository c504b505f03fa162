"""Bad responses and bad connections: no outcome is lost, and none is guessed."""

from __future__ import annotations

import datetime
import ipaddress
import time
from pathlib import Path
from typing import Any

import pytest
from harness import JobWith, ProcessJob
from processes import SimulatorProcess

pytestmark = pytest.mark.system

FAULTS = (
    *("json_cut_short", "wrong_types", "html_ok", "redirect", "cut_before", "cut_after"),
    *("cut_inside", "page_before", "page_after", "error_before", "error_after"),
    *("system_overflow", "byte_by_byte", "slow_first_byte", "execute_late"),
)
"""Faults that hide whether a request was executed, or garble the response."""


@pytest.mark.parametrize("cut_style", ["close", "reset"])
def test_bad_responses_lose_no_outcome(cut_style: str, job_with: JobWith) -> None:
    with job_with(
        targets=250,
        **dict.fromkeys(FAULTS, 0.015),
        faults_on="revoke,list",
        cut_style=cut_style,
        slow_first_byte_by=3.0,
        byte_interval=0.001,
        latency=0.005,
        seed=3,
    ) as job:
        job.write(limits={"request_timeout_seconds": 2.0})
        ended = job.run()
        assert ended.code == 0, ended
        assert {entry["fault"] for entry in job.entries()} >= set(FAULTS)
        assert job.violations() == []


def test_a_huge_response_is_not_read_to_its_end(job_with: JobWith) -> None:
    with job_with(targets=4, huge_body=0.5, faults_on="revoke", seed=5) as job:
        assert job.run().code == 0, job.ended
        huge = [entry for entry in job.entries() if entry["fault"] == "huge_body"]
        assert huge
        assert all(entry["answered_at"] is None for entry in huge)
        assert job.violations() == []


def test_bad_responses_of_the_token_service_lose_no_outcome(job_with: JobWith) -> None:
    """Tokens last one second, so the run requests many of them."""
    with job_with(
        targets=120,
        **dict.fromkeys(FAULTS, 0.05),
        token_expired=0.05,
        faults_on="token.get,token.refresh",
        slow_first_byte_by=0.3,
        byte_interval=0.001,
        token_life=1,
        seed=11,
    ) as job:
        job.write(limits={"requests_per_second": 60})
        assert job.run().code == 0, job.ended
        assert job.violations() == []
        assert any(entry["fault"] for entry in job.entries())


def test_an_outage_stops_the_run_before_attempts_are_used_up(job_with: JobWith) -> None:
    outage_s = 4.0
    with job_with(targets=400, outage_after=100, outage_for=outage_s, outage_style="page") as job:
        job.write(
            limits={"requests_per_second": 200},
            circuit_breaker={"stop_after_seconds": 1.5, "failing_share": 0.5},
        )
        ended = job.run()
        assert ended.code == 3, ended
        assert "Nearly everything has failed" in ended.err
        assert job.violations(over=False) == []
        summary = job.summary()
        assert summary["failed"] == 0
        assert summary["pending"] > 0
        assert max(result["attempts"] for result in job.results()) < 8
        time.sleep(outage_s)
        assert job.run().code == 0
        assert job.violations() == []


def test_an_unreachable_provider_stops_the_run_and_is_named(job: ProcessJob) -> None:
    """The reports are written at the end of every run, also of one that stops early."""
    job.write(
        connection={"endpoint": "http://127.0.0.1:9"}, circuit_breaker={"stop_after_seconds": 1}
    )
    ended = job.run()
    assert ended.code == 3, ended
    assert "Could not obtain an access token" in ended.err
    assert job.summary()["pending"] == 60


# ---- TLS


def make_certificate(folder: Path, name: str = "127.0.0.1") -> dict[str, Path]:
    """Write a private key and its self-signed certificate for a loopback address to files."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "private")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = {"tls_cert": folder / "server.pem", "tls_key": folder / "server.key"}
    files["tls_cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files["tls_key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@pytest.mark.parametrize(
    ("options", "trusted", "message"),
    [
        ({}, True, ""),
        ({}, False, "self-signed certificate"),
        ({"name": "127.0.0.9"}, True, "IP address mismatch"),
    ],
    ids=["private CA", "unknown CA", "certificate of another host"],
)
def test_tls_is_verified_with_the_ca_file(
    options: dict[str, Any], trusted: bool, message: str, job: ProcessJob
) -> None:
    files = make_certificate(job.folder, **options)
    ledger = job.folder / "ledger.jsonl"
    # this simulator's HTTP pages need its certificate, so the test reads the ledger file instead
    with SimulatorProcess(ledger, files=files) as secure:
        assert secure.endpoint.startswith("https://")
        ca_file = {"ca_file": "server.pem"} if trusted else {}
        job.write(connection={"endpoint": secure.endpoint, **ca_file})
        ended = job.run(environment=secure.credentials)
        secure.stop()
    sent = ledger.read_text().count("\n")
    if message:
        assert ended.code == 2, ended
        assert "TLS can't verify the certificate" in ended.err
        assert message in ended.err
        assert "ca_file" in ended.err
        assert sent == 0
    else:
        assert ended.code == 0, ended
        assert sent == 61
