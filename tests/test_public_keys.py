"""Which public key is in a file, whatever the file is; and nothing of a private key is shown."""

from __future__ import annotations

import base64
import re
import textwrap
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bulkcert.public_keys import in_file, of_certificate

RSA = rsa.generate_private_key(65537, 2048)
EC, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ED = ed25519.Ed25519PrivateKey.generate()
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pump")])
PASSWORD = BestAvailableEncryption(b"secret")
PEM, DER = Encoding.PEM, Encoding.DER
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def expected(key: Any) -> str:
    return sha256(key.public_key().public_bytes(DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def certificate(key: Any, encoding: Encoding = PEM, *, ca: bool | None = None) -> bytes:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), 1, now, now + timedelta(days=1))
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    return builder.sign(RSA, SHA256()).public_bytes(encoding)


def request(key: Any, encoding: Encoding = PEM) -> bytes:
    algorithm = None if key is ED else SHA256()
    return x509.CertificateSigningRequestBuilder(NAME).sign(key, algorithm).public_bytes(encoding)


def private(key: Any, encoding: Encoding = PEM, kind: str = "PKCS8", password: Any = None) -> bytes:
    content: bytes = key.private_bytes(
        encoding, getattr(PrivateFormat, kind), password or NoEncryption()
    )
    return content


def public(key: Any, encoding: Encoding = PEM, kind: str = "SubjectPublicKeyInfo") -> bytes:
    content: bytes = key.public_key().public_bytes(encoding, getattr(PublicFormat, kind))
    return content


def relabelled(pem: bytes, label: str) -> bytes:
    return re.sub(rb"(BEGIN|END) [A-Z ]+", rf"\1 {label}".encode(), pem)


FORMS = {
    "certificate": certificate,
    "certificate, DER": lambda key: certificate(key, DER),
    "old label": lambda key: relabelled(certificate(key), "X509 CERTIFICATE"),
    "with its CA": lambda key: certificate(key, ca=False) + certificate(OTHER, ca=True),
    "a CA": lambda key: certificate(key, ca=True),
    "request": request,
    "request, DER": lambda key: request(key, DER),
    "new request": lambda key: relabelled(request(key), "NEW CERTIFICATE REQUEST"),
    "public": public,
    "public, DER": lambda key: public(key, DER),
    "private": private,
    "private, DER": lambda key: private(key, DER),
    "key and certificate": lambda key: private(key) + certificate(key),
    "Windows": lambda key: b"\xef\xbb\xbfsome text\r\n" + public(key).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["rsa", "ecdsa", "ed25519"])
@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_the_same_in_every_form(key: Any, form: str) -> None:
    assert in_file(FORMS[form](key)) == expected(key)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (public(RSA, kind="PKCS1"), RSA),
        (public(RSA, DER, "PKCS1"), RSA),
        (private(RSA, kind="TraditionalOpenSSL"), RSA),
        (private(EC, kind="TraditionalOpenSSL"), EC),
        (EC_PARAMETERS + private(EC, kind="TraditionalOpenSSL"), EC),
        (private(EC, DER, "TraditionalOpenSSL"), EC),
    ],
    ids=["RSA PUBLIC KEY", "its DER", "RSA PRIVATE KEY", "EC PRIVATE KEY", "parameters", "SEC1"],
)
def test_older_formats_are_read(content: bytes, key: Any) -> None:
    assert in_file(content) == expected(key)


def test_a_compressed_point_is_the_same_key() -> None:
    """The digest is that of the key, not of the bytes that happen to stand there."""
    point = EC.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = public(EC, DER)[:26]
    der = header[:1] + bytes([len(point) + 24]) + header[2:24] + bytes([len(point) + 1, 0]) + point
    text = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    pem = f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"
    assert in_file(der) == in_file(pem.encode()) == expected(EC)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "can't be read; it must be a certificate, a signing request, a public key or"),
        (b"rubbish", "can't be read"),
        (public(EC) + public(RSA), "contains 2 different keys; keep only the one that is meant"),
        (private(EC) + certificate(RSA), "contains 2 different keys"),
        (EC_PARAMETERS, "contains no key"),
        (private(EC, password=PASSWORD), "contains an encrypted private key; write its public"),
        (private(RSA, DER, password=PASSWORD), "public key or an unencrypted private key"),
        (private(RSA, kind="TraditionalOpenSSL", password=PASSWORD), "an encrypted private key"),
        (public(EC).replace(b"M", b"!"), "can't be read"),
        (relabelled(private(EC), "PUBLIC KEY"), "can't be read"),
        (private(EC)[:-60] + b"\n-----END PRIVATE KEY-----", "can't be read"),
    ],
)
def test_what_has_not_one_key_is_refused_and_not_quoted(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        in_file(content)
    assert caught.value.__cause__ is None
    lines = [line for line in content.decode("latin-1").split() if len(line) > 20]
    assert not [line for line in lines if line in str(caught.value)]


def test_the_key_of_a_certificate_that_can_not_be_read_is_not_known() -> None:
    assert of_certificate(certificate(EC).decode()) == expected(EC)
    vendors = relabelled(certificate(EC), "DEVICECERTIFICATE")  # ApsaraMQ
    assert of_certificate(vendors.decode()) == expected(EC)
    assert of_certificate("") is of_certificate("52739") is None
    assert of_certificate(certificate(EC).decode().replace("M", "A", 1)) is None
