"""Envelopes: what is sealed for an operator opens as that and nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.envelope import Binding, EnvelopeError, Identity, operator_key, seal

BINDING = Binding("0123456789abcdef" * 2, 7, 1, "key")
CONTENT = b"-----BEGIN PRIVATE KEY-----"


def pem(key: PrivateKeyTypes, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEYS: dict[str, PrivateKeyTypes] = {
    "x25519": x25519.X25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 3072),
}
IDENTITIES = {name: Identity(pem(key)) for name, key in KEYS.items()}
OPERATORS = {name: operator_key(public_pem(key)) for name, key in KEYS.items()}
SEALED = {name: seal(CONTENT, operator, BINDING) for name, operator in OPERATORS.items()}

kinds = pytest.mark.parametrize("kind", KEYS)


@kinds
@given(content=st.binary(), numbers=st.tuples(st.integers(0), st.integers(0)))
def test_what_is_sealed_can_be_opened(kind: str, content: bytes, numbers: tuple[int, int]) -> None:
    binding = Binding("run", *numbers, "key")
    envelope = seal(content, OPERATORS[kind], binding)
    assert IDENTITIES[kind].open(envelope, binding) == content
    assert seal(content, OPERATORS[kind], binding) != envelope


@kinds
@given(st.data())
def test_a_change_of_any_bit_is_noticed(kind: str, data: st.DataObject) -> None:
    envelope = bytearray(SEALED[kind])
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(EnvelopeError):
        IDENTITIES[kind].open(bytes(envelope), BINDING)


@kinds
@given(st.data())
def test_an_envelope_that_is_too_short_or_too_long_is_noticed(
    kind: str, data: st.DataObject
) -> None:
    envelope = SEALED[kind]
    short = envelope[: data.draw(st.integers(0, len(envelope) - 1))]
    for changed in (short, envelope + data.draw(st.binary(min_size=1))):
        with pytest.raises(EnvelopeError):
            IDENTITIES[kind].open(changed, BINDING)


@kinds
@pytest.mark.parametrize(
    "other",
    [
        BINDING._replace(run="f" * 32),
        BINDING._replace(operation=8),
        BINDING._replace(attempt=2),
        BINDING._replace(operation=71, attempt=1),
        BINDING._replace(kind="csr"),
    ],
)
def test_an_envelope_in_the_place_of_another_is_noticed(kind: str, other: Binding) -> None:
    with pytest.raises(EnvelopeError, match="belongs to something else"):
        IDENTITIES[kind].open(SEALED[kind], other)


@kinds
def test_only_the_operator_opens_it(kind: str) -> None:
    assert CONTENT not in SEALED[kind]
    for other in (
        x25519.X25519PrivateKey.generate(),
        KEYS["rsa" if kind == "x25519" else "x25519"],
    ):
        with pytest.raises(EnvelopeError, match="sealed for another key"):
            Identity(pem(other)).open(SEALED[kind], BINDING)


def test_later_versions_are_named() -> None:
    later = SEALED["rsa"][:8] + b"\2" + SEALED["rsa"][9:]
    with pytest.raises(EnvelopeError, match="newer version"):
        IDENTITIES["rsa"].open(later, BINDING)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a public key in PEM; to make one"),
        (b"\xff" * 99, "is not a public key in PEM"),
        (pem(KEYS["x25519"]), "contains a private key, which must stay with the operator"),
        (public_pem(rsa.generate_private_key(65537, 2048)), "of 2048 bits; it needs 3072 or more"),
        (public_pem(ed25519.Ed25519PrivateKey.generate()), "is not an X25519 or RSA key; to make"),
        (public_pem(ec.generate_private_key(ec.SECP256R1())), "is not an X25519 or RSA key"),
    ],
)
def test_what_is_not_a_public_key_of_an_operator_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        operator_key(content)
    assert "-----" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "passphrase", "reason"),
    [
        (b"nothing", None, "is not a private key in PEM"),
        (b"nothing", b"x", "the passphrase is wrong, or it is not a private key in PEM"),
        (pem(KEYS["x25519"], BestAvailableEncryption(b"right")), None, "needs a passphrase"),
        (pem(KEYS["x25519"], BestAvailableEncryption(b"right")), b"wrong", "passphrase is wrong"),
        (pem(KEYS["x25519"]), b"right", "has no passphrase"),
        (pem(ed25519.Ed25519PrivateKey.generate()), None, "is not an X25519 or RSA key"),
    ],
)
def test_what_does_not_open_envelopes_is_refused(
    content: bytes, passphrase: bytes | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Identity(content, passphrase)


def test_a_key_with_a_passphrase_opens_envelopes() -> None:
    content = pem(KEYS["x25519"], BestAvailableEncryption(b"right"))
    assert Identity(content, b"right").open(SEALED["x25519"], BINDING) == CONTENT
