"""EnOS for the harness: its `Vendor` value, rows of target files, and signing requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import JobUnderTest
from history import Key, key_of
from job_folder import Row
from vendor import ActionCase, FaultCase, Vendor

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


def signed_certificate(key: PrivateKey | None = None) -> str:
    """A certificate in PEM, signed by its own key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier("2.5.4.3"), "A0")])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=52725,
        not_valid_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2027, 1, 1, tzinfo=UTC),
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


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


_NOT_EXECUTED = (
    *("throttle_retry_after", "error_before", "cut_before", "page_before"),
    *("token_expired", "system_overflow", "html_ok", "redirect"),
)
_EXECUTED = (
    *("error_after", "cut_after", "cut_inside", "page_after", "byte_by_byte"),
    *("json_cut_short", "wrong_types", "huge_body"),
)
_ODD = (
    *("gzip_anyway", "large_header", "surplus", "contradiction"),
    *("overload_retry_after", "page_late"),
)
_LOOKUP_FAULTS = (
    *("cut_after", "json_cut_short", "page_before", "wrong_types", "throttle_retry_after"),
)


def _devices_with_requests(count: int) -> list[Row]:
    return with_requests(devices(count))


def _faults(name: str, kinds: tuple[str, ...], **more: Any) -> FaultCase:
    """A case with all of these faults, one in twenty requests each."""
    behaviour = {
        "seed": 4,
        "byte_interval": 0.0,
        "huge_body_bytes": 8 * 2**20 + 1,
        **dict.fromkeys(kinds, 0.05),
    }
    return FaultCase(
        name=name, behaviour=behaviour | more, rows=50, kinds=frozenset(kinds), on_attempts=True
    )


LIST = ActionCase(
    name="list",
    rows=lambda count: [{"assetId": row["assetId"]} for row in devices(count)],
    sends=("list",),
    absent=11404,
)
REVOKE = ActionCase(
    name="revoke",
    rows=devices,
    sends=("revoke",),
    look_up="list",
    done=lambda rows: [row | {"certStatus": 1} for row in rows],
    already=(
        ({"revoke_again": "refused", "business_error_http": 500}, "already_done"),
        ({"revoke_again": "unbound", "business_error_http": 500}, "already_done"),
        ({"revoke_again": "ok", "business_error_http": 500}, "succeeded"),
    ),
    wanted="revoked",
    absent=11404,
    not_executed="; looked up: the certificate is still valid",
)
RENEW = ActionCase(
    name="renew",
    rows=_devices_with_requests,
    sends=("renew",),
    look_up="list",
    absent=11404,
    not_executed="; looked up: there is no new certificate, the old one is valid",
    looks_first=True,
)
ROTATE = ActionCase(
    name="rotate",
    rows=_devices_with_requests,
    sends=("renew", "revoke"),
    look_up="list",
    wanted="revoked",
    absent=11404,
    not_executed="there is no new certificate, the old one is valid",
    looks_first=True,
)

ENOS = Vendor(
    name="enos",
    credentials=CREDENTIALS,
    connection={"org_id": "o1"},
    behaviour={"limit": 0, "retry_after": 0},
    checks=(false_claims,),
    actions=(LIST, REVOKE, RENEW, ROTATE),
    opening=frozenset({"token.get"}),
    faults=(
        _faults("not executed", _NOT_EXECUTED, renew_revokes_old=True),
        _faults("executed", _EXECUTED, renew_revokes_old=False),
        _faults("odd", _ODD),
    ),
    always_executed=("error_after", "cut_after", "page_after", "wrong_types"),
    never_executed=("error_before", "cut_before", "page_before", "html_ok"),
    lookup_faults={"seed": 1, **dict.fromkeys(_LOOKUP_FAULTS, 0.1)},
    late={
        "seed": 3,
        "slow_first_byte": 0.2,
        "slow_first_byte_by": 0.9,
        "execute_late": 0.2,
        "execute_late_by": 0.7,
        "renew_revokes_old": False,
    },
    outage={"outage_after": 1},
    refusals=({"business_error_http": 200}, {"business_error_http": 400}),
    throttles=(
        {"throttle": 0.3},
        {"throttle_retry_after": 0.3},
        {"limit": 12, "limit_headers": "x-ratelimit"},
    ),
    wait={"limit": 5, "retry_after": 1, "limit_headers": "retry-after"},
    bad_credentials=(
        ({"ENOS_APP_KEY": "nobody"}, "does not accept the credentials"),
        ({"ENOS_APP_SECRET": "wrong"}, "does not accept the credentials"),
    ),
    expiry={"token_expired": 0.05, "seed": 5},
    crash={"latency": 0.05, "error_after": 0.1, "seed": 1},
)
