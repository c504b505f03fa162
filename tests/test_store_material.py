"""Keys and certificates in the store: with the changes they belong to, and for every host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from shared_run import SharedRun
from stores import manifest

from bulkcert.errors import LeaseLostError, StoreError
from bulkcert.model import Change, Material, MaterialKind, Operation, State, Target
from bulkcert.store.base import Host as HostOfRun
from bulkcert.store.postgresql import PostgresStore
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore

KEY, CSR = MaterialKind.KEY, MaterialKind.CSR
CERTIFICATE, CHAIN = MaterialKind.CERTIFICATE, MaterialKind.CHAIN


def made(operation: int, attempt: int = 1) -> tuple[Material, Material]:
    """The key and the request of an attempt."""
    name = f"A{operation}"
    return (
        Material(operation, attempt, KEY, name, b"\0sealed %d" % operation),
        Material(operation, attempt, CSR, name, b"request %d" % operation),
    )


def issued(operation: int, attempt: int = 1, text: bytes = b"") -> tuple[Material, Material]:
    """A certificate and its chain."""
    name = f"A{operation}.7"
    return (
        Material(operation, attempt, CERTIFICATE, name, text or b"certificate %d" % operation),
        Material(operation, attempt, CHAIN, name, b"chain"),
    )


def intended(operation: int, material: tuple[Material, ...] = ()) -> Change:
    """The intent of a first attempt."""
    states = State.PLANNED, State.IN_FLIGHT
    return Change(operation, *states, 1, step_data={"known": []}, material=material)


def settled(operation: int, material: tuple[Material, ...]) -> Change:
    states = State.IN_FLIGHT, State.SUCCEEDED
    return Change(operation, *states, 1, finished_at=1.0, material=material)


@pytest.fixture
def run(tmp_path: Path, shared_store: str) -> SharedRun:
    return SharedRun(tmp_path, shared_store, 3)


class Host:
    """A host that works on a run after all others are gone."""

    def __init__(self, run: SharedRun) -> None:
        self.store = PostgresStore(run.dsn, run.name)
        self.store.register(HostOfRun("here", 1, "", "", "1", has_switch=True, ordered=True))
        for other in self.store.others():
            self.store.fence(other, "here", 9.0)

    def claim(self) -> list[Operation]:
        return self.store.commit(lambda: self.store.claim(9, lookup_first={0}))

    def record(self, *changes: Change) -> None:
        self.store.commit(lambda: self.store.record(changes))


@pytest.fixture
def host(run: SharedRun) -> Iterator[Host]:
    host = Host(run)
    with closing(host.store):
        yield host


def material_of(run: SharedRun) -> list[Material]:
    with run.reader() as reader:
        return reader.material([1, 2, 3])


pytestmark = pytest.mark.system


def test_a_key_is_there_as_soon_as_its_attempt_is_intended(run: SharedRun, host: Host) -> None:
    host.claim()
    host.record(*(intended(number, made(number)) for number in (1, 2)))
    assert material_of(run) == [*reversed(made(1)), *reversed(made(2))]
    host.record(settled(1, issued(1)), settled(2, issued(2)))
    kinds = [(each.operation_id, each.kind, each.content) for each in material_of(run)]
    assert kinds[:4] == [
        (1, CERTIFICATE, b"certificate 1"),
        (1, CHAIN, b"chain"),
        (1, CSR, b"request 1"),
        (1, KEY, b"\0sealed 1"),
    ]


def test_a_host_that_goes_on_gets_the_request_of_the_one_before(run: SharedRun, host: Host) -> None:
    assert [operation.csr for operation in host.claim()] == [None] * 3
    host.record(intended(1, made(1)), intended(2, made(2)))
    host.record(Change(2, State.IN_FLIGHT, State.PLANNED, 0, step_data={"known": []}))
    with closing((next_one := Host(run)).store):
        claimed = {operation.id: operation for operation in next_one.claim()}
    assert [claimed[number].csr for number in (1, 2, 3)] == ["request 1", "request 2", None]
    assert [claimed[number].in_doubt for number in (1, 2, 3)] == [True, False, False]


def test_without_the_intent_there_is_no_key(run: SharedRun, host: Host) -> None:
    """The operation belongs to another host by now."""
    host.claim()
    with closing((other := Host(run)).store):
        other.claim()
        with pytest.raises(LeaseLostError):
            host.record(intended(1, made(1)))
        assert material_of(run) == []


def test_a_key_is_never_replaced(run: SharedRun, host: Host) -> None:
    host.claim()
    host.record(intended(1, made(1)))
    host.record(Change(1, State.IN_FLIGHT, State.PLANNED, 0))
    with pytest.raises(StoreError, match="duplicate key"):
        host.record(intended(1, made(1)))
    assert material_of(run) == [*reversed(made(1))]
    host.record(intended(1, made(1, attempt=2)))
    assert [each.attempt for each in material_of(run)] == [1, 1, 2, 2]


def test_a_certificate_that_is_found_again_stays(run: SharedRun, host: Host) -> None:
    host.claim()
    host.record(intended(1, made(1)))
    for state in (State.FLAWED, State.SUCCEEDED):
        host.record(Change(1, State.IN_FLIGHT, state, 1, finished_at=1.0, material=issued(1)))
        run.execute(
            "UPDATE bulkcert.operation SET state = 'in_flight', owner = %s"
            " WHERE run = run() AND id = 1",
            host.store.owner,
        )
    certificate, chain, *_ = material_of(run)
    assert (certificate, chain) == issued(1)


def test_runs_do_not_see_each_others_keys(
    run: SharedRun, host: Host, tmp_path: Path, shared_store: str
) -> None:
    host.claim()
    host.record(intended(1, made(1)))
    other = SharedRun(tmp_path, shared_store, 1)
    other.execute("UPDATE bulkcert.operation SET step_data = '{}' WHERE run = run()")
    with closing((elsewhere := Host(other)).store):
        assert [operation.csr for operation in elsewhere.claim()] == [None]
    assert material_of(other) == []


def test_only_the_material_that_is_asked_for_is_read(run: SharedRun, host: Host) -> None:
    host.claim()
    host.record(*(intended(number, made(number)) for number in (1, 2, 3)))
    host.record(settled(2, issued(2)))
    with run.reader() as reader:
        assert {each.operation_id for each in reader.material([2, 3])} == {2, 3}
        assert len(reader.material([1, 2, 3])) == 8


def test_a_local_store_keeps_no_material(tmp_path: Path) -> None:
    plan = SqlitePlan(tmp_path / "checkpoint.sqlite3")
    plan.add(Target(2, {"assetId": "A1"}), 0)
    plan.finish(manifest())
    with closing(SqliteStore(tmp_path / "checkpoint.sqlite3")) as store, store.transaction():
        [operation] = store.claim(1, lookup_first={0})
        store.record([intended(1)])
    assert operation.csr is None
    with closing(SqliteReader(tmp_path / "checkpoint.sqlite3")) as reader:
        assert reader.material([1]) == []
