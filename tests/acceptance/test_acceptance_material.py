"""The keys of a host that was killed, with its disk: another one goes on, the operator has all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from enos_vendor import ENOS, devices
from harness import ProcessJob, as_a_process
from operator_key import OperatorKey
from postgres import new_database
from processes import until
from psycopg.sql import SQL, Identifier

from bulkcert.store.postgresql import PostgresStore

pytestmark = pytest.mark.system

TARGETS = 30
OPERATOR = OperatorKey()


@pytest.fixture
def job(tmp_path: Path, postgres: str) -> Iterator[ProcessJob]:
    """A renewal with keys in a shared store; a response takes so long that hosts die before it."""
    rows = devices(TARGETS)
    with (
        as_a_process(tmp_path, ENOS, "renew", rows, latency=0.5) as job,
        new_database(postgres) as store,
    ):
        (tmp_path / "ops-public.pem").write_text(OPERATOR.public)
        (tmp_path / "ops-private.pem").write_bytes(OPERATOR.private)
        job.write(
            store=store,
            keys={"generate": "ecdsa-p256", "operator": "ops-public.pem"},
            limits={"requests_per_second": 60, "request_timeout_seconds": 2},
            retry={"settling_seconds": 1},
        )
        yield job


def issued(job: ProcessJob) -> Counter[str]:
    """How many certificates each device got."""
    return Counter(entry["device"] for entry in job.simulator.entries() if entry["issued"])


def fence_all(store: str) -> None:
    """Spare the others the time after which they fence a host that is silent."""
    with closing(PostgresStore(store, "job")) as desk:
        for seen in desk.others():
            desk.fence(seen, "the test", 9.0)


def whole_database(store: str) -> bytes:
    """Everything in all tables, as text."""
    with closing(psycopg.connect(store)) as db:
        tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'bulkcert'")
        dump = b""
        for (table,) in tables.fetchall():
            copy = SQL("COPY {} TO STDOUT").format(Identifier("bulkcert", table))
            with db.cursor().copy(copy) as rows:
                dump += b"".join(bytes(row) for row in rows)
    return dump


def test_the_operator_gets_all_keys_and_nobody_else_any(job: ProcessJob, tmp_path: Path) -> None:
    store, first, second = str(job.document["store"]), tmp_path / "first", tmp_path / "second"
    with job.start("--yes", "--run-dir", first) as killed:
        until(lambda: sum(issued(job).values()) >= 6)
        killed.kill()
    lost = [path.read_bytes() for path in (first / "keys").iterdir()]
    shutil.rmtree(first)
    fence_all(store)
    ended = job.start("--yes", "--run-dir", second).wait()
    assert ended.code == 0, ended.err
    assert set(issued(job).values()) == {1}
    assert len(issued(job)) == TARGETS

    words = ("material", second, "-o", tmp_path / "all", "--identity", tmp_path / "ops-private.pem")
    fetched = job.bulkcert(*words)
    assert (fetched.code, fetched.out) == (0, ""), fetched.err
    assert f"{TARGETS} certificates and {TARGETS} private keys written" in fetched.err
    keys = {path.name: path.read_bytes() for path in (tmp_path / "all" / "keys").iterdir()}
    for name, key in keys.items():
        leaf = tmp_path / "all" / "certificates" / name.replace(".key.", ".leaf.")
        certificate = x509.load_pem_x509_certificate(leaf.read_bytes())
        assert certificate.public_key() == load_pem_private_key(key, None).public_key()
    from_the_dead = set(lost) & set(keys.values())
    assert len(from_the_dead) > 5  # else it was killed too early for this test

    dump = whole_database(store)
    said = (ended.out + ended.err + fetched.err).encode()
    others = {p: p.read_bytes() for p in second.rglob("*") if p.is_file()}
    for key in keys.values():
        secret = key.splitlines()[1]
        assert secret not in dump + said
        assert secret.hex().encode() not in dump  # as the text of bytes
        owners = {path.parent.name for path, content in others.items() if secret in content}
        assert owners <= (set() if key in from_the_dead else {"keys"})
    for text in (dump, said, b"".join(c for p, c in others.items() if p.parent.name != "keys")):
        assert b"PRIVATE KEY" not in text
        assert b"PRIVATE KEY".hex().encode() not in text
