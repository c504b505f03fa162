"""Who may approve: every line of a signers file counts one person, or refuses the file."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.approval.signers import Signers, read_signers
from bulkcert.errors import ApprovalError


def key(number: int) -> str:
    """A public key as its owner has it; each number is another key."""
    kind = b"ssh-ed25519"
    blob = b"".join(len(part).to_bytes(4) + part for part in (kind, bytes([number]) * 32))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


def fingerprint(number: int) -> str:
    digest = hashlib.sha256(base64.b64decode(key(number).split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "approvers"


def signers(path: Path, *lines: str) -> Signers:
    path.write_text("\n".join(lines) + "\n")
    return read_signers(path)


def people(path: Path, *lines: str) -> set[frozenset[str]]:
    return set(signers(path, *lines).people)


def test_each_line_is_a_person(path: Path) -> None:
    read = signers(
        path,
        "# who may approve",
        "",
        f"alice {key(1)}",
        f'bob namespaces="approval@bulkcert",valid-before="20301231" {key(2)} bob at work',
        f'\tcarol@example.com\tValid-After="20200101Z"\t{key(3)}\r',
        f'"dave" {key(4)} a comment with a " in it',
    )
    assert set(read.people) == {
        frozenset({name}) for name in ("alice", "bob", "carol@example.com", "dave")
    }
    assert read.names[fingerprint(2)] == {"bob"}
    assert read.person(fingerprint(4)) == {"dave"}


def test_one_key_under_two_names_is_one_person(path: Path) -> None:
    assert people(path, f"alice {key(1)}", f"bob {key(1)}") == {frozenset({"alice", "bob"})}


def test_a_list_of_names_is_one_person(path: Path) -> None:
    assert people(path, f"alice,alice@example.com {key(1)}", f"bob {key(2)}") == {
        frozenset({"alice", "alice@example.com"}),
        frozenset({"bob"}),
    }


def test_several_keys_of_one_name_are_one_person(path: Path) -> None:
    assert len(people(path, f"alice {key(1)}", f"alice {key(2)}")) == 1


def test_a_shared_key_makes_one_person_of_two_who_have_keys_of_their_own(path: Path) -> None:
    """Either of the two may have signed with it, so it must not help both to be counted."""
    lines = [f"alice {key(1)}", f"bob {key(2)}", f"alice,bob {key(3)}"]
    assert people(path, *lines) == {frozenset({"alice", "bob"})}
    assert signers(path, *lines).person(fingerprint(1)) == {"alice", "bob"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"* {key(1)}", "pattern '*'"),
        (f"*@example.com {key(1)}", "pattern '*@example.com'"),
        (f"alice,b?b {key(1)}", "pattern 'b?b'"),
        (f"!bob {key(1)}", "pattern '!bob'"),
        (f'"alice,*" {key(1)}', "pattern '*'"),
        (f"alice, {key(1)}", "empty name"),
        (f'"" {key(1)}', "empty name"),
        (f'"al ice" {key(1)}', "has the name 'al ice'"),
        (f'al"x"ice {key(1)}', "has the name"),
        (f"al\\ice {key(1)}", "has the name"),
        (f"\ufeffalice {key(1)}", "has the name"),
        (f"al\0ice {key(1)}", "has the name"),
        (f'"alice {key(1)}', "quotation mark"),
        (f"alice cert-authority {key(1)}", "certificate authority"),
        (f'alice namespaces="a",CERT-AUTHORITY {key(1)}', "certificate authority"),
        (f'alice namespaces="cert-authority",x {key(1)}', "the option 'x'"),
        (f"alice no-touch-required {key(1)}", "the option 'no-touch-required'"),
        (f'alice valid-before="20301231 {key(1)}', "quotation mark"),
        (f"alice valid-before=20301231 {key(1)}", "no public key after the name"),
        ("alice", "ends too early"),
        ("alice ssh-ed25519", "ends too early"),
        ('alice namespaces="a" namespaces="b"', "no public key"),
        ("alice ssh-ed25519 AAAA!", "damaged public key"),
        ("alice ssh-rsa " + key(1).split()[1], "damaged public key"),
        ("alice ssh-ed25519-cert-v01@openssh.com AAAA", "has a certificate"),
        (key(1), "no public key"),
    ],
)
def test_a_line_that_is_not_one_person_and_a_key_refuses_the_file(
    path: Path, line: str, reason: str
) -> None:
    with pytest.raises(ApprovalError) as raised:
        signers(path, f"zoe {key(9)}", line)
    assert raised.value.problem.startswith(f"{path}:2: ")
    assert reason in raised.value.problem
    assert raised.value.exit_code == 2


def test_a_file_that_is_missing_not_text_or_without_a_key_is_an_error(path: Path) -> None:
    with pytest.raises(ApprovalError, match="can't be read: No such file"):
        read_signers(path)
    path.write_bytes(f"alice {key(1)}\n".encode() + b"\xff\n")
    with pytest.raises(ApprovalError, match=":2: is not UTF-8"):
        read_signers(path)
    with pytest.raises(ApprovalError, match="names nobody"):
        signers(path, "# nobody yet")


NAMES = st.sampled_from("abcdef")


@given(st.lists(st.tuples(st.sets(NAMES, min_size=1), st.integers(0, 7)), min_size=1))
def test_no_two_people_have_a_name_or_a_key_in_common(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[set[str], int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "drawn"
    read = signers(path, *(f"{','.join(sorted(names))} {key(number)}" for names, number in lines))
    everybody = [name for person in read.people for name in person]
    assert len(everybody) == len(set(everybody))
    for names, number in lines:
        assert names <= read.person(fingerprint(number))
