"""The folder `certificates/` of a run directory: each new certificate with its chain, as PEM."""

from __future__ import annotations

from pathlib import Path

from bulkcert import durable
from bulkcert.errors import ResultNotKeptError, RunDirectoryError
from bulkcert.providers.enos.issuance import serial_of


class CertificateFolder:
    """Keeps new certificates. Its methods block.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Make sure that the folder exists.

        Raises:
            RunDirectoryError: it can't be made.
        """
        try:
            durable.make_directory(self._path)
        except OSError as error:
            raise RunDirectoryError(*self._unwritable(error)) from error

    def keep(self, name: str, serial: int, chain: str, *, flawed: bool) -> Path:
        """Write a certificate durably; one that is not as requested is marked in its file name.

        Raises:
            ResultNotKeptError: it can't be written.
        """
        path = self._file(name, serial, ".failed" if flawed else "")
        try:
            durable.write(path, chain.encode())
        except OSError as error:
            raise ResultNotKeptError(*self._unwritable(error)) from error
        return path

    def kept(self, name: str, serial: int) -> str:
        """The certificate of this name and number, if it arrived before a crash; else empty."""
        for mark in ("", ".failed"):
            try:
                pem = self._file(name, serial, mark).read_text()
            except (OSError, ValueError):
                continue
            if serial_of(pem) == serial:
                return pem
        return ""

    def _file(self, name: str, serial: int, mark: str) -> Path:
        # the serial number is in the name, so that no certificate replaces another one
        return self._path / f"{name}.{serial}{mark}.pem"

    def _unwritable(self, error: OSError) -> tuple[str, str]:
        return (
            f"Certificates can't be written to {self._path}: {error.strerror or error}",
            "Free some space or fix the folder, then run again: renewed certificates are fetched by"
            " list.",
        )
