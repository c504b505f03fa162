"""The certificate authorities, as a separate process: signing would block the event loop.

In: one JSON object per line on standard input; the first one names the two authorities. Out: one
JSON object per line on standard output; the first one contains their certificates. The private keys
never leave this process. It ends when its input ends, so it can't outlive the simulator.

The certificates look like those of EnOS: the same extensions, SHA-256, and the `certSN` as serial
number.
"""

from __future__ import annotations

import signal
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

_NETSCAPE_CRL_URL = x509.ObjectIdentifier("2.16.840.1.113730.1.4")
_NETSCAPE_COMMENT = x509.ObjectIdentifier("2.16.840.1.113730.1.13")
_COMMENT = "EnOS Generated Certificate"
_REASONS = {
    1: x509.ReasonFlags.key_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    6: x509.ReasonFlags.certificate_hold,
    9: x509.ReasonFlags.privilege_withdrawn,
}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class CertificateAuthority:
    """One root authority.

    Args:
        kind: RSA or ECC.
        name: attributes of its distinguished name: dotted object identifiers and values.
        from_s: start of its validity, Unix time in seconds.
        to_s: end of its validity, Unix time in seconds.
    """

    def __init__(self, kind: str, name: list[tuple[str, str]], from_s: int, to_s: int) -> None:
        self._key = _generate(kind)
        public = self._key.public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        self._issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            identifier
        )
        self._lists = 0
        self._name = distinguished_name(name)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(1)
            .not_valid_before(_time(from_s))
            .not_valid_after(_time(to_s))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_CA_KEY_USAGE, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, SHA256())
        )

    def fulfil(self, order: dict[str, Any]) -> str:
        """Make what an order asks for: a revocation list, or a certificate."""
        return self.revocation_list(order) if "revoked" in order else self.issue(order)

    def issue(self, order: dict[str, Any]) -> str:
        """Issue a certificate for the public key, or the factory key, that the order names."""
        public_key = b64decode(order["public_key"])
        if public_key in (b"RSA", b"ECC"):
            public: Any = factory_key(public_key.decode()).public_key()
        else:
            public = load_der_public_key(public_key)
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        return _pem(
            x509.CertificateBuilder()
            .subject_name(distinguished_name(order["subject"]))
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(order["serial"])
            .not_valid_before(_time(order["from_s"]))
            .not_valid_after(_time(order["to_s"]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
            .add_extension(_text_extension(_NETSCAPE_COMMENT, _COMMENT), critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(self._issuer_identifier, critical=False)
            .add_extension(_text_extension(_NETSCAPE_CRL_URL, order["crl_url"]), critical=False)
            .sign(self._key, SHA256())
        )

    def revocation_list(self, order: dict[str, Any]) -> str:
        """The signed revocation list of this authority; each has a number above the one before."""
        now = _time(order["now_s"])
        self._lists += 1
        extensions: tuple[x509.ExtensionType, ...] = (
            self._issuer_identifier,
            x509.CRLNumber(self._lists),
        )
        # all entries at once: the builder's add method copies the list for every entry
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._name,
            last_update=now,
            next_update=now + timedelta(days=1),
            extensions=[x509.Extension(each.oid, False, each) for each in extensions],
            revoked_certificates=[_revoked(*entry) for entry in order["revoked"]],
        )
        return _pem(builder.sign(self._key, SHA256()))


@cache
def factory_key(kind: str) -> PrivateKey:
    """The key of all certificates that the fleet had from the start, one per kind."""
    return _generate(kind)


def distinguished_name(attributes: list[tuple[str, str]]) -> x509.Name:
    """A distinguished name from dotted object identifiers and values, in order."""
    return x509.Name(
        [x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in attributes]
    )


def _generate(kind: str) -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def _revoked(serial: int, at_s: int, reason: int) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(at_s))
    if flag := _REASONS.get(reason):  # RFC 5280, 5.3.1: no extension means "unspecified"
        builder = builder.add_extension(x509.CRLReason(flag), critical=False)
    return builder.build()


def _text_extension(oid: x509.ObjectIdentifier, text: str) -> x509.UnrecognizedExtension:
    """An extension with an IA5String, which here is always shorter than 128 bytes."""
    return x509.UnrecognizedExtension(oid, bytes([0x16, len(text)]) + text.encode("ascii"))


def _time(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def _pem(signed: x509.Certificate | x509.CertificateRevocationList) -> str:
    return signed.public_bytes(Encoding.PEM).decode()


_CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def main() -> None:
    """Serve orders until standard input ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the simulator, which ends the input
    orders = iter(sys.stdin.buffer)
    setup = orjson.loads(next(orders))
    authorities = [
        CertificateAuthority(kind, name, setup["from_s"], setup["to_s"])
        for kind, name in setup["authorities"]
    ]
    _write({"roots": [_pem(authority.certificate) for authority in authorities]})
    for line in orders:
        order = orjson.loads(line)
        _write({"id": order["id"], "pem": authorities[order["authority"]].fulfil(order)})


def _write(document: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
