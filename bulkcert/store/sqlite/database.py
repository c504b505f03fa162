"""The schema of a checkpoint, and connections to it.

A checkpoint uses WAL with `synchronous=FULL`: with NORMAL a power loss can undo the last commits,
and with them the knowledge that a request left.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

from bulkcert.errors import PlatformError, RunDirectoryError

SCHEMA_VERSION = 6

MINIMUM_SQLITE = (3, 33, 0)
"""The first version with UPDATE ... FROM, which `record` needs: sqlite.org/releaselog/3_33_0.html.

The JSON functions that `claim` needs are older, but were optional before 3.38.0. So they are looked
for, see `require_sqlite`.
"""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE operations (
    id INTEGER PRIMARY KEY,         -- target order
    line INTEGER NOT NULL,
    fields TEXT NOT NULL,           -- JSON object
    extra TEXT,                     -- JSON object: the columns that the job does not use
    state TEXT NOT NULL DEFAULT 'planned',
    step INTEGER NOT NULL DEFAULT 0,
    step_data TEXT,                 -- JSON; what the step before yielded, or a look-up of this one
    attempts INTEGER NOT NULL DEFAULT 0,
    sent_at REAL,                   -- Unix seconds, when the last attempt was intended
    code,                           -- number or text, as the provider has it
    message TEXT,
    request_id TEXT,
    result TEXT,                    -- JSON
    finished_at REAL,               -- Unix seconds
    wave INTEGER NOT NULL DEFAULT 0,
    begun INTEGER NOT NULL DEFAULT 0    -- it was claimed; only where the job limits how many are
);
CREATE TABLE waves (number INTEGER PRIMARY KEY, name TEXT NOT NULL, targets INTEGER NOT NULL);
CREATE TABLE standing (             -- one row
    id INTEGER PRIMARY KEY CHECK (id = 1),
    wave INTEGER NOT NULL, over_at REAL, begun INTEGER NOT NULL
);
CREATE TABLE settled (              -- only where the job has rules about failures
    id INTEGER PRIMARY KEY,         -- in the order in which they became durable
    operation INTEGER NOT NULL, state TEXT NOT NULL, code, wave INTEGER NOT NULL
);
CREATE TABLE aborts (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, rule TEXT NOT NULL,
    text TEXT NOT NULL, settled INTEGER NOT NULL,   -- id of the last row of `settled`
    overridden_at REAL, who TEXT, why TEXT
);
CREATE TABLE controls (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
    verb TEXT NOT NULL, value TEXT NOT NULL
);
CREATE TABLE approvals (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, abort TEXT NOT NULL, who TEXT NOT NULL,
    key TEXT NOT NULL, expires_at REAL NOT NULL,
    statement BLOB NOT NULL, signature BLOB NOT NULL, signers BLOB NOT NULL
);
CREATE TABLE events (seq INTEGER PRIMARY KEY, line TEXT NOT NULL);      -- lines of events.jsonl
CREATE TABLE notified (             -- one row
    id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL
);
CREATE TABLE history (
    id INTEGER PRIMARY KEY,         -- without an index by operation, which would cost with each row
    operation INTEGER NOT NULL,
    event TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    sent_at REAL, ended_at REAL NOT NULL,   -- Unix seconds
    source TEXT NOT NULL,
    result TEXT NOT NULL,
    code, message TEXT NOT NULL, request_id TEXT
);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,         -- in the order in which they began
    started_at REAL, updated_at REAL, requests INTEGER, throttled INTEGER,
    busiest_second INTEGER, rate REAL, note TEXT, exit_code INTEGER,
    retried TEXT NOT NULL,          -- JSON object: number by code
    pause_s REAL, share REAL,       -- the slowdown, if there is one
    left_s REAL,
    control INTEGER, under_way INTEGER, open_requests INTEGER,
    reasons TEXT NOT NULL           -- JSON array of texts
);
"""

CACHE_KIB = 4 * 1024
_BUSY_TIMEOUT_S = 30.0

_NOT_WRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def require_sqlite() -> None:
    """Check that Python's SQLite can execute the statements in this module.

    Raises:
        PlatformError: it is too old, or was built without the JSON functions.
    """
    problem = ""
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        needed = ".".join(map(str, MINIMUM_SQLITE))
        problem = f"is {sqlite3.sqlite_version}; bulkcert needs {needed} or newer."
    else:
        try:
            with contextlib.closing(sqlite3.connect(":memory:")) as db:
                db.execute("SELECT json_group_array(json_array(json('1')))")
        except sqlite3.Error:
            problem = f"{sqlite3.sqlite_version} was built without the JSON functions."
    if problem:
        raise PlatformError(
            f"The SQLite library of this Python {problem}",
            "Use a Python with a newer SQLite, such as one from python.org or a current"
            " Linux distribution.",
        )


def open_database(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a checkpoint.

    Raises:
        PlatformError: SQLite is too old, see `require_sqlite`.
        RunDirectoryError: the file can't be opened, or is of another version.
    """
    require_sqlite()
    try:
        db = _connected(path) if writable else _connected_for_reading(path)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == SCHEMA_VERSION and writable:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        except BaseException:
            db.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise RunDirectoryError(
            f"{path} can't be opened: {error}",
            "Make sure that the disk is not full, that the directory is writable and that its file"
            " system has locks.",
        ) from error
    if version != SCHEMA_VERSION:
        db.close()
        raise RunDirectoryError(
            f"{path} has schema version {version}; this bulkcert needs {SCHEMA_VERSION}.",
            "Use the version of bulkcert with which this run was begun.",
        )
    return db


def _connected(path: Path, how: str = "mode=rw") -> sqlite3.Connection:
    """Connect to a file, and read it once: SQLite opens files when they are used."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT_S,
    )
    try:
        db.execute("PRAGMA user_version").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _connected_for_reading(path: Path) -> sqlite3.Connection:
    """Connect to a file that may be on a medium that can't be written.

    For a file with WAL, SQLite creates two more beside it. Where it can't, the file alone is
    complete if there is no WAL beside it; otherwise both are read from a copy.
    """
    try:
        return _connected(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NOT_WRITABLE or not path.is_file():
            raise
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists():
        return _connected(path, "mode=ro&immutable=1")
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(wal, copy.with_name(wal.name))
        db = _connected(copy)
        try:
            db.execute("PRAGMA journal_mode=DELETE")  # takes over what the WAL contains
        except BaseException:
            db.close()
            raise
        return db  # an open file outlives its name
