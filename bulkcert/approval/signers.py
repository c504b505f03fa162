"""Who may approve: an OpenSSH allowed_signers file, read so that nobody counts twice. Pure.

In: the bytes of the file. Out: for each key, the names that it has and the person behind them, or
an error with the line. ssh-keygen reads the same bytes later and decides whether a signature is
good; this module only decides who is whom. Where the two could read a line differently, the file is
refused.

A key with several names is one person, and so are several keys with one name in common. Patterns
and certificate authorities are refused: with them, one key can pass for any number of people.

Source of the format: ssh-keygen(1), ALLOWED SIGNERS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bulkcert.errors import ApprovalError
from bulkcert.values import shown

_IN_JOB = "[approval] signers"
_BLANKS = " \t\r"
_TOKEN = re.compile(r'((?:[^ \t\r"]|"(?:[^"\\]|\\.)*")+)(?:[ \t\r]+|$)')
"""Up to the next blank that is not in quotes."""

_OPTION = r'[A-Za-z-]+(?:="(?:[^"\\]|\\.)*")?'
_OPTIONS = re.compile(f"{_OPTION}(?:,{_OPTION})*")
_QUOTED = re.compile(r'="(?:[^"\\]|\\.)*"')
_KNOWN_OPTIONS = ("namespaces", "valid-after", "valid-before")
_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk)-[\w@.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signers:
    """Who may approve.

    Attributes:
        content: the file as it was read.
        names: the names of each key, by its fingerprint.
        people: the names of each person. No two people have a name in common.
    """

    content: bytes
    names: Mapping[str, frozenset[str]]
    people: tuple[frozenset[str], ...]

    def person(self, fingerprint: str) -> frozenset[str]:
        """All names of the person who has this key.

        Raises:
            KeyError: nobody has it.
        """
        names = self.names[fingerprint]
        return next(person for person in self.people if names <= person)


def read_signers(path: Path, named_by: str = _IN_JOB) -> Signers:
    """Read the file with the people who may sign.

    Args:
        path: the file.
        named_by: what names it, for the error.

    Raises:
        ApprovalError: it can't be read, or one of its lines can't be used.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"{path} can't be read: {error.strerror or error}"
        raise ApprovalError(problem, _correct(named_by)) from error
    return parse_signers(content, str(path), named_by)


def parse_signers(content: bytes, name: str, named_by: str = _IN_JOB) -> Signers:
    """Return the people who may sign.

    Args:
        content: the file.
        name: its name, for the error.
        named_by: see `read_signers`.

    Raises:
        ApprovalError: one of its lines can't be used.
    """
    names: dict[str, frozenset[str]] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            parsed = _parse(line.decode())
        except ValueError as error:
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise ApprovalError(f"{name}:{number}: {reason}", _correct(named_by)) from None
        if parsed:
            fingerprint, principals = parsed
            names[fingerprint] = names.get(fingerprint, frozenset()) | principals
    if not names:
        raise ApprovalError(f"{name} names nobody who may sign.", _correct(named_by))
    return Signers(content, names, _people(names))


def _correct(named_by: str) -> str:
    return f"Correct the file that {named_by} names: each line is a name and a public key."


def _people(names: Mapping[str, frozenset[str]]) -> tuple[frozenset[str], ...]:
    """Join the names of keys that have a name in common."""
    people: list[frozenset[str]] = []
    for group in names.values():
        same = [person for person in people if person & group]
        people = [person for person in people if person not in same]
        people.append(group.union(*same))
    return tuple(people)


def _parse(line: str) -> tuple[str, frozenset[str]] | None:
    """Return the fingerprint of the key on a line and its names; None for a line without a key.

    Raises:
        ValueError: the line can't be used; the reason fits behind the line number.
    """
    rest = line.strip(_BLANKS)
    if not rest or rest.startswith("#"):
        return None
    principals, rest = _token(rest)
    names = _names(principals)
    word, rest = _token(rest)
    if not _KEY_TYPE.fullmatch(word):
        _check_options(word)
        word, rest = _token(rest)
    if not _KEY_TYPE.fullmatch(word):
        raise ValueError("has no public key after the name and its options")
    if "-cert-v" in word:
        raise ValueError("has a certificate where the public key itself belongs")
    return _fingerprint(word, _token(rest)[0]), names


def _token(text: str) -> tuple[str, str]:
    """Split off what stands before the next blank outside quotes."""
    match = _TOKEN.match(text)
    if match is None:
        problem = "has a quotation mark without its counterpart" if text else "ends too early"
        raise ValueError(f"{problem}; a line is a name, perhaps options, and a public key")
    return match[1], text[match.end() :]


def _names(principals: str) -> frozenset[str]:
    quoted = len(principals) > 1 and principals[0] == principals[-1] == '"'
    names = (principals[1:-1] if quoted else principals).split(",")
    for name in names:
        if not name:
            raise ValueError("has an empty name")
        if set(name) & set("*?!"):
            raise ValueError(
                f"has the pattern {shown(name)} in place of a name: with it, one key would count as"
                " several people; name each person"
            )
        if set(name) & set('"\\ ') or not name.isprintable():
            raise ValueError(f"has the name {shown(name)}; use letters and digits, or an address")
    return frozenset(names)


def _check_options(options: str) -> None:
    """Refuse options that are not known here, or make a key stand for others."""
    if not _OPTIONS.fullmatch(options):
        raise ValueError("has no public key after the name")
    for name in _QUOTED.sub("", options).lower().split(","):
        if name == "cert-authority":
            raise ValueError(
                "has a certificate authority: whoever controls it can approve as several people;"
                " list the key of each person"
            )
        if name not in _KNOWN_OPTIONS:
            raise ValueError(f"has the option {shown(name)}; known are {', '.join(_KNOWN_OPTIONS)}")


def _fingerprint(key_type: str, encoded: str) -> str:
    """Return the fingerprint of a public key, as OpenSSH shows it."""
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if not key[4:].startswith(key_type.encode()) or int.from_bytes(key[:4]) != len(key_type):
        raise ValueError(f"has a damaged public key of type {shown(key_type)}")
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"
