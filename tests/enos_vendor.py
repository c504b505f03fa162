"""EnOS for the harness: its `Vendor` value, rows of target files, and signing requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import JobUnderTest, Vendor
from history import Key, key_of
from job_folder import Row

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CREDENTIALS = {"ENOS_APP_KEY": "simulator-key", "ENOS_APP_SECRET": "simulator-secret"}
SUBJECT = "C=CN, ST=Shanghai, L=Shanghai, O=EnOS, OU=Meters, CN={assetId}"


def devices(count: int) -> list[Row]:
    """Rows of a target file: devices `A0`, `A1`, … with a certificate each."""
    return [{"assetId": f"A{number}", "certSn": 1000 + number} for number in range(count)]


def with_requests(rows: Iterable[Row]) -> list[Row]:
    """The same rows, each with a signing request."""
    return [row | {"csr": signing_request(row["assetId"])} for row in rows]


def signing_request(name: str, key: PrivateKey | None = None) -> str:
    """A signing request in PEM for a device of this name."""
    labels = {"C": "2.5.4.6", "ST": "2.5.4.8", "L": "2.5.4.7", "O": "2.5.4.10", "OU": "2.5.4.11"}
    values = {"C": "CN", "ST": "Shanghai", "L": "Shanghai", "O": "EnOS", "OU": "Meters"}
    names = {labels[label]: value for label, value in values.items()} | {"2.5.4.3": name}
    subject = x509.Name(
        [x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in names.items()]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def public_key(owner: Any) -> bytes:
    """The public key of a certificate, a request or a private key, comparable."""
    key = owner.public_key()
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def new_certificate(job: JobUnderTest, result: Row) -> x509.Certificate:
    """The certificate that a result names."""
    path = job.run_dir / result["result"]["certificate_file"]
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def false_claims(job: JobUnderTest) -> Iterator[str]:
    """Results that do not name what their own renewal issued, or name something else."""
    issued: dict[Key, list[str]] = {}
    for entry in job.entries("renew"):
        if entry["executed"]:
            key = Key(entry["device"], str(entry["certSn"]))
            issued.setdefault(key, []).append(str(entry["issued"]))
    for result in job.results():
        own = issued.get(key_of(result["target"]), [])
        claimed = (result["result"] or {}).get("certSN")
        if claimed and claimed not in own:
            yield f"line {result['line']}: claims {claimed}, but its renewal issued {own or 'none'}"
        if own and not claimed and result["outcome"] not in ("unknown", "pending"):
            yield f"line {result['line']}: is {result['outcome']}, but its renewal issued {own}"


ENOS = Vendor(
    name="enos",
    credentials=CREDENTIALS,
    connection={"org_id": "o1"},
    behaviour={"limit": 0, "retry_after": 0},
    checks=(false_claims,),
)
