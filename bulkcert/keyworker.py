"""A process that makes keys, as `bulkcert.keys.KeyMaker` starts it.

In: orders on standard input, one JSON object per line. For a signing request: `kind`, `path`, and
as `subject` the `rdns` of a `bulkcert.keyspec.Subject`; if the key is to be sealed, too, `seal_for`
(the operator's public key) and `binding`, see `bulkcert.envelope`. For a PKCS#12 file: `pkcs12`,
its path, and `key` (a path), `certificates` (PEM, the leaf first), `name` and `password`. Out: a
response to each on standard output, in the same order, with one of

    request          the signing request in PEM; its key is on disk
    sealed           beside it, if asked for: the key in its envelope, in base64
    written          the path of the PKCS#12 file, which is on disk except for its name
    subject          what is wrong with the subject, see `KeyMaker.signing_request`
    errno, error     why the key can't be written or read
    fault            anything else

The process ends with its input. It ignores the signals that stop a run: only the run decides when
the last key is made.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from bulkcert import durable
from bulkcert.envelope import Binding, seal
from bulkcert.keys import stored_key
from bulkcert.keyspec import short_name

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

PKCS12_ROUNDS = 10_000
"""Rounds of PBKDF2, as `keytool` has them; twice as many take 5 ms of a processor for each file."""


def main() -> None:
    """Carry out orders until there are no more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(respond(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


def respond(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order."""
    try:
        if "pkcs12" in order:
            return {"written": _write_pkcs12(order)}
        return _make(order)
    except ValueError as error:
        return {"subject": str(error)}
    except OSError as error:
        return {"errno": error.errno, "error": error.strerror or str(error)}
    except Exception as error:
        return {"fault": repr(error)}


def _make(order: dict[str, Any]) -> dict[str, Any]:
    rdns = [[_attribute(*each) for each in rdn] for rdn in order["subject"]]
    name = x509.Name([x509.RelativeDistinguishedName(rdn) for rdn in rdns])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    key = _key(order["kind"], Path(order["path"]))
    signed = request.sign(key, hashes.SHA256())
    made = {"request": signed.public_bytes(serialization.Encoding.PEM).decode()}
    if "seal_for" in order:
        envelope = seal(_as_pem(key), order["seal_for"], Binding(*order["binding"]))
        made["sealed"] = base64.b64encode(envelope).decode()
    return made


def _write_pkcs12(order: dict[str, Any]) -> str:
    key, certificates = stored_key(Path(order["key"])), order["certificates"].encode()
    content = pkcs12_file(key, certificates, order["name"], order["password"])
    durable.place(Path(order["pkcs12"]), content)
    return str(order["pkcs12"])


def pkcs12_file(key: PrivateKey, certificates: bytes, name: str, password: str) -> bytes:
    """A private key with its certificates as the content of a PKCS#12 file.

    Args:
        key: the private key.
        certificates: PEM, the leaf first.
        name: what programs show for the key.
        password: protects the file.
    """
    leaf, *authorities = x509.load_pem_x509_certificates(certificates)
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(PKCS12_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode())
    )
    return pkcs12.serialize_key_and_certificates(name.encode(), key, leaf, authorities, encryption)


def _attribute(oid: str, value: str) -> x509.NameAttribute[str]:
    try:
        return x509.NameAttribute(x509.ObjectIdentifier(oid), value)
    except ValueError as error:
        raise ValueError(f"has {short_name(oid)}={value}: {error}") from None


def _key(kind: str, path: Path) -> PrivateKey:
    if path.exists():
        return stored_key(path)
    key: PrivateKey
    if kind == "rsa-2048":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    durable.write(path, _as_pem(key))
    return key


def _as_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


if __name__ == "__main__":
    main()
