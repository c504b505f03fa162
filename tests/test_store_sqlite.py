"""What the store in SQLite adds to the contract: its file, its durability, a kill."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from stores import manifest

from bulkcert import durable, event_log
from bulkcert.errors import RunDirectoryError, StoreError
from bulkcert.model import Change, State, Target
from bulkcert.rundir import RunDirectory
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore, new_store
from bulkcert.store.sqlite.plan import _ROWS_PER_STATEMENT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint with nine operations."""
    path = tmp_path / "checkpoint.sqlite3"
    plan = SqlitePlan(path)
    for number in range(1, 10):
        plan.add(Target(number + 1, {"assetId": f"A{number}"}), number)
    plan.finish(manifest())
    return path


@contextmanager
def full_disk() -> Iterator[None]:
    """Let every write to a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- a plan


def test_a_plan_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with new_store(tmp_path / "checkpoint.sqlite3") as plan:
        plan.add(Target(2, {"assetId": "A"}), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), new_store(tmp_path / "checkpoint.sqlite3") as plan:
        plan.add(Target(2, {"assetId": "A"}), 1)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        plan.count()


def test_a_finished_plan_is_the_only_file_and_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    with new_store(path) as plan:
        plan.add(Target(2, {"assetId": "A"}), 1)
        plan.finish(manifest())
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            plan.count()
    assert list(tmp_path.iterdir()) == [path]
    with closing(SqliteReader(path)) as reader:
        assert [(record.line, record.fields) for record in reader.records()] == [
            (2, {"assetId": "A"})
        ]


def test_a_plan_is_durable_before_it_gets_its_name_and_then_so_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    synced: list[tuple[bool, bool]] = []  # whether it is the folder, and whether the name is there
    monkeypatch.setattr(
        durable, "sync", lambda what: synced.append((what == tmp_path, path.exists()))
    )
    with new_store(path) as plan:
        plan.finish(manifest())
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("what", ["missing", "a folder", "unreadable"])
def test_what_is_not_a_file_is_not_taken_for_a_checkpoint_on_read_only_media(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    if what == "a folder":
        path.mkdir()
    if what == "unreadable":  # with a WAL beside it, which is no better
        path.write_bytes(b"text")
        path.with_name("checkpoint.sqlite3-wal").write_bytes(b"text")
    with pytest.raises(RunDirectoryError, match="can't be opened"):
        SqliteReader(path)


def test_a_plan_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    killed = SqlitePlan(path)
    killed.add(Target(2, {"assetId": "A"}), 1)
    assert killed.count() == 1
    left = {file: file.read_bytes() for file in tmp_path.iterdir()}
    killed.discard()
    for file, content in left.items():
        file.write_bytes(content)
    with RunDirectory(tmp_path), new_store(path) as plan:
        plan.add(Target(2, {"assetId": "B"}), 1)
        plan.finish(manifest())
    assert set(tmp_path.iterdir()) == {path, tmp_path / ".gitignore"}


def test_a_plan_that_cannot_be_begun_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    with full_disk(), pytest.raises(RunDirectoryError) as caught, new_store(path):
        pytest.fail("there is no plan")
    assert caught.value.problem.startswith(f"{path} can't be written: ")
    assert "disk" in caught.value.problem
    assert "space" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_cannot_be_finished_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    with pytest.raises(RunDirectoryError) as caught, new_store(path) as plan, full_disk():
        plan.finish(manifest())
    assert caught.value.problem.startswith(f"{path} can't be written: ")
    assert "disk" in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_a_plan_in_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError) as caught, new_store(tmp_path / "run" / "checkpoint"):
        pytest.fail("there is no plan")
    assert caught.value.problem.endswith("can't be written: Not a directory")


def test_targets_are_kept_in_memory_only_until_they_fill_a_statement(tmp_path: Path) -> None:
    with new_store(tmp_path / "checkpoint.sqlite3") as plan:
        for number in range(1, 2 * _ROWS_PER_STATEMENT + 1):
            plan.add(Target(number, {"assetId": "A"}), number, number)
            waiting = number % _ROWS_PER_STATEMENT
            assert {len(plan._lines), len(plan._extra), len(plan._devices)} == {waiting}
        assert plan.count() == 2 * _ROWS_PER_STATEMENT


def test_the_sample_is_the_first_target_that_is_left(tmp_path: Path) -> None:
    first, second = Target(2, {"assetId": "A"}), Target(5, {"assetId": "B", "certSn": 7})
    with new_store(tmp_path / "checkpoint.sqlite3") as plan:
        assert plan.sample() is None
        plan.add(first, 1)
        plan.add(second, 2)
        assert (plan.sample(), plan.count()) == (first, 2)
        plan.drop(1, "is bad", is_bad=True)
        plan.apply_drops()
        assert (plan.sample(), plan.count()) == (second, 1)


def test_each_later_operation_of_equal_hash_is_repeated_and_the_first_is_not(
    tmp_path: Path,
) -> None:
    plan = SqlitePlan(tmp_path / "checkpoint.sqlite3")
    for line, identity in enumerate([5, 6, 6, 5, 5, 7], 2):
        plan.add(Target(line, {"line": line}), identity)
    found = [(pair.later_id, pair.first.line, pair.later.line) for pair in plan.repeated()]
    plan.discard()
    assert found == [(3, 3, 4), (4, 2, 5), (5, 2, 6)]


# ---- a store


def test_a_file_that_is_damaged_inside_is_an_error_that_says_so(path: Path) -> None:
    with closing(SqliteReader(path)) as reader:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("ALTER TABLE operations RENAME TO gone")
        with pytest.raises(RunDirectoryError, match="can't be read: no such table") as caught:
            reader.counts()
    assert "restore it from a backup" in caught.value.next_step


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("UPDATE operations SET state = 'succeedee' WHERE id = 1", SqliteReader.counts),
        ("UPDATE operations SET state = 'succeedee' WHERE id = 1", SqliteReader.counts_by_wave),
        ("UPDATE operations SET fields = '{\"assetId'", lambda reader: list(reader.records())),
        ("UPDATE meta SET key = 'nane' WHERE key = 'name'", SqliteReader.manifest),
        ("INSERT INTO events VALUES (1, '{\"seq\":1}')", SqliteReader.events),
        ("INSERT INTO controls VALUES (1, 1.0, '', '', 'pausf', '')", SqliteReader.controls),
    ],
)
def test_damage_that_sqlite_does_not_notice_is_no_fault_of_the_program(
    path: Path, damage: str, read: Callable[[SqliteReader], object]
) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(damage)
    with (
        closing(SqliteReader(path)) as reader,
        pytest.raises(RunDirectoryError, match=r"checkpoint\.sqlite3 can't be read: .*Error"),
    ):
        read(reader)


def test_an_event_that_is_damaged_stops_a_run_with_an_error_that_says_so(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO events VALUES (1, 'damaged')")
    with (
        closing(SqliteStore(path)) as store,
        pytest.raises(StoreError, match="an event that can't be read") as caught,
        store.transaction(),
    ):
        store.add_event(event_log.retried(0.0, 1))
    assert "restore it from a backup" in caught.value.next_step


def test_a_reader_writes_nothing(path: Path) -> None:
    with closing(SqliteReader(path)) as reader, pytest.raises(sqlite3.Error, match="readonly"):
        reader._db.execute("DELETE FROM operations")


def test_a_reader_that_was_closed_reads_nothing(path: Path) -> None:
    reader = SqliteReader(path)
    reader.close()
    with pytest.raises(RunDirectoryError, match="closed"):
        reader.counts()


def test_a_store_that_was_closed_writes_nothing(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    with pytest.raises(StoreError, match="closed"), store.transaction():
        pytest.fail("there is a transaction")


def test_a_change_from_another_state_says_what_to_do(path: Path) -> None:
    with closing(SqliteStore(path)) as store, pytest.raises(StoreError) as caught:
        store.record([Change(1, State.IN_FLIGHT, State.FAILED, 1)])
    assert "only one process uses the run directory" in caught.value.next_step


def test_the_manifest_can_be_replaced(path: Path) -> None:
    later = manifest(ceiling=100.0)
    with closing(SqliteStore(path)) as store, store.transaction():
        store.update_manifest(later)
    with closing(SqliteReader(path)) as reader:
        assert reader.manifest() == later


def test_many_changes_at_once_need_no_more_variables_than_sqlite_permits(tmp_path: Path) -> None:
    """32,766 in one statement, unless it was built for more; see sqlite.org/limits.html."""
    count = 3000
    with new_store(tmp_path / "checkpoint.sqlite3") as plan:
        for number in range(count):
            plan.add(Target(number, {}), number)
        plan.finish(manifest())
    with closing(SqliteStore(tmp_path / "checkpoint.sqlite3")) as store, store.transaction():
        store._db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
        operations = store.claim(count)
        store.record(
            [Change(operation.id, State.IN_FLIGHT, State.FAILED, 1) for operation in operations]
        )
    with closing(SqliteReader(tmp_path / "checkpoint.sqlite3")) as reader:
        assert reader.counts() == {State.FAILED: count}


def test_commits_are_durable_by_wal_and_full_sync(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_another_schema_version_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=999")
    with pytest.raises(RunDirectoryError, match="schema version 999"):
        SqliteReader(path)


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be one" * 99])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.sqlite3"
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError):
        SqliteReader(path)


KILLED = """
import os, sys
from pathlib import Path
from bulkcert.model import Change
from bulkcert.rundir import RunDirectory
from bulkcert.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
with store.transaction():
    store.claim(5)
with store.transaction():
    store.record([Change(1, "in_flight", "succeeded", 1, finished_at=1.0)])
with store.transaction():
    store.record([Change(2, "in_flight", "succeeded", 1, finished_at=1.0)])
    os.kill(os.getpid(), 9)
"""


@pytest.mark.system
def test_a_kill_during_a_transaction_loses_only_that_transaction(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -9
    with closing(SqliteReader(path)) as reader:
        assert reader.counts() == {State.SUCCEEDED: 1, State.IN_FLIGHT: 4, State.PLANNED: 4}


def test_the_format_of_the_stored_manifest_is_fixed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        entries = dict(db.execute("SELECT key, value FROM meta"))
    assert {key: json.loads(value) for key, value in entries.items()} == {
        "name": "job",
        "sha256": "0" * 64,
        "repeated": 2,
        "left_out": 0,
        "protected": 0,
        "shapes": [],
        "extra_columns": [],
        "adds_operations": True,
        "ceiling": 490.0,
        "deadline_s": None,
        "rehearsal": False,
        "plan": {
            "action": {"provider": "enos", "action": "revoke"},
            "parameters": {"reason": 1},
            "connection": {"org_id": "o1"},
        },
        "number": 1,
        "run_id": "1" * 32,
        "amendments": [],
        "planned_at": 1e9,
        "reading": {"columns.assetId": "Asset ID"},
        "connection": {
            "endpoint": "https://example.com",
            "ca_file": "/ca.pem",
            "source_addresses": ["10.0.0.1"],
            "proxy": "",
            "options": {"org_id": "o1"},
        },
        "limits": {
            "requests_per_second": 490.0,
            "in_flight": 1000,
            "requests_per_second_per_source_ip": None,
            "request_timeout_seconds": 30.0,
        },
    }
