"""Keys are made in other processes, stored on disk before they are used, and never made twice."""

from __future__ import annotations

import asyncio
import json
import os
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
from operator_key import OperatorKey

from bulkcert import keys
from bulkcert.envelope import Binding
from bulkcert.errors import BulkcertError, RunDirectoryError
from bulkcert.key_files import LONGEST_NAME, file_name, has_first_names, remove_first_names
from bulkcert.keys import KeyMaker, stored_key
from bulkcert.keyspec import OIDS, Subject, parse_subject, parse_template
from bulkcert.keyworker import respond

pytestmark = pytest.mark.system

SUBJECT = parse_template(r"C=CN, O=EnOS, OU=A, OU=B, CN=pump 7\, north+UID=7")


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
    # the attributes of one RDN are a set
    assert [set(rdn) for rdn in Subject.of(request.subject).rdns] == [*map(set, SUBJECT.rdns)]


async def test_only_the_owner_can_read_keys(maker: KeyMaker) -> None:
    await maker.signing_request("mine", SUBJECT)
    path = maker.path("mine")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.glob("mine*")] == ["mine.key.pem"]


async def test_an_existing_key_is_used_again(maker: KeyMaker) -> None:
    first, second = await asyncio.gather(
        maker.signing_request("A1", SUBJECT), maker.signing_request("A2", SUBJECT)
    )
    stored = maker.path("A1").read_bytes()
    again = await maker.signing_request("A1", parse_subject("CN=another name"))
    assert load(again).public_key() == load(first).public_key() != load(second).public_key()
    assert maker.path("A1").read_bytes() == stored


async def test_a_key_is_sealed_where_it_is_made(maker: KeyMaker) -> None:
    """Whether it is new or not, this process never has it."""
    operator = OperatorKey()
    binding = Binding("r1", 7, 2, "key")
    for _ in range(2):
        request, sealed = await maker.sealed_request("sealed", SUBJECT, operator.public, binding)
        assert operator.identity.open(sealed, binding) == maker.path("sealed").read_bytes()
        assert load(request).public_key() == stored_key(maker.path("sealed")).public_key()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
    ],
)
async def test_a_file_without_a_usable_key_stops_the_run_and_is_kept(
    maker: KeyMaker, content: bytes
) -> None:
    await maker.signing_request("A1", SUBJECT)
    path = maker.path("odd")
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"odd\.key\.pem (does not contain|contains) a"):
        await maker.signing_request("odd", SUBJECT)
    assert path.read_bytes() == content
    with pytest.raises(OSError, match=r"odd\.key\.pem (does not contain|contains) a"):
        stored_key(path)


async def test_an_unusable_folder_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("in the way")
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    with pytest.raises(RunDirectoryError, match=r"The keys in .* can.t be used"):
        await maker.signing_request("A1", SUBJECT)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [(("C", "China"), "has C=China: .*length"), (("CN", "x" * 65), "has CN=x+: .*length")],
)
async def test_a_subject_that_x509_does_not_allow_is_refused(
    maker: KeyMaker, subject: tuple[str, str], reason: str
) -> None:
    name, value = subject
    with pytest.raises(ValueError, match=reason):
        await maker.signing_request("A1", Subject((((OIDS[name], value),),)))


@pytest.mark.parametrize("when", ["idle", "at work"])
async def test_a_worker_process_that_is_killed_is_replaced(tmp_path: Path, when: str) -> None:
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    await maker.signing_request("A1", SUBJECT)
    [worker] = workers_of(maker)
    if when == "at work":
        os.kill(worker, signal.SIGSTOP)
        making = asyncio.create_task(maker.signing_request("A2", SUBJECT))
        await asyncio.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    if when == "idle":
        making = asyncio.create_task(maker.signing_request("A2", SUBJECT))
    request = load(await making)
    assert request.public_key() == stored_key(maker.path("A2")).public_key()
    assert len(workers_of(maker)) == 2
    maker.close()
    assert not any(map(alive, workers_of(maker)))


async def test_worker_processes_that_end_again_and_again_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "python_command", lambda module: ["sh", "-c", "kill -9 $$"])
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    with pytest.raises(BulkcertError, match="end before they should: killed by signal 9"):
        await asyncio.gather(*[maker.signing_request(f"A{n}", SUBJECT) for n in range(9)])
    maker.close()


async def test_worker_processes_that_cannot_be_started_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "python_command", lambda module: [str(tmp_path / "missing")])
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    with pytest.raises(BulkcertError, match=r"can't be started: No such file"):
        await maker.signing_request("A1", SUBJECT)
    maker.close()


async def test_a_fault_in_a_worker_process_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = tmp_path / "response"
    response.write_text(json.dumps(respond({"kind": "ecdsa-p256"})) + "\n")  # without a path
    echo = f"while read line; do cat '{response}'; done"
    monkeypatch.setattr(keys, "python_command", lambda module: ["sh", "-c", echo])
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    with pytest.raises(BulkcertError, match=r"has failed: KeyError"):
        await maker.signing_request("A1", SUBJECT)
    maker.close()


async def test_worker_processes_ignore_the_signals_that_stop_a_run(tmp_path: Path) -> None:
    maker = KeyMaker("ecdsa-p256", tmp_path / "keys")
    await maker.signing_request("A1", SUBJECT)
    [worker] = workers_of(maker)
    assert os.getpgid(worker) == worker != os.getpgid(0)  # nor do those to the group reach it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker, number)
    await maker.signing_request("A2", SUBJECT)
    assert workers_of(maker) == [worker]
    maker.close()
    assert not alive(worker)


async def test_keys_are_made_in_a_folder_whose_name_is_not_unicode(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    maker = KeyMaker("ecdsa-p256", folder)
    await maker.signing_request("A1", SUBJECT)
    maker.close()
    assert maker.path("A1").is_file()


def workers_of(maker: KeyMaker) -> list[int]:
    assert maker._workers is not None
    return [worker.pid for worker in maker._workers._all]


SCRIPT = """
import asyncio, pathlib
from bulkcert.keys import KeyMaker
from bulkcert.keyworker import respond
from bulkcert.keyspec import parse_subject

print("the script runs")
async def main():
    maker = KeyMaker("ecdsa-p256", pathlib.Path("keys"))
    request = await maker.signing_request("A1", parse_subject("CN=A1"))
    maker.close()
    print(request.splitlines()[0])

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_worker_processes_never_run_the_script_of_the_caller(tmp_path: Path, how: str) -> None:
    """It need not be guarded by `if __name__ == "__main__"`, nor be a file."""
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py" if how == "file" else "-"],
        cwd=tmp_path,
        input=None if how == "file" else SCRIPT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split("\n") == [
        "the script runs",
        "-----BEGIN CERTIFICATE REQUEST-----",
        "",
    ]


def test_a_module_in_the_current_folder_is_not_imported_by_worker_processes(
    tmp_path: Path,
) -> None:
    (tmp_path / "cryptography.py").write_text("raise SystemExit('imported by mistake')")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "elsewhere/script.py"], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended


def test_worker_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from bulkcert.keys import KeyMaker
from bulkcert.keyworker import respond
from bulkcert.keyspec import parse_subject

async def main():
    maker = KeyMaker("ecdsa-p256", pathlib.Path({str(tmp_path)!r}) / "keys")
    await maker.signing_request("A1", parse_subject("CN=A1"))
    print(*[worker.pid for worker in maker._workers._all], flush=True)
    await asyncio.sleep(60)

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
def test_file_names_are_safe_and_unique(one: list[object], other: list[object]) -> None:
    name = file_name(*one)
    assert len(name) <= LONGEST_NAME
    assert name.isascii()
    assert "/" not in name
    assert "\0" not in name
    if [str(part) for part in one] != [str(part) for part in other]:
        assert name != file_name(*other)


# ---- names


def test_the_first_name_of_a_key_goes_when_its_outcome_is_durable(tmp_path: Path) -> None:
    names = ("A1+1", "A1+1.7", "A2+2", "A2+2.8", "A3+3", "A4+4", "A5.5+5")
    for name in names:
        (tmp_path / f"{name}.key.pem").touch()
    assert has_first_names(tmp_path)
    results: list[object] = [
        {"key_file": "keys/A1+1.7.key.pem"},
        {"key_file": "keys/A3+3.9.key.pem"},  # which is not there
        {"key_file": "keys/A4+4.key.pem"},
        {"key_file": "keys/A5.5+5.key.pem"},
        {"refusal": "expired"},
        None,
    ]
    for _ in range(2):
        remove_first_names(tmp_path, results)
        left = {path.name.removesuffix(".key.pem") for path in tmp_path.iterdir()}
        assert left == set(names) - {"A1+1"}
    for name in ("A2+2", "A3+3", "A4+4", "A5.5+5"):
        (tmp_path / f"{name}.key.pem").unlink()
    assert not has_first_names(tmp_path)
