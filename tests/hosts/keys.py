"""The keys of a run, fetched from its store by the operator, and held against the certificates.

In: a world whose run has ended, and the operator's key pair. Out: what is missing or does not
belong together. The judge reads the files with `cryptography` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from processes import bulkcert

from hosts.world import World


@dataclass(frozen=True)
class Operator:
    """The files with the operator's keys."""

    private: Path
    public: Path


def operator(folder: Path) -> Operator:
    """The key pair of the operator of a run in a folder; made when it is needed first."""
    made = Operator(folder / "operator.pem", folder / "operator-public.pem")
    if made.public.exists():
        return made
    key = X25519PrivateKey.generate()
    made.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return made


def fetched(made: World, of: Operator) -> tuple[Path, list[str]]:
    """Have the operator fetch everything; return the folder, and what he is told is wrong."""
    return fetch(made.hosts[-1].run_dir, made.folder, of)


def fetch(run_dir: Path, folder: Path, of: Operator) -> tuple[Path, list[str]]:
    """The same, of a run that a host has kept in a directory."""
    output = folder / "fetched"
    ended = bulkcert(
        *("material", run_dir, "-o", output, "--identity", of.private),
        folder=folder,
    )
    wrong = [f"material ended with exit code {ended.code}: {ended.err[-800:]}"]
    return output, wrong if ended.code else []


def missing_keys(made: World, output: Path) -> Iterator[str]:
    """What the operator does not get: a pair for each certificate that the provider issued."""
    pairs = {
        _public(load_pem_private_key(path.read_bytes(), None).public_key())
        for path in (output / "keys").rglob("*")
        if path.is_file()
    }
    held = set()
    for path in sorted((output / "certificates").rglob("*.leaf.pem")):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        if _public(certificate.public_key()) in pairs:
            held.add(certificate.serial_number)
        else:
            yield f"{path.name} has no key"
    issued = {entry["issued"] for entry in made.simulator.entries() if entry["issued"]}
    if missing := issued - held:
        yield f"{len(missing)} of {len(issued)} certificates that were issued have no key"


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]
