"""No child of a host has its connections to the provider: they must end when the host is killed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from raw_server import Server, answer, client_of

import bulkcert
from bulkcert.keys import KeyWorkers
from bulkcert.outside_command import OutsideCommand

system = pytest.mark.system
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists open files in /proc")


def sockets_of(process: int | str) -> list[str]:
    """The sockets that a process has open, by the names of their descriptors."""
    files = Path("/proc", str(process), "fd")
    return [
        file.name
        for file in files.iterdir()
        if file.is_symlink() and str(file.readlink()).startswith("socket:")
    ]


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """Connections that a child would inherit, if it were not prevented."""
    async with Server(answer) as server, client_of(server.endpoint) as client:
        await client.send()
        ours = sockets_of("self")
        assert len(ours) >= 3
        for name in ours:
            os.set_inheritable(int(name), True)
        yield


@system
@linux
async def test_key_workers_have_no_connections(tmp_path: Path) -> None:
    workers = KeyWorkers()
    try:
        async with connected():
            order = {"kind": "ec-p256", "path": str(tmp_path / "a.key.pem"), "subject": []}
            assert "request" in await workers.ask(order)
            (worker,) = workers._all
            assert sockets_of(worker.pid) == []
    finally:
        workers.close()


@system
@linux
async def test_outside_commands_have_no_connections(tmp_path: Path) -> None:
    script = "ls -l /proc/self/fd | grep -c socket: || true"
    command = OutsideCommand(["sh", "-c", script], tmp_path, dict(os.environ))
    async with connected():
        assert (await command.run({}, 60)).line == "0"


def test_only_process_1_forks() -> None:
    """Whatever else is started runs another program at once."""
    forks = re.compile(r"\bfork(pty)?\(|\bimport multiprocessing|ProcessPoolExecutor|preexec_fn")
    package = Path(bulkcert.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if forks.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"hosts/init.py"}
