"""Fetches the keys and certificates of a run from its shared store into a folder.

In: a reader of the store, a new folder, the operator's private key. Out: the files that a run
directory would have, and what does not fit together. A private key is in clear in memory and in its
own file (mode 0600), and nowhere else. Must never replace a file, nor write outside the folder,
whatever the store says. `certificates/manifest.csv` comes last: where it is, nothing is missing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bulkcert import durable, public_keys
from bulkcert.envelope import Binding, EnvelopeError, Identity, WrongIdentityError
from bulkcert.errors import MaterialError
from bulkcert.keyworker import PrivateKey, pkcs12_file
from bulkcert.model import Material, MaterialKind
from bulkcert.report.results import new_certificate
from bulkcert.rundir import manifest_csv
from bulkcert.store.base import Record, StoreReader

_NAME = re.compile(r"[A-Za-z0-9_.~%+-]{1,240}")
"""A name as `bulkcert.keys.file_name` makes it, with what was added to it."""

_FLAWED = ".failed"
_RECORDS_PER_PART = 500
_MANIFEST = "certificates/manifest.csv"


@dataclass(slots=True)
class Fetched:
    """What was fetched.

    Attributes:
        keys, certificates: how many there are.
        keys_alone: how many of the keys have no certificate.
        problems: how many things were wrong.
    """

    keys: int = 0
    certificates: int = 0
    keys_alone: int = 0
    problems: int = 0


def fetch(
    reader: StoreReader,
    folder: Path,
    identity: Identity | None,
    on_problem: Callable[[str], object],
    pkcs12_password: str = "",
) -> Fetched:
    """Write the keys and certificates of a run into a folder.

    Args:
        reader: the store, during the run or after it.
        folder: a folder that does not exist yet, or is empty.
        identity: the operator's private key; None to leave the keys out.
        on_problem: called with each thing that is wrong, in a sentence.
        pkcs12_password: also write each good certificate with its key as PKCS#12, under this
            password; empty for no such files.

    Raises:
        MaterialError: the folder is not complete; it has no manifest then.
    """
    files = _Files(folder, reader, identity, on_problem, pkcs12_password)
    files.make_folders()
    try:
        files.write(_MANIFEST, manifest_csv(reader, files.records()))
    except OSError as error:
        raise MaterialError(
            f"{folder} can't be written: {error.strerror or error}",
            "What is in it is not complete. Fetch all of it again, into another folder.",
        ) from error
    except BaseException:
        files.remove_empty_folders()
        raise
    return files.fetched


class _Files:
    """The files of a run, from the store into a folder."""

    def __init__(
        self,
        folder: Path,
        reader: StoreReader,
        identity: Identity | None,
        on_problem: Callable[[str], object],
        pkcs12_password: str,
    ) -> None:
        self._folder, self._reader, self._identity = folder, reader, identity
        self._folders = [folder / "certificates", *([folder / "keys"] if identity else [])]
        self._run = reader.manifest().run_id
        self._on_problem, self._password = on_problem, pkcs12_password
        self.fetched = Fetched()

    def make_folders(self) -> None:
        """Make the folder and those in it, for this user alone.

        Raises:
            MaterialError: it is not empty, or can't be made.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self._folder.iterdir()):
                raise MaterialError(
                    f"{self._folder} is not empty.", "Name a new folder: nothing is replaced."
                )
            for path in self._folders:
                path.mkdir(mode=0o700)
        except OSError as error:
            raise MaterialError(
                f"{self._folder} can't be made: {error.strerror or error}", "Name another folder."
            ) from error

    def remove_empty_folders(self) -> None:
        """Remove the folders in which there is nothing."""
        for path in (*self._folders, self._folder):
            with contextlib.suppress(OSError):
                path.rmdir()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a new file; it is complete, or not there."""
        path = self._folder / name
        partial = durable.new_partial(path.parent)
        try:
            with os.fdopen(durable.create(partial), "wb") as file:
                file.writelines(chunks)
                if name == _MANIFEST:
                    os.sync()  # all files at once; one at a time would take far longer
            if os.path.lexists(path):
                raise FileExistsError(None, f"{name} is there already")
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def records(self) -> Iterator[Record]:
        """Write all files; return the records with a new certificate, as the manifest has them.

        Raises:
            MaterialError: there is nothing to write, or the keys are sealed for somebody else.
        """
        records = self._reader.records()
        while part := list(itertools.islice(records, _RECORDS_PER_PART)):
            # read after the records, so it has at least what they name
            material: dict[int, list[Material]] = {}
            for each in self._reader.material([record.id for record in part]):
                material.setdefault(each.operation_id, []).append(each)
            for record in part:
                written = self._write_operation(record, material.get(record.id, ()))
                yield from self._as_written(record, written)
        if self.fetched == Fetched():
            raise MaterialError(
                "The store has no keys or certificates of this run.",
                "Without a shared store they are in `keys` and `certificates` of its directory.",
            )

    def _write_operation(self, record: Record, material: Iterable[Material]) -> set[str]:
        """Write what the store has of an operation; return the names of the files."""
        found: dict[MaterialKind, list[Material]] = {kind: [] for kind in MaterialKind}
        for each in material:
            if _NAME.fullmatch(each.name):
                found[each.kind].append(each)
            else:
                self._report(record, f"a {each.kind} whose name is not ours is left out")
        # before anything is written: the identity may be that of somebody else
        opened = [(each, self._opened(record, each)) for each in found[MaterialKind.KEY]]
        requests = found[MaterialKind.CSR]
        requested = {_digest_in(each.content) for each in requests} - {None}
        chains = {each.attempt: each.content for each in found[MaterialKind.CHAIN]}
        issued: dict[str | None, tuple[str, bytes]] = {}  # name and fullchain, by digest of the key
        written: set[str] = set()
        for each in found[MaterialKind.CERTIFICATE]:
            chain = chains.get(each.attempt, b"")
            digest = public_keys.of_certificate(each.content.decode("latin-1"))
            if requests and digest not in requested:
                self._report(record, f"the certificate {each.name} does not fit the key of the run")
            issued[digest] = each.name, each.content + chain
            written |= self._write_certificate(record, each, chain)
        for each, pem in opened:
            if pem is None:
                continue
            key = _loaded(pem)
            digest = public_keys.digest(key.public_key())
            if digest not in requested:
                self._report(record, f"the key {each.name} does not fit its signing request")
            name, fullchain = issued.get(digest, (each.name, b""))
            path = f"keys/{name.removesuffix(_FLAWED)}.key.pem"
            written |= self._write_file(record, path, pem)
            self.fetched.keys += 1
            self.fetched.keys_alone += not fullchain
            if self._password and fullchain and not name.endswith(_FLAWED):
                label = unquote(each.name.partition("+")[0])  # the name of the device
                content = pkcs12_file(key, fullchain, label, self._password)
                written |= self._write_file(record, f"certificates/{name}.p12", content)
        return written

    def _write_certificate(self, record: Record, certificate: Material, chain: bytes) -> set[str]:
        parts = {"leaf": certificate.content}
        if chain:
            parts |= {"chain": chain, "fullchain": certificate.content + chain}
        self.fetched.certificates += 1
        begin = f"certificates/{certificate.name}"
        files = [
            self._write_file(record, f"{begin}.{part}.pem", pem) for part, pem in parts.items()
        ]
        return set().union(*files)

    def _write_file(self, record: Record, name: str, content: bytes) -> set[str]:
        """Write a file; return its name, or nothing if another operation has it."""
        try:
            self.write(name, [content])
        except FileExistsError:
            self._report(record, f"another operation has {name} as well, and this one is left out")
            return set()
        return {name}

    def _opened(self, record: Record, key: Material) -> bytes | None:
        """A private key in PEM; None if it is not wanted, or can't be opened.

        Raises:
            MaterialError: it is sealed for somebody else, as all others are.
        """
        if self._identity is None:
            return None
        binding = Binding(self._run, key.operation_id, key.attempt, key.kind)
        try:
            return self._identity.open(key.content, binding)
        except WrongIdentityError as error:
            raise MaterialError(
                "The keys of this run are sealed for another operator.",
                "Name the private key that belongs to [keys] operator of the job.",
            ) from error
        except EnvelopeError as error:
            self._report(record, f"the key {key.name} can't be opened: {error}")
            return None

    def _as_written(self, record: Record, written: set[str]) -> Iterator[Record]:
        """A record with a new certificate, with the names of those of its files that are here."""
        result = new_certificate(record.result)
        if result is None:
            return
        issued = "key_file" in result or "leaf_file" in result  # by this run
        if issued and result.get("leaf_file") not in written:
            serial = record.result.get("certSN")
            self._report(record, f"the store does not have the certificate {serial}")
        here = {
            name: None if name.endswith("_file") and value not in written else value
            for name, value in record.result.items()
        }
        yield record._replace(result=here)

    def _report(self, record: Record, problem: str) -> None:
        self.fetched.problems += 1
        self._on_problem(f"Line {record.line}: {problem}.")


def _digest_in(request: bytes) -> str | None:
    """The digest of the key in a signing request; None if it can't be read."""
    with contextlib.suppress(ValueError):
        return public_keys.in_file(request)
    return None


def _loaded(private_key: bytes) -> PrivateKey:
    """A private key in PEM, as `bulkcert.keyworker` has made it."""
    # an RSA key was checked when it was made; checking it again takes 50 ms
    key = load_pem_private_key(private_key, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, PrivateKey)
    return key
