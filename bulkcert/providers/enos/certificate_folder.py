"""The folder `certificates/` of a run directory: the files of each new certificate, as PEM.

In: a name and a certificate. Out: files that are durable, by the keys under which results name
them. Their names contain the serial number, so that no certificate replaces another one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bulkcert import durable
from bulkcert.errors import ResultNotKeptError, RunDirectoryError
from bulkcert.providers.enos.issuance import Issued, serial_of

_FLAWED = ".failed"
"""In the names of certificates that are not as requested."""


def stem(name: str, serial: int, *, flawed: bool) -> str:
    """The names of the files of a certificate, without what says which of them it is."""
    return f"{name}.{serial}{_FLAWED if flawed else ''}"


class CertificateFolder:
    """Keeps new certificates. Its methods block.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = durable.NameSync(path)
        self._chain: tuple[str, Path] | None = None  # the last one that was written, and where

    def open(self) -> None:
        """Make sure that the folder exists.

        Raises:
            RunDirectoryError: it can't be made.
        """
        try:
            durable.make_directory(self._path)
        except OSError as error:
            raise RunDirectoryError(*self._unwritable(error)) from error

    def keep(self, name: str, issued: Issued, *, flawed: bool) -> dict[str, str]:
        """Write the files of a certificate durably.

        Args:
            name: the first part of their names.
            issued: the certificate.
            flawed: it is not as requested, which its file names say.

        Returns:
            The paths of the files, relative to the run directory: `leaf_file`; if the CA is known,
            also `chain_file` and `fullchain_file`, which is the leaf followed by its chain; and
            `certificate_file`, the most complete of them that begins with the leaf.

        Raises:
            ResultNotKeptError: they can't be written.
        """
        kinds = ("leaf", "chain", "fullchain") if issued.has_ca else ("leaf",)
        begin = stem(name, issued.serial, flawed=flawed)
        files = {kind: self._file(begin, kind) for kind in kinds}
        try:
            durable.place(files["leaf"], issued.leaf.encode())
            if issued.has_ca:
                self._place_chain(files["chain"], issued.chain)
                durable.place(files["fullchain"], issued.fullchain.encode())
            self._names.sync()
        except OSError as error:
            raise ResultNotKeptError(*self._unwritable(error)) from error
        paths = {f"{kind}_file": f"{self._path.name}/{file.name}" for kind, file in files.items()}
        return {"certificate_file": paths.get("fullchain_file", paths["leaf_file"]), **paths}

    def pkcs12_path(self, name: str, serial: int) -> Path:
        """Where to write the PKCS#12 file of a certificate."""
        return self._path / f"{name}.{serial}.p12"

    def sync(self) -> None:
        """Make the names of all files durable that are in the folder now.

        Raises:
            ResultNotKeptError: that failed.
        """
        try:
            self._names.sync()
        except OSError as error:
            raise ResultNotKeptError(*self._unwritable(error)) from error

    def kept(self, name: str, serial: int) -> str:
        """The certificate of this name and number, if it arrived before a crash; else empty.

        Its CA comes behind it, if that is known.
        """
        for flawed in (False, True):
            for kind in ("fullchain", "leaf"):
                try:
                    pem = self._file(stem(name, serial, flawed=flawed), kind).read_text()
                except (OSError, ValueError):
                    continue
                if serial_of(pem) == serial:
                    return pem
        return ""

    def _place_chain(self, path: Path, chain: str) -> None:
        """Write a chain; nearly all are the same, so it is mostly another name of one file."""
        if self._chain is not None and self._chain[0] == chain:
            with contextlib.suppress(OSError):  # it has too many names already, or is gone
                path.hardlink_to(self._chain[1])
                return
        durable.place(path, chain.encode())
        self._chain = chain, path

    def _file(self, begin: str, kind: str) -> Path:
        return self._path / f"{begin}.{kind}.pem"

    def _unwritable(self, error: OSError) -> tuple[str, str]:
        return (
            f"Certificates can't be written to {self._path}: {error.strerror or error}",
            "Free some space or fix the folder, then run again: renewed certificates are fetched by"
            " list.",
        )
