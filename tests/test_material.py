"""`bulkcert material`: everything is written, fits together, and is nowhere else."""

from __future__ import annotations

import csv
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from campaign_run import planned_run
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from enos_vendor import signed_certificate, signing_request
from operator_key import OperatorKey
from stores import Disk, MemoryReader, manifest

from bulkcert.cli import main
from bulkcert.envelope import Binding, seal
from bulkcert.errors import MaterialError
from bulkcert.material import Fetched, fetch
from bulkcert.model import Material, MaterialKind, State, Target
from bulkcert.rundir import RunDirectory

OPERATOR = OperatorKey()
RUN = "1" * 32
CHAIN = b"-----BEGIN CERTIFICATE-----\nY2hhaW4=\n-----END CERTIFICATE-----\n"
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Reader(MemoryReader):
    """A store with material: devices A1, A2, A3, each with the certificate 52725."""

    def __init__(self, settled: int = 2, keys: Sequence[Any] = KEYS) -> None:
        targets = [Target(n + 1, {"assetId": f"A{n}", "certSn": 1000 + n}) for n in (1, 2, 3)]
        disk = Disk.planned(targets)
        disk.manifest = manifest(action="renew", run_id=RUN)
        super().__init__(disk)
        self.rows: dict[tuple[int, MaterialKind], Material] = {}
        for number, key in enumerate(keys, 1):
            name = f"A{number}+{1000 + number}"
            envelope = seal(
                pem(key), OPERATOR.public, Binding(RUN, number, 1, str(MaterialKind.KEY))
            )
            self.put(number, MaterialKind.KEY, name, envelope)
            self.put(number, MaterialKind.CSR, name, signing_request("A", key).encode())
            if number > settled:
                continue
            name = f"{name}.52725"
            self.put(number, MaterialKind.CERTIFICATE, name, signed_certificate(key).encode())
            self.put(number, MaterialKind.CHAIN, name, CHAIN)
            files = {
                f"{part}_file": f"certificates/{name}.{part}.pem"
                for part in ("leaf", "chain", "fullchain")
            }
            result = {
                "certSN": "52725",
                "replaces": str(1000 + number),
                "certificate_file": files["fullchain_file"],
                **files,
                "key_file": f"keys/{name}.key.pem",
                "p12_file": f"certificates/{name}.p12",
                "remarks": ["surplus"],
            }
            self.settle(number, State.SUCCEEDED, result)

    def put(self, number: int, kind: MaterialKind, name: str, content: bytes) -> None:
        self.rows[number, kind] = Material(number, 1, kind, name, content)

    def settle(self, number: int, state: State, result: Any) -> None:
        rows = self._disk.rows
        rows[number] = replace(rows[number], state=state, attempts=1, result=result)

    def material(self, operation_ids: Sequence[int]) -> list[Material]:
        return [each for (number, _), each in self.rows.items() if number in operation_ids]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def fetched(reader: Reader, folder: Path, *, keys: bool = True) -> tuple[Fetched, list[str]]:
    problems: list[str] = []
    identity = OPERATOR.identity if keys else None
    return fetch(reader, folder, identity, problems.append), problems


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "certificates" / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_keys_and_certificates_are_written_and_fit(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "renewed"
    assert fetched(Reader(), folder) == (Fetched(keys=3, certificates=2, keys_alone=1), [])
    for number in (1, 2):
        name = f"A{number}+{1000 + number}.52725"
        key = load_pem_private_key((folder / "keys" / f"{name}.key.pem").read_bytes(), None)
        leaf = (folder / "certificates" / f"{name}.leaf.pem").read_bytes()
        assert x509.load_pem_x509_certificate(leaf).public_key() == key.public_key()
        fullchain = (folder / "certificates" / f"{name}.fullchain.pem").read_bytes()
        assert fullchain == leaf + CHAIN
    assert len(files_of(folder)) == 2 * 4 + 1 + 1
    assert (folder / "keys" / "A3+1003.key.pem").read_bytes() == pem(KEYS[2])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_the_manifest_names_what_is_there(tmp_path: Path) -> None:
    fetched(Reader(), tmp_path / "all")
    one, other = rows_of(tmp_path / "all")
    assert (one["assetId"], one["certSn"], one["replaces"]) == ("A1", "52725", "1001")
    for row in (one, other):
        names = [value for name, value in row.items() if name.endswith("_file") and value]
        assert len(names) == 5  # not the PKCS#12 file, which is on another host
        assert all((tmp_path / "all" / name).is_file() for name in names)


def test_without_an_identity_there_are_only_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "certificates-only"
    assert fetched(Reader(), folder, keys=False) == (Fetched(certificates=2), [])
    assert not (folder / "keys").exists()
    assert b"PRIVATE" not in b"".join((folder / name).read_bytes() for name in files_of(folder))
    assert {row["key_file"] for row in rows_of(folder)} == {""}


def test_an_rsa_key_is_written(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert fetched(Reader(1, [key]), tmp_path / "new")[1] == []
    assert (tmp_path / "new" / "keys" / "A1+1001.52725.key.pem").read_bytes() == pem(key)


@pytest.mark.parametrize("chain", [True, False])
def test_pkcs12_files_are_made_anew(chain: bool, tmp_path: Path) -> None:
    reader = Reader()
    for number in (1, 2):
        authority = signed_certificate(KEYS[2]).encode()
        reader.put(
            number, MaterialKind.CHAIN, reader.rows[number, MaterialKind.CHAIN].name, authority
        )
        if not chain:
            del reader.rows[number, MaterialKind.CHAIN]
    fetch(reader, tmp_path / "new", OPERATOR.identity, print, "a password")
    for row, key in zip(rows_of(tmp_path / "new"), KEYS, strict=False):
        file = tmp_path / "new" / row["p12_file"]
        found = pkcs12.load_pkcs12(file.read_bytes(), b"a password")
        assert isinstance(found.key, ec.EllipticCurvePrivateKey)
        assert pem(found.key) == pem(key)
        assert found.cert is not None
        assert found.cert.friendly_name == row["assetId"].encode()
        assert found.cert.certificate.public_key() == key.public_key()
        assert len(found.additional_certs) == chain
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len([name for name in files_of(tmp_path / "new") if name.endswith(".p12")]) == 2


def swap_keys(reader: Reader) -> None:
    one, other = reader.rows[1, MaterialKind.KEY], reader.rows[2, MaterialKind.KEY]
    reader.rows[1, MaterialKind.KEY] = one._replace(content=other.content)
    reader.rows[2, MaterialKind.KEY] = other._replace(content=one.content)


def swap_certificates(reader: Reader) -> None:
    one, other = (reader.rows[n, MaterialKind.CERTIFICATE] for n in (1, 2))
    reader.rows[1, MaterialKind.CERTIFICATE] = one._replace(content=other.content)
    reader.rows[2, MaterialKind.CERTIFICATE] = other._replace(content=one.content)


def break_key(reader: Reader) -> None:
    key = reader.rows[1, MaterialKind.KEY]
    reader.rows[1, MaterialKind.KEY] = key._replace(
        content=key.content[:-1] + bytes([key.content[-1] ^ 1])
    )


def seal_another_key(reader: Reader) -> None:
    key = reader.rows[1, MaterialKind.KEY]
    envelope = seal(pem(KEYS[2]), OPERATOR.public, Binding(RUN, 1, 1, "key"))
    reader.rows[1, MaterialKind.KEY] = key._replace(content=envelope)


def lose_certificate(reader: Reader) -> None:
    del reader.rows[1, MaterialKind.CERTIFICATE]


def climb_out(reader: Reader) -> None:
    for kind in MaterialKind:
        row = reader.rows[1, kind]
        reader.rows[1, kind] = row._replace(name=f"../../{row.name}")


def break_public_parts(reader: Reader) -> None:
    for kind in (MaterialKind.CSR, MaterialKind.CERTIFICATE):
        reader.rows[1, kind] = reader.rows[1, kind]._replace(content=b"\xff")


def take_a_name(reader: Reader) -> None:
    reader.put(3, MaterialKind.CERTIFICATE, "A1+1001.52725", signed_certificate(KEYS[2]).encode())


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (
            swap_keys,
            [
                "Line 2: the key A1+1001 can't be opened: it was changed, or belongs to something"
                " else.",
                "Line 3: the key A2+1002 can't be opened: it was changed, or belongs to something"
                " else.",
            ],
        ),
        (
            swap_certificates,
            [
                "Line 2: the certificate A1+1001.52725 does not fit the key of the run.",
                "Line 3: the certificate A2+1002.52725 does not fit the key of the run.",
            ],
        ),
        (
            break_key,
            [
                "Line 2: the key A1+1001 can't be opened: it was changed, or belongs to something"
                " else.",
            ],
        ),
        (seal_another_key, ["Line 2: the key A1+1001 does not fit its signing request."]),
        (lose_certificate, ["Line 2: the store does not have the certificate 52725."]),
        (
            break_public_parts,
            [
                "Line 2: the certificate A1+1001.52725 does not fit the key of the run.",
                "Line 2: the key A1+1001 does not fit its signing request.",
            ],
        ),
        (
            climb_out,
            [
                *("Line 2: a key whose name is not ours is left out.",),
                *("Line 2: a csr whose name is not ours is left out.",),
                *("Line 2: a certificate whose name is not ours is left out.",),
                *("Line 2: a chain whose name is not ours is left out.",),
                "Line 2: the store does not have the certificate 52725.",
            ],
        ),
        (
            take_a_name,
            [
                "Line 4: another operation has certificates/A1+1001.52725.leaf.pem as well, and"
                " this one is left out.",
                "Line 4: another operation has keys/A1+1001.52725.key.pem as well, and this one is"
                " left out.",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_named_and_the_rest_is_written(
    change: Any, problems: list[str], tmp_path: Path
) -> None:
    reader = Reader()
    change(reader)
    folder = tmp_path / "outer" / "new"
    result, reported = fetched(reader, folder)
    assert (reported, result.problems) == (problems, len(problems))
    assert (folder / "certificates" / "manifest.csv").is_file()
    assert files_of(tmp_path) == {f"outer/new/{name}" for name in files_of(folder)}
    if change is not take_a_name:
        assert (folder / "keys" / "A3+1003.key.pem").is_file()


def test_a_certificate_that_is_not_as_requested_is_written_as_such(tmp_path: Path) -> None:
    reader = Reader(settled=0, keys=KEYS[:1])
    name = "A1+1001.7.failed"
    reader.put(1, MaterialKind.CERTIFICATE, name, signed_certificate(KEYS[0]).encode())
    leaf = f"certificates/{name}.leaf.pem"
    result = {"certSN": "7", "replaces": "1001", "leaf_file": leaf, "key_file": "?"}
    reader.settle(1, State.FLAWED, result)
    assert fetched(reader, tmp_path / "new") == (Fetched(keys=1, certificates=1), [])
    assert files_of(tmp_path / "new") == {
        *(leaf, "keys/A1+1001.7.key.pem", "certificates/manifest.csv")
    }


def test_nothing_is_written_with_the_key_of_another_operator(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="sealed for another operator"):
        fetch(Reader(), tmp_path / "new", OperatorKey().identity, print)
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_for_a_run_without_a_shared_store(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="has no keys or certificates") as raised:
        fetched(Reader(keys=()), tmp_path / "new")
    assert "of its directory" in raised.value.next_step
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["a file", "a folder with a file"])
def test_nothing_is_replaced(what: str, tmp_path: Path) -> None:
    path = tmp_path / "new"
    mine = path if what == "a file" else path / "mine"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(MaterialError, match=r"is not empty|can't be made"):
        fetched(Reader(), path)
    assert (mine.read_text(), len(files_of(tmp_path))) == ("mine", 1)


def test_a_folder_that_was_not_completed_has_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Any, *_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("bulkcert.material._Files._opened", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetched(Reader(), tmp_path / "new")
    assert "certificates/manifest.csv" not in files_of(tmp_path / "new")
    assert not [name for name in files_of(tmp_path / "new") if "partial" in name]


# ---- the command


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Calls the command for a run with material, with a folder and these words."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("bulkcert.cli.material.interrupt_on_signals", lambda: None)
    run = planned_run(tmp_path).path

    def call(*words: str, reader: Reader | None = None) -> tuple[int, str]:
        monkeypatch.setattr(RunDirectory, "reader", lambda directory: reader or Reader())
        words = ("material", str(run), "-o", str(tmp_path / "new"), *words)
        ended = CliRunner().invoke(main, words)
        assert ended.stdout == ""
        return ended.exit_code, ended.stderr

    return call


Call = Callable[..., tuple[int, str]]


def test_the_command_says_what_it_has_written(called: Call, tmp_path: Path) -> None:
    (tmp_path / "ops.pem").write_bytes(OPERATOR.private)
    code, said = called("--identity", str(tmp_path / "ops.pem"))
    assert (code, said.splitlines()) == (
        0,
        [
            f"2 certificates and 3 private keys written to {tmp_path / 'new'}.",
            "1 key has no certificate yet: keep them until their operations are settled.",
            "The keys are not encrypted: remove them from here once they are installed.",
        ],
    )
    assert called() == (
        2,
        f"Error: {tmp_path / 'new'} is not empty.\nName a new folder: nothing is replaced.\n",
    )


def test_the_command_names_what_does_not_fit(called: Call) -> None:
    reader = Reader()
    swap_certificates(reader)
    code, said = called(reader=reader)
    assert code == 1
    assert "Line 2: the certificate A1+1001.52725 does not fit the key of the run.\n" in said
    assert said.endswith("2 problems, see above.\n")


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (None, 2, "needs a passphrase, and there is no terminal to ask for it."),
        ("wrong", 2, "can't be read: the passphrase is wrong, or it is not a private key in PEM."),
        ("right", 0, "2 certificates and 3 private keys written"),
    ],
)
def test_a_passphrase_is_asked_for_on_the_terminal(
    answer: str | None,
    code: int,
    said: str,
    called: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locked = OPERATOR.encrypted(BestAvailableEncryption(b"right"))
    (tmp_path / "ops.pem").write_bytes(locked)
    monkeypatch.setattr("bulkcert.cli.prompt.can_ask", lambda: answer is not None)
    monkeypatch.setattr("getpass.getpass", lambda question: answer)
    result, text = called("--identity", str(tmp_path / "ops.pem"))
    assert result == code
    assert said in text
    assert (tmp_path / "new").exists() == (code == 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read: No such file"),
        (OPERATOR.public.encode(), "is not a private key in PEM"),
        (pem(KEYS[0]), "is not an X25519 or RSA key"),
        (OperatorKey().private, "sealed for another operator"),
    ],
)
def test_what_is_not_the_operators_key_is_refused(
    content: bytes | None, said: str, called: Call, tmp_path: Path
) -> None:
    path = tmp_path / "ops.pem"
    if content is not None:
        path.write_bytes(content)
    code, text = called("--identity", str(path))
    assert (code, said in text, "BEGIN" in text) == (2, True, False)
    assert not (tmp_path / "new").exists()


def test_pkcs12_files_need_the_keys_and_a_password(called: Call, tmp_path: Path) -> None:
    (tmp_path / "ops.pem").write_bytes(OPERATOR.private)
    assert called("--pkcs12", "P12_PASSWORD")[0] == 2
    code, said = called("--pkcs12", "P12_PASSWORD", "--identity", str(tmp_path / "ops.pem"))
    assert (code, "P12_PASSWORD is not set" in said) == (2, True)
    assert not (tmp_path / "new").exists()


def test_a_run_of_one_machine_says_where_its_keys_are(tmp_path: Path) -> None:
    run = planned_run(tmp_path).path
    words = ["material", str(run), "-o", str(tmp_path / "new")]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 2
    assert "they are in `keys` and `certificates` of its directory" in ended.stderr
