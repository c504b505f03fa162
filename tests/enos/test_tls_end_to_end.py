"""A certificate that a job issues is good for TLS until another job revokes it.

Keys, certificates, revocation lists and handshakes are real; only the provider is a stand-in. The
server of the handshakes demands a client certificate of EnOS, and checks it against EnOS'
revocation list, as whatever devices connect to should.
"""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from enos_vendor import ENOS, SUBJECT, devices
from harness import ProcessJob, as_a_process
from job_folder import Row

pytestmark = pytest.mark.system

HUB = "hub.example.com"
KEYS = {"generate": "ecdsa-p256", "subject": SUBJECT}


class Hub:
    """A TLS server as devices connect to.

    Args:
        folder: an empty folder, for its own certificate, and EnOS' CA and revocation list.
    """

    def __init__(self, folder: Path) -> None:
        self._own, self._ca, self._crl = (folder / f"{name}.pem" for name in ("hub", "ca", "crl"))
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HUB)])
        now = datetime.now(UTC)
        day = timedelta(days=1)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        names = x509.SubjectAlternativeName([x509.DNSName(HUB)])
        certificate = builder.add_extension(names, critical=False).sign(key, SHA256())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._own.write_bytes(secret + certificate.public_bytes(Encoding.PEM))

    def fetch_lists(self, endpoint: str) -> None:
        """Fetch the CA and its present revocation list."""
        for name, path in (("cacert", self._ca), ("crl", self._crl)):
            with urllib.request.urlopen(f"{endpoint}/enos/CA/{name}/ECC") as response:
                path.write_bytes(response.read())

    def refusal(self, certificate: Path, key: Path) -> str:
        """Why it refuses a device with this certificate; empty if the device is let in."""
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._ca)
        server.load_verify_locations(self._crl)
        server.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_cert_chain(self._own)
        refusals: list[str] = []

        def serve(connection: socket.socket) -> None:
            try:
                with server.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(b"welcome")
            except ssl.SSLCertVerificationError as error:
                refusals.append(error.verify_message)
                connection.close()

        device = ssl.create_default_context(cafile=self._own)
        device.load_cert_chain(certificate, key)
        left, right = socket.socketpair()
        thread = threading.Thread(target=serve, args=(left,))
        thread.start()
        try:
            # the device's part of the handshake is over before the server has judged it
            with device.wrap_socket(right, server_hostname=HUB) as secured:
                greeting = secured.recv(100)
        except (ssl.SSLError, ConnectionError):
            greeting = b""
        thread.join()
        assert (greeting == b"welcome") == (not refusals)
        return "".join(refusals)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two for jobs, and one for the server."""
    made = [tmp_path / name for name in ("first", "second", "hub")]
    for folder in made:
        folder.mkdir()
    return made


def files_of(job: ProcessJob) -> list[list[Path]]:
    """Certificate and key of each of a job's results."""
    names = ("certificate_file", "key_file")
    return [[job.run_dir / result["result"][name] for name in names] for result in job.results()]


def new_row(job: ProcessJob) -> Row:
    """The row of a target file that names the first new certificate."""
    result = job.results()[0]
    serial = result["result"]["certSN"]
    return {"assetId": result["target"]["assetId"], "certSn": serial}


def test_a_new_certificate_is_accepted_until_it_is_revoked(folders: list[Path]) -> None:
    first_folder, second_folder, hub_folder = folders
    hub = Hub(hub_folder)
    with as_a_process(first_folder, ENOS, "renew", devices(2)) as renewal:
        renewal.write(keys=KEYS, parameters={"validDay": 30})
        assert renewal.run().code == 0, renewal.ended
        files = files_of(renewal)
        hub.fetch_lists(renewal.simulator.endpoint)
        assert [hub.refusal(*each) for each in files] == ["", ""]

        rows = [new_row(renewal)]
        revocation = ProcessJob(second_folder, ENOS, "revoke", rows, renewal.simulator)
        assert revocation.run().code == 0, revocation.ended
        assert revocation.outcomes() == ["succeeded"]

        assert hub.refusal(*files[0]) == ""  # by yesterday's list it is still good
        hub.fetch_lists(renewal.simulator.endpoint)
        assert [hub.refusal(*each) for each in files] == ["certificate revoked", ""]


@pytest.mark.parametrize("supersedes", [True, False])
def test_a_rotation_lets_the_new_certificate_in_and_the_old_one_out(
    folders: list[Path], supersedes: bool
) -> None:
    first_folder, second_folder, hub_folder = folders
    hub = Hub(hub_folder)
    behaviour = {"renew_revokes_old": supersedes}
    with as_a_process(first_folder, ENOS, "renew", devices(1), **behaviour) as renewal:
        renewal.write(keys=KEYS)
        assert renewal.run().code == 0, renewal.ended
        rows = [new_row(renewal)]
        rotation = ProcessJob(second_folder, ENOS, "rotate", rows, renewal.simulator)
        rotation.write(keys=KEYS)
        assert rotation.run().code == 0, rotation.ended
        hub.fetch_lists(renewal.simulator.endpoint)
        assert hub.refusal(*files_of(rotation)[0]) == ""
        assert hub.refusal(*files_of(renewal)[0]) == "certificate revoked"
