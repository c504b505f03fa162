"""Make key pairs and certificate signing requests, in other processes.

In: the name of a key and the subject of a request. Out: the request in PEM, signed with that key.
A key that already exists is used again.
Must never return a request before its private key is on disk, synced and readable only by its
owner: otherwise a certificate could be issued whose key is lost.

A key is made before the serial number of its certificate is known, as NAME.key.pem. With the
certificate it gets a second name, NAME.SERIAL.key.pem. It keeps the first one until the outcome of
its operation is durable, because a look-up after a crash looks there; see `bulkcert.key_files`.

The other processes run `bulkcert.keyworker` and nothing else. Those of `multiprocessing` would
import the main module of the caller anew, and so run a script a second time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import queue
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bulkcert import durable
from bulkcert.errors import BulkcertError, ResultNotKeptError, RunDirectoryError
from bulkcert.interpreter import python_command, python_environment
from bulkcert.key_files import KEY
from bulkcert.keyspec import Subject

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from bulkcert.envelope import Binding


class KeyMaker:
    """Makes keys in other processes.

    Args:
        kind: one of `bulkcert.keyspec.KINDS`.
        directory: where the keys are stored; created with the first key.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        self._names = durable.NameSync(directory)
        self._workers: KeyWorkers | None = None

    def path(self, name: str) -> Path:
        """Return the path of the key with this name, as long as nothing is known to have it."""
        return self._directory / f"{name}{KEY}"

    def add_serial(self, name: str, serial: int) -> Path:
        """Name the key after its certificate, too, and return the path with that name. Blocks.

        Raises:
            ResultNotKeptError: the key can't be named.
        """
        path = self.path(name)
        try:
            named = durable.add_name(path, f"{name}.{serial}{KEY}")
            self._names.sync()
        except OSError as error:
            raise ResultNotKeptError(*self._unusable(error)) from error
        return named

    async def write_pkcs12(
        self, name: str, certificates: str, path: Path, *, label: str, password: str
    ) -> None:
        """Write the key with this name and its certificates as PKCS#12 (mode 0600).

        The file is complete, but its name is not durable yet. It is encrypted with AES-256 under a
        key made by PBKDF2, as OpenSSL (from 1.1) and Java (from 8u301) read it.

        Args:
            name: of the key.
            certificates: PEM, the leaf first.
            path: the file.
            label: what programs show for the key.
            password: protects the file.

        Raises:
            ResultNotKeptError: it can't be written.
            BulkcertError: a process that makes keys has ended.
        """
        if self._workers is None:
            self._workers = KeyWorkers()
        order = {"pkcs12": str(path), "key": str(self.path(name)), "certificates": certificates}
        response = await self._workers.ask(order | {"name": label, "password": password})
        match response:
            case {"written": _}:
                return
            case {"errno": number, "error": text}:
                raise ResultNotKeptError(*self._unusable(OSError(number, text)))
        problem = response.get("subject") or response.get("fault")
        raise ResultNotKeptError(f"{path} can't be written: {problem}")

    def discard(self, name: str) -> None:
        """Remove the key with this name, if there is one. Blocks.

        Only for a key that no certificate can have been issued for.
        """
        with contextlib.suppress(OSError):  # it is of no use, but does no harm either
            self.path(name).unlink(missing_ok=True)

    async def signing_request(self, name: str, subject: Subject) -> str:
        """Make the key with this name unless it exists, and return a signing request for it.

        Returns:
            The request in PEM.

        Raises:
            ValueError: with a reason that completes the sentence "the subject ...".
            RunDirectoryError: the key cannot be written or read.
            BulkcertError: a process that makes keys has ended.
        """
        request, _ = await self._request(name, subject)
        return request

    async def sealed_request(
        self, name: str, subject: Subject, operator: str, binding: Binding
    ) -> tuple[str, bytes]:
        """The same, with the key in an envelope beside the request.

        Args:
            name, subject: see `signing_request`.
            operator, binding: see `bulkcert.envelope.seal`.
        """
        return await self._request(name, subject, seal_for=operator, binding=binding)

    async def _request(self, name: str, subject: Subject, **sealing: object) -> tuple[str, bytes]:
        if self._workers is None:
            with self._usable_directory():
                durable.make_directory(self._directory)
            self._workers = KeyWorkers()
        order = {"kind": self.kind, "path": str(self.path(name)), "subject": subject.rdns}
        response = await self._workers.ask(order | sealing)
        match response:
            case {"request": str(request), **others}:
                return request, base64.b64decode(others.get("sealed", ""))
            case {"subject": reason}:
                raise ValueError(reason)
            case {"errno": number, "error": text}:
                with self._usable_directory():
                    raise OSError(number, text)
        raise BulkcertError(f"A process that makes keys has failed: {response.get('fault')}")

    def close(self) -> None:
        """End the processes, after what they are doing; what has not begun is cancelled."""
        if self._workers is not None:
            self._workers.close()

    @contextlib.contextmanager
    def _usable_directory(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(*self._unusable(error)) from error

    def _unusable(self, error: OSError) -> tuple[str, str]:
        return (
            f"The keys in {self._directory} can't be used: {error.strerror or error}",
            "Free some space or fix the folder, then run the same command to continue.",
        )


class KeyWorkers:
    """Processes that make keys, at most one for each processor, started when they are needed."""

    def __init__(self) -> None:
        # each thread waits for one process
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="keys")
        self._all: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    async def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Have one of the processes carry out an order, see `bulkcert.keyworker`.

        Raises:
            BulkcertError: two processes have ended while they worked on it, or none can be started.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._ask, order)

    def close(self) -> None:
        """End the processes, after what they are doing; what has not begun is cancelled."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(_WorkerEndedError):
            return self._ask_one(order)
        # it was killed; another one uses the key if it has made one
        try:
            return self._ask_one(order, self._start())
        except _WorkerEndedError as error:
            raise BulkcertError(
                f"Processes that make keys end before they should: {error}.",
                "Check that there is enough memory, then run the same command to continue.",
            ) from error

    def _ask_one(self, order: Mapping[str, Any], worker: _Worker | None = None) -> dict[str, Any]:
        if worker is None:
            try:
                worker = self._idle.get_nowait()
            except queue.Empty:
                worker = self._start()
        response = worker.ask(order)
        self._idle.put(worker)
        return response

    def _start(self) -> _Worker:
        try:
            worker = _Worker()
        except OSError as error:
            raise BulkcertError(
                f"A process that makes keys can't be started: {error.strerror or error}",
                "Check the limits of this user, then run the same command to continue.",
            ) from error
        self._all.append(worker)
        return worker


class _WorkerEndedError(Exception):
    """A process that makes keys has ended before its input did; with the cause as a phrase."""


class _Worker:
    """One process that makes keys. It ends with this one, because its input ends then."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with our own arguments
            python_command("bulkcert.keyworker"),
            env=python_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to all processes of the run is for the run
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders: IO[bytes] = self._process.stdin
        self._responses: IO[bytes] = self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Have the process carry out an order.

        Raises:
            _WorkerEndedError: it has ended.
        """
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(json.dumps(order).encode() + b"\n")
            self._orders.flush()
        line = self._responses.readline()
        if not line.endswith(b"\n"):
            raise _WorkerEndedError(_cause(self._process.wait()))
        response: dict[str, Any] = json.loads(line)
        return response

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._process.wait()
        self._responses.close()


def _cause(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def stored_key(path: Path) -> RSAPrivateKey | EllipticCurvePrivateKey:
    """Read a private key that a `KeyMaker` made.

    Raises:
        OSError: the file does not exist, or does not contain such a key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    content = path.read_bytes()
    try:
        # an RSA key was checked when it was made; checking it again takes 50 ms
        key = serialization.load_pem_private_key(
            content, password=None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OSError(errno.EINVAL, f"{path.name} does not contain a private key") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise OSError(errno.EINVAL, f"{path.name} contains a key of another kind")
    return key
