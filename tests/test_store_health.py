"""What `bulkcert store` says about a database, and what it does to it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from postgres import as_user, new_database
from psycopg.sql import SQL, Identifier
from stores import manifest

from bulkcert.cli import main
from bulkcert.model import Target
from bulkcert.store.postgresql import SCHEMA_VERSION, PostgresReader, PostgresStore, publish
from bulkcert.store.postgresql.health import Facts, Level, findings
from bulkcert.store.sqlite import SqlitePlan

FIT = Facts(
    server_version="18.4",
    server_major=18,
    is_standby=False,
    schema_version=SCHEMA_VERSION,
    user="worker",
    may_read=True,
    may_write=True,
    encrypted=True,
    settings={"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"},
    standbys=(),
    round_trip_s=0.0004,
    commit_s=0.002,
    clock_ahead_s=0.01,
    clock_known_to_s=0.0002,
    snapshot_s=2.0,
    snapshot_of="process 7, reporter",
    sees_all=True,
)


def off(name: str) -> dict[str, str]:
    return FIT.settings | {name: "off"}


def test_nothing_is_said_about_a_database_that_is_fit() -> None:
    found = list(findings(FIT))
    assert {each.level for each in found} == {Level.OK}
    assert [each for each in found if each.next_step] == []
    assert len({each.subject for each in found}) == len(found)


@pytest.mark.parametrize(
    ("changes", "level", "subject", "text"),
    [
        ({"is_standby": True, "commit_s": None}, "problem", "server", "a standby"),
        ({"server_major": 13, "server_version": "13.9"}, "problem", "server", "13.9, which is too"),
        ({"schema_version": 0}, "problem", "tables", "none"),
        ({"schema_version": SCHEMA_VERSION + 1}, "problem", "tables", "this bulkcert needs"),
        ({"may_write": False}, "warning", "user", "may read runs, and not work"),
        ({"may_write": False, "may_read": False}, "problem", "user", "may not read"),
        ({"encrypted": False}, "problem", "connection", "not encrypted"),
        ({"settings": off("fsync")}, "problem", "fsync", "destroy the database"),
        ({"settings": off("full_page_writes")}, "problem", "full_page_writes", "destroy"),
        ({"settings": off("synchronous_commit")}, "problem", "synchronous_commit", "forgets"),
        ({"standbys": ("async",)}, "warning", "standbys", "1, 0 of them synchronous"),
        ({"standbys": (None,)}, "warning", "standbys", "may forget the last commits"),
        ({"round_trip_s": 0.02}, "warning", "round trip", "20.0 ms"),
        ({"commit_s": 0.2}, "warning", "round trip", "a commit 200.0 ms"),
        ({"clock_ahead_s": 3600.0}, "warning", "clock", "ahead of this machine's"),
        ({"clock_ahead_s": -3600.0}, "warning", "clock", "behind this machine's"),
        ({"snapshot_s": 4000.0}, "warning", "snapshots", "process 7, reporter"),
    ],
)
def test_each_danger_is_named_with_what_to_do(
    changes: dict[str, Any], level: str, subject: str, text: str
) -> None:
    [found] = [each for each in findings(replace(FIT, **changes)) if each.level != "ok"]
    assert (found.level, found.subject) == (level, subject)
    assert text in found.text
    assert found.next_step


@pytest.mark.parametrize(
    "changes",
    [
        {"encrypted": None},  # a Unix socket
        {"standbys": ("sync", "async")},
        {"clock_ahead_s": 3.0, "clock_known_to_s": 2.5},  # nobody can tell
        {"sees_all": False, "snapshot_s": None},
        {"schema_version": 0, "may_read": False, "may_write": False},
    ],
)
def test_what_is_no_danger_is_not_called_one(changes: dict[str, Any]) -> None:
    bad = {each.subject for each in findings(replace(FIT, **changes)) if each.level != "ok"}
    assert bad <= {"tables"}


# ---- the command


@pytest.fixture
def roles(postgres: str) -> Iterator[list[str]]:
    """A worker and a reader."""
    names = [f"{role}_{secrets.token_hex(4)}" for role in ("worker", "reader")]
    with closing(psycopg.connect(postgres, autocommit=True)) as db:
        for name in names:
            db.execute(SQL("CREATE ROLE {} LOGIN").format(Identifier(name)))
        yield names
        for name in names:
            db.execute(SQL("DROP ROLE {}").format(Identifier(name)))


def called(*words: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["store", *words], env=environment)
    return result.exit_code, result.output


@pytest.mark.system
def test_a_worker_works_on_runs_and_a_reader_reads_them(
    postgres: str, roles: list[str], tmp_path: Path
) -> None:
    plan = SqlitePlan(tmp_path / "checkpoint.sqlite3")
    plan.add(Target(2, {"assetId": "A"}), 1)
    plan.finish(manifest())
    worker, reader = roles
    with new_database(postgres, tables=False) as owner:
        assert called("check", owner)[0] == 1
        assert called("migrate", owner)[0] == 2
        code, said = called("init", owner, "--worker", worker, "--reader", reader)
        assert (code, f"{worker} may work on runs." in said) == (0, True)
        assert called("migrate", owner) == (
            0,
            f"The tables have version {SCHEMA_VERSION} already.\n",
        )
        as_worker, as_reader = (as_user(owner, role) for role in roles)
        assert publish(tmp_path / "checkpoint.sqlite3", as_worker, "job")
        with closing(PostgresStore(as_worker, "job")) as store, store.transaction():
            store.controls()
            assert len(store.claim(9, most_begun=5)) == 1
        with closing(PostgresReader(as_reader, "job")) as read:
            assert len(list(read.records())) == 1
        for role, change in (
            (as_reader, "UPDATE bulkcert.operation SET state = 'failed'"),
            (as_worker, "UPDATE bulkcert.event SET line = ''"),
            (as_worker, "DELETE FROM bulkcert.history"),
            (as_worker, "UPDATE bulkcert.material SET content = ''"),
            (as_reader, "INSERT INTO bulkcert.ca_chain VALUES (1, '', '')"),
        ):
            with (
                closing(psycopg.connect(role, autocommit=True)) as db,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                db.execute(SQL(change))
        code, said = called("check", as_reader)
        assert f"warning  user: {reader} may read runs, and not work on them" in said
        assert (code, "problem  fsync: off" in said) == (1, True)  # as tests need it
        assert (
            f"ok       user: {worker} may work on" in called("check", BULKCERT_STORE=as_worker)[1]
        )


@pytest.mark.system
def test_all_tables_are_looked_at_to_know_what_a_user_may_do(
    postgres: str, roles: list[str]
) -> None:
    worker, reader = roles
    with new_database(postgres, tables=False) as owner:
        as_worker, as_reader = (as_user(owner, role) for role in roles)
        called("init", owner, "--worker", worker, "--reader", reader)
        assert f"{worker} may work on runs" in called("check", as_worker)[1]
        assert f"{reader} may read runs, and not" in called("check", as_reader)[1]
        with closing(psycopg.connect(owner, autocommit=True)) as db:
            db.execute(SQL("REVOKE UPDATE ON bulkcert.pace FROM {}").format(Identifier(worker)))
        assert f"{worker} may read runs, and not" in called("check", as_worker)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check"], "Name the database"),
        (["check", "postgresql://u:hunter2@h/db"], "contains a password"),
        (["check", "nonsense://u@h/db"], "must be a URL such as"),
        (["check", "postgresql://u@h/db", "--worker", "w"], "go with `init`"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused(words: list[str], said: str) -> None:
    code, output = called(*words)
    assert (code, said in output, "hunter2" in output) == (2, True, False)
