"""The parts of the harness do to a database, and to the way there, what they say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from hosts.database import Database, database
from hosts.store_proxy import Fate, Loop, StoreProxy, Trap

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def store() -> Iterator[Database]:
    with database() as running:
        with closing(running.connection()) as db:
            db.execute("CREATE TABLE number (n integer)")
        yield running


@pytest.fixture
def proxy(store: Database) -> Iterator[StoreProxy]:
    with Loop() as loop, closing(StoreProxy(loop, "127.0.0.1", store.socket)) as way:
        yield way


def connect(proxy: StoreProxy, **options: object) -> psycopg.Connection[object]:
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
    return psycopg.connect(url, autocommit=True, **options)  # type: ignore[call-overload]


def insert(proxy: StoreProxy, number: int) -> None:
    with closing(connect(proxy)) as db, db.transaction():
        db.execute("INSERT INTO number VALUES (%s)", (number,))


def numbers(store: Database) -> list[int]:
    return [row["n"] for row in store.rows("SELECT n FROM number ORDER BY n")]


@pytest.mark.parametrize(
    ("fate", "is_applied"), [(Fate.ANSWER_LOST, True), (Fate.LOST, False), (Fate.SILENCE, True)]
)
def test_the_answer_to_a_commit_is_lost(
    store: Database, proxy: StoreProxy, fate: Fate, is_applied: bool
) -> None:
    before = numbers(store)
    trap = proxy.set_trap(Trap(b"COMMIT", fate))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(insert, proxy, 1)
        assert trap.sprung.wait(30)
        if fate is Fate.SILENCE:
            with pytest.raises(TimeoutError):
                done.result(0.5)
            proxy.reset()
        with pytest.raises(psycopg.OperationalError):
            done.result(30)
    assert len(numbers(store)) - len(before) == is_applied
    insert(proxy, 2)  # the next one gets through
    assert numbers(store)[-1] == 2


def test_a_way_that_is_cut_loses_nothing_when_it_heals(store: Database, proxy: StoreProxy) -> None:
    with closing(connect(proxy)) as db, ThreadPoolExecutor(1) as pool:
        proxy.cut()
        asked = pool.submit(lambda: db.execute("SELECT 1").fetchone())
        with pytest.raises(TimeoutError):
            asked.result(0.2)
        proxy.heal()
        assert asked.result(30) == (1,)


def test_files_of_an_earlier_moment_forget_what_came_later(store: Database, tmp_path: Path) -> None:
    with closing(store.connection()) as db:
        db.execute("INSERT INTO number VALUES (100)")
        copy = store.save(tmp_path)
        db.execute("INSERT INTO number VALUES (101)")
    assert 101 in numbers(store)
    store.restore(copy)
    assert numbers(store)[-1] == 100


def test_a_crash_loses_nothing(store: Database) -> None:
    with closing(store.connection()) as db:
        db.execute("INSERT INTO number VALUES (200)")
    store.crash()
    with pytest.raises(psycopg.OperationalError):
        store.connection()
    store.start()
    assert 200 in numbers(store)


def test_the_clock_of_the_database_can_be_wrong(store: Database) -> None:
    store.set_clock(3600)
    (row,) = store.rows("SELECT bulkcert.now_s() - extract(epoch FROM clock_timestamp()) AS off")
    store.set_clock(0)
    assert 3599 < row["off"] < 3601
