"""Hosts of two versions of the program while the tables of a shared store change."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from postgres import new_database
from processes import until
from psycopg.sql import SQL, Identifier
from stores import manifest

from bulkcert.errors import LeaseLostError, StoreError
from bulkcert.model import Target
from bulkcert.store.base import Host
from bulkcert.store.postgresql import PostgresStore, publish, schema
from bulkcert.store.sqlite import SqlitePlan
from tests.host_times import scaled

pytestmark = pytest.mark.system

OURS = schema.SCHEMA_VERSION
PATIENT = scaled(30)


class Versions:
    """A shared store, and programs of this version and of the next one."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url, self._monkeypatch = url, monkeypatch
        self._folder = folder / "migrations"
        shutil.copytree(str(schema._MIGRATIONS), self._folder)
        monkeypatch.setattr(schema, "_MIGRATIONS", self._folder)
        planned = SqlitePlan(folder / "plan")
        for number in range(6):
            planned.add(Target(number + 2, {"assetId": f"A{number}"}), number)
        planned.finish(manifest())
        publish(folder / "plan", url, "job")

    def program(self, version: int) -> None:
        """From here on, this process is a program that knows this version of the tables."""
        self._monkeypatch.setattr(schema, "SCHEMA_VERSION", version)
        self._monkeypatch.setattr("bulkcert.store.postgresql.leases.SCHEMA_VERSION", version)

    def next_version(self, text: str) -> None:
        """Write the next migration."""
        (self._folder / f"{OURS + 1:04}.sql").write_text(text)
        self.program(OURS + 1)

    def migrate(self) -> list[str]:
        """Migrate; return the hosts that are refused."""
        with closing(psycopg.connect(self.url, autocommit=True)) as db:
            schema.migrate(db)
            return schema.refused(db)

    def host(self, name: str) -> PostgresStore:
        """A host that has begun a life."""
        store = PostgresStore(self.url, "job", timings=PATIENT)
        store.register(Host(name, 7, "", "", "1.0", has_switch=True, ordered=True))
        return store


@pytest.fixture
def versions(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Versions]:
    with new_database(postgres) as url:
        yield Versions(tmp_path, url, monkeypatch)


ADDED = "ALTER TABLE bulkcert.run ADD COLUMN mood text;"


def test_a_migration_that_only_adds_disturbs_no_host(versions: Versions) -> None:
    with closing(versions.host("old")) as old:
        versions.next_version(f"-- minimum: {OURS}\n{ADDED}")
        assert versions.migrate() == []
        with closing(versions.host("new")) as new:
            assert len(new.commit(lambda: new.claim(2))) == 2
        assert len(old.commit(lambda: old.claim(2))) == 2
        versions.program(OURS)
        versions.host("old, connected again").close()


def test_a_host_that_is_too_old_records_nothing_more_and_is_taken_over_later(
    versions: Versions,
) -> None:
    with closing(versions.host("old")) as old, closing(versions.host("left")) as idle:
        waiting = PostgresStore(versions.url, "job", timings=PATIENT)
        taken = old.commit(lambda: old.claim(2))
        versions.next_version(ADDED)
        assert versions.migrate() == ["old", "left"]
        with closing(versions.host("new")) as new:
            versions.program(OURS)
            with pytest.raises(LeaseLostError):
                old.commit(lambda: old.claim(1))
            with pytest.raises(LeaseLostError):
                idle.commit(lambda: idle.claim(1))
            with pytest.raises(StoreError, match="Use the version"):
                versions.host("old, again")
            with pytest.raises(StoreError, match="too old for the shared store"):
                waiting.register(Host("late", 8, "", "", "1.0", has_switch=True, ordered=True))
            waiting.close()
            versions.program(OURS + 1)
            # what it works on may still be on its way to the provider
            free = new.commit(lambda: new.claim(9))
            assert {each.id for each in free}.isdisjoint(each.id for each in taken)
            [seen] = [each for each in new.others() if each.host == "old"]
            assert new.fence(seen, "new", 8.0) == 2
            again = new.commit(lambda: new.claim(9))
            assert {each.id for each in again} == {each.id for each in taken}
            assert all(each.in_doubt for each in again)


def test_whoever_may_work_may_use_new_tables_too(versions: Versions) -> None:
    worker = f"worker_{secrets.token_hex(4)}"
    with closing(psycopg.connect(versions.url, autocommit=True)) as db:
        db.execute(SQL("CREATE ROLE {}").format(Identifier(worker)))
        try:
            schema.grant(db, worker=worker)
            versions.next_version("CREATE TABLE bulkcert.mood (text text);")
            versions.migrate()
            db.execute(SQL("SET ROLE {}").format(Identifier(worker)))
            assert db.execute("SELECT count(*) FROM bulkcert.mood").fetchone() == (0,)
        finally:
            db.execute("RESET ROLE")
            for statement in (SQL("DROP OWNED BY {}"), SQL("DROP ROLE {}")):
                db.execute(statement.format(Identifier(worker)))


def test_a_migration_waits_for_commits_and_not_they_for_each_other(versions: Versions) -> None:
    """A host has its lease and wants the operations; the migration must not have these."""
    begun, go_on = threading.Event(), threading.Event()

    def work(host: PostgresStore) -> None:
        def claim() -> None:
            begun.set()
            assert go_on.wait(60)
            host.claim(2)

        host.commit(claim)

    with closing(versions.host("old")) as host, ThreadPoolExecutor() as threads:
        commit = threads.submit(work, host)
        assert begun.wait(60)
        altered = "ALTER TABLE bulkcert.operation ADD COLUMN mood text;"
        versions.next_version(f"-- minimum: {OURS}\n{altered}")
        migration = threads.submit(versions.migrate)
        with closing(psycopg.connect(versions.url, autocommit=True)) as db:
            waits = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            until(lambda: db.execute(waits).fetchone() == (1,))
        go_on.set()
        commit.result(60)
        assert migration.result(60) == []
