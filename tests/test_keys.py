"""Keys are made in other processes, are safe on disk first, and are never made twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from bulkcert import keys
from bulkcert.errors import BulkcertError, RunDirectoryError
from bulkcert.keys import KeyMaker, file_name, stored_key

SUBJECT = {"CN": "pump 7, north", "C": "CN", "O": "EnOS", "EMAILADDRESS": "a@example.com"}


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyMaker]:
    made = KeyMaker("ecdsa-p256", tmp_path_factory.mktemp("run") / "keys")
    yield made
    made.close()


def load(request: str) -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(request.encode())


@pytest.mark.parametrize(
    ("kind", "of"), [("ecdsa-p256", ec.EllipticCurvePrivateKey), ("rsa-2048", rsa.RSAPrivateKey)]
)
async def test_a_request_is_signed_by_the_key_on_disk(tmp_path: Path, kind: str, of: type) -> None:
    maker = KeyMaker(kind, tmp_path / "keys")
    try:
        request = load(await maker.signing_request("A1", SUBJECT))
    finally:
        maker.close()
    key = load_pem_private_key(maker.path("A1").read_bytes(), None)
    assert isinstance(key, of)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    assert key.key_size == {"ecdsa-p256": 256, "rsa-2048": 2048}[kind]
    assert request.public_key() == key.public_key()
    assert request.is_signature_valid
    # in the usual order, with the comma in its place
    assert [attribute.value for attribute in request.subject] == [
        *("CN", "EnOS", "pump 7, north", "a@example.com")
    ]


async def test_keys_are_for_their_owner_alone(maker: KeyMaker) -> None:
    await maker.signing_request("mine", SUBJECT)
    path = maker.path("mine")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.glob("mine*")] == ["mine.key.pem"]


async def test_a_key_that_is_there_is_used_again(maker: KeyMaker) -> None:
    first, second = await asyncio.gather(
        maker.signing_request("A1", SUBJECT), maker.signing_request("A2", SUBJECT)
    )
    stored = maker.path("A1").read_bytes()
    again = await maker.signing_request("A1", {"CN": "another name"})
    assert load(again).public_key() == load(first).public_key() != load(second).public_key()
    assert maker.path("A1").read_bytes() == stored


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key at all",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
    ],
)
async def test_a_file_that_is_no_key_stops_the_run_and_stays(
    maker: KeyMaker, content: bytes
) -> None:
    await maker.signing_request("A1", SUBJECT)
    path = maker.path("odd")
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"odd\.key\.pem holds"):
        await maker.signing_request("odd", SUBJECT)
    assert path.read_bytes() == content
    with pytest.raises(OSError, match="holds"):
        stored_key(path)


async def test_a_folder_that_can_not_be_used_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("in the way")
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    with pytest.raises(RunDirectoryError, match="can't be used"):
        await maker.signing_request("A1", SUBJECT)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [({"C": "China"}, "has C=China: .*length"), ({"CN": "x" * 65}, "has CN=x+: .*length")],
)
async def test_a_subject_that_x509_does_not_allow(
    maker: KeyMaker, subject: dict[str, str], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        await maker.signing_request("A1", subject)


async def test_workers_that_are_killed_stop_the_run(tmp_path: Path) -> None:
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")

    async def make_many() -> None:
        for n in range(1000):  # the pool notices after a while
            await maker.signing_request(f"A{n}", SUBJECT)

    # all that there will be: Python's pool hangs if it starts one just when another is killed
    await asyncio.gather(*(maker.signing_request(f"B{n}", SUBJECT) for n in range(20)))
    assert maker._pool is not None
    processes = maker._pool._processes.values()
    assert len(processes) == maker._pool._max_workers <= 20
    for process in processes:
        process.kill()
    with pytest.raises(BulkcertError, match="were ended by somebody else"):
        await make_many()
    maker.close()


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from bulkcert.keys import KeyMaker

async def main():
    maker = KeyMaker("ecdsa-p256", pathlib.Path({str(tmp_path)!r}) / "keys")
    await maker.signing_request("A1", {{"CN": "A1"}})
    print(*maker._pool._processes, flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert workers
    end = time.monotonic() + 20
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


anything = st.lists(st.one_of(st.text(), st.integers(0)), min_size=1, max_size=3)


@given(anything, anything)
def test_file_names_are_safe_and_differ(one: list[object], other: list[object]) -> None:
    name = file_name(*one)
    assert len(name) <= keys.LONGEST_NAME
    assert name.isascii()
    assert "/" not in name
    assert "\0" not in name
    if [str(part) for part in one] != [str(part) for part in other]:
        assert name != file_name(*other)
