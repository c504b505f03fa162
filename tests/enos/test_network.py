"""Jobs over a bad network: nothing is lost and nothing is guessed, whatever happens to
connections.

The oracle is the history checker, over the simulator's ledger and the run directory.
"""

from __future__ import annotations

import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from enos_vendor import CREDENTIALS, ENOS, devices, with_requests
from harness import InProcessJob, in_this_process
from history import key_of
from job_folder import write_json_lines
from tcp_proxy import Network

import bulkcert
from bulkcert.errors import EndpointError
from bulkcert.simulator import Behaviour, Simulator

pytestmark = pytest.mark.system

IMPATIENT = {"requests_per_second": 5000, "request_timeout_seconds": 0.5}

NETWORKS = {
    "delays": Network(delay_s=0.05),
    "trickles": Network(bytes_per_second=8000),
    "cuts": Network(cut=0.3, seed=1),
    "half-closes": Network(half_close=0.3, seed=2),
    "goes silent": Network(stall=0.2, seed=3),
    "all of it": Network(delay_s=0.01, cut=0.1, half_close=0.1, stall=0.1, seed=4),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
async def test_every_revocation_arrives_and_none_is_lost(network: Network, tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        devices(60),
        between=network,
        limits=IMPATIENT,
    ) as job:
        await job.run()
        assert set(job.outcomes()) <= {"succeeded", "already_done"}
        assert job.executed("revoke") == Counter(map(key_of, job.rows))
        assert _violations(job) == []


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
async def test_no_renewal_is_executed_twice(network: Network, tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        with_requests(devices(40)),
        between=network,
        limits=IMPATIENT,
    ) as job:
        await job.run()
        assert set(job.outcomes()) == {"succeeded"}
        assert set(job.executed("renew").values()) == {1}
        assert _violations(job) == []


def _violations(job: InProcessJob) -> list[str]:
    """List violations, except for what the ledger can't know: that a response was lost after the
    simulator had sent it, and what an incomplete request was about."""
    unknowable = ("after its success", "incomplete of ")
    return [found for found in job.violations() if not any(it in found for it in unknowable)]


async def test_a_response_that_trickles_past_the_time_out_is_looked_up(tmp_path: Path) -> None:
    behaviour = {"byte_by_byte": 0.3, "byte_interval": 0.05, "faults_on": "revoke"}
    async with in_this_process(
        tmp_path, ENOS, "revoke", devices(20), behaviour=behaviour, limits=IMPATIENT
    ) as job:
        await job.run()
        assert set(job.outcomes()) == {"succeeded"}
        assert job.violations() == []


class Authority:
    """A private CA, and certificates for 127.0.0.1 that it issues."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "private CA")])
        self.file = folder / "ca.pem"
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            self._builder(self._name, self._key.public_key(), timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def context(self, life: timedelta) -> ssl.SSLContext:
        """Make settings for a server whose certificate expires after `life`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(name, key.public_key(), life)
            .add_extension(names, critical=False)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = self._folder / "server.pem"
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        return context

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + life)
        )


def _job(folder: Path, endpoint: str, ca_file: str, count: int) -> bulkcert.Job:
    write_json_lines(folder / "targets.jsonl", devices(count))
    job = folder / "job.toml"
    job.write_text(
        'provider = "enos"\naction = "revoke"\ntargets = "targets.jsonl"\n'
        f'[connection]\nendpoint = "{endpoint}"\norg_id = "o1"\n{ca_file}\n'
        "[limits]\nrequests_per_second = 100\n"
    )
    return bulkcert.load_job(job)


async def test_a_private_ca_is_trusted_when_the_job_names_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.context(timedelta(days=1))
    async with Simulator(Behaviour(limit=0), tls=tls) as simulator:
        job = _job(tmp_path, simulator.endpoint, 'ca_file = "ca.pem"', 20)
        with bulkcert.Run(job, tmp_path / "run") as run:
            summary = await run.execute(CREDENTIALS)
        assert summary.succeeded == 20


async def test_an_unknown_ca_is_not_trusted_and_nothing_is_sent(tmp_path: Path) -> None:
    tls = Authority(tmp_path).context(timedelta(days=1))
    async with Simulator(Behaviour(limit=0), tls=tls) as simulator:
        job = _job(tmp_path, simulator.endpoint, "", 20)
        with (
            bulkcert.Run(job, tmp_path / "run") as run,
            pytest.raises(EndpointError, match="TLS can't verify") as caught,
        ):
            await run.execute(CREDENTIALS)
        assert caught.value.exit_code == 2
        assert not simulator.ledger


async def test_a_certificate_that_expires_stops_the_run_resumably(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.context(timedelta(seconds=3))
    # Each connection carries few requests, so new ones are needed after the certificate expires.
    behaviour = Behaviour(limit=0, keep_alive_requests=5)
    async with Simulator(behaviour, tls=tls) as simulator:
        job = _job(tmp_path, simulator.endpoint, 'ca_file = "ca.pem"', 1000)
        with (
            bulkcert.Run(job, tmp_path / "run") as run,
            pytest.raises(bulkcert.BulkcertError, match="expired") as caught,
        ):
            await run.execute(CREDENTIALS)
        assert caught.value.exit_code == 3
        revoked = sum(e["executed"] for e in simulator.ledger if e["action"] == "revoke")
        assert 0 < revoked < 1000
