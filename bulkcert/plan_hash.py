"""What identifies a plan: its sections, a digest of each, and the hash over all of them.

In: a checked job, and the digest of its operations in the order in which they run. Out: a
`PlanHash`, and the differences between two of them in words.

The hash covers what is done, to what, where, how fast, and by which rules, with the content of
every file that a rule names. It must never cover a credential, nor what may differ between two
processes of one run: the deadline, the proxy, source addresses, the global never-touch list, which
can only take away, and where files and the run are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Self
from zoneinfo import ZoneInfo

from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.providers.base import Keys
from bulkcert.quantities import count, duration
from bulkcert.rules import Rules
from bulkcert.rules.abort import Limit
from bulkcert.rules.rollout import OrderKey, Size

TARGETS = "targets"
LIMITS = "limits"
RULES = tuple(each.name for each in dataclasses.fields(Rules))
"""The sections besides `LIMITS` that may change within a run."""

READING = "reading"
"""Stands for a section in differences outside the hash: how the targets are read, and whether it is
a rehearsal."""

CONTENT = "content"
"""A key of `READING`: the content of the target file."""

_FORMAT = "bulkcert plan 1"
"""Says how the hash is made, as part of what is hashed."""

_GROUP = 4
_DIGEST = "sha256:"
_UNIT = "_s"
"""Ends the name of a value in seconds."""

Contents = Mapping[str, Mapping[str, Any]]
"""What each section contains, as JSON values. A section without content is left out."""


class Targets(NamedTuple):
    """The operations of a plan, in the order in which they run.

    Attributes:
        operations: how many there are.
        sha256: digest of their fields, one JSON object per line.
    """

    operations: int
    sha256: str


NO_TARGETS = Targets(0, "")


@dataclass(frozen=True, slots=True)
class PlanHash:
    """What identifies a plan.

    Attributes:
        contents: what each section contains.
    """

    contents: Contents

    @classmethod
    def of(cls, job: Job, targets: Targets) -> Self:
        """Return what identifies the plan of a job.

        Args:
            job: the job.
            targets: its operations.

        Raises:
            JobError: a file that a rule names can't be read.
        """
        sections: dict[str, Mapping[str, Any]] = {
            TARGETS: targets._asdict(),
            "action": {"provider": job.provider.name, "action": job.action.name},
            "parameters": job.parameters,
            "select": job.select,
            "keys": _keys(job.keys) if job.keys else {},
            "connection": {"endpoint": job.connection.endpoint, **job.connection.options},
            LIMITS: dataclasses.asdict(job.limits),
            **_rules(job),
        }
        return cls({name: plain for name, each in sections.items() if (plain := _plain(each))})

    @classmethod
    def within(cls, plan: PlanHash, job: Job) -> Self:
        """Return a plan with the limits and rules that its job has now."""
        now = cls.of(job, NO_TARGETS).contents
        changing = {LIMITS, *RULES}
        kept = {name: each for name, each in plan.contents.items() if name not in changing}
        return cls({**kept, **{name: each for name, each in now.items() if name in changing}})

    @property
    def sections(self) -> dict[str, str]:
        """The SHA-256 digest of each section, in hexadecimal digits."""
        return {name: _sha256(content) for name, content in self.contents.items()}

    @property
    def hash(self) -> str:
        """The SHA-256 digest over all sections, in hexadecimal digits."""
        return _sha256([_FORMAT, self.sections])

    def as_object(self) -> dict[str, Any]:
        """Return the plan as a JSON object, with all that its hash is made from.

        The hash is the SHA-256 digest of `[format, sections]`, where a section is the digest of its
        content; both as JSON in ASCII, with sorted keys and without blanks.
        """
        return {
            "format": _FORMAT,
            "hash": self.hash,
            "sections": self.sections,
            "contents": dict(self.contents),
        }

    @property
    def grouped(self) -> str:
        """The hash as people read and compare it, in groups of four."""
        return grouped(self.hash)


def grouped(digits: str) -> str:
    """Write a hash in groups of four."""
    return " ".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))


def ungrouped(written: str) -> str:
    """Return the digits of a hash as somebody has written it, with or without spaces."""
    return "".join(written.split()).lower()


# ---- differences, in words


class Difference(NamedTuple):
    """One thing in which two plans differ.

    Attributes:
        section: where.
        key: which key of the section.
        before, now: its values; None where there is none.
    """

    section: str
    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        if self.section == TARGETS:
            return self._of_targets()
        if (self.section, self.key) == (READING, CONTENT):
            return "the content of the target file has changed"
        name = self.key.removesuffix(_UNIT)
        if self.section not in ("action", READING):
            name = f"{self.section}.{name}"
        if _is_digest(self.before) and _is_digest(self.now):
            return f"the content of {name} has changed"
        return f"{name} was {self._said(self.before)} and is now {self._said(self.now)}"

    def _of_targets(self) -> str:
        if self.key == "operations":
            return f"targets: {count(self.before, 'operation')} before, and {self.now:,} now"
        return "targets: others, or in another order"

    def _said(self, value: Any) -> str:
        if value is None:
            return repr("not set")
        if self.key.endswith(_UNIT):
            return duration(value)
        return "a file" if _is_digest(value) else repr(value)


def differences(old: PlanHash, new: PlanHash) -> list[Difference]:
    """Return everything in which two plans differ."""
    names = dict.fromkeys([*old.contents, *new.contents])
    found = [
        Difference(name, *entry)
        for name in names
        for entry in _compared(old.contents.get(name, {}), new.contents.get(name, {}))
    ]
    if any(each[:2] == (TARGETS, "operations") for each in found):
        found = [each for each in found if each[:2] != (TARGETS, "sha256")]
    return found


def _compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)


# ---- what is hashed


def _rules(job: Job) -> dict[str, Mapping[str, Any]]:
    """The content of the sections with rules; files are replaced by their digests."""
    rules, folder = job.rules, job.folder
    sections: dict[str, Mapping[str, Any]] = {
        section.name: _files_read(job, section.name, getattr(rules, section.name))
        for section in dataclasses.fields(rules)
    }
    if rules.check:
        words = {word: folder / word for word in rules.check.command}
        inside = {word: path for word, path in words.items() if _is_inside(path, folder)}
        digests = {word: _digest_of(path, job.at("check.command")) for word, path in inside.items()}
        sections["check"] = {**sections["check"], **digests}
    return sections


def _keys(keys: Keys) -> dict[str, Any]:
    """How keys are made, with a digest in place of the operator's key."""
    operator = keys.operator and _DIGEST + hashlib.sha256(keys.operator.encode()).hexdigest()
    return {**_fields(keys), "operator": operator}


def _files_read(job: Job, name: str, section: Any) -> dict[str, Any]:
    """The values of a section, with digests in place of the files that it names."""
    if section is None:
        return {}
    values = section if isinstance(section, Mapping) else _fields(section)
    return {
        key: _digest_of(value, job.at(f"{name}.{key}")) if isinstance(value, Path) else value
        for key, value in values.items()
        if value is not None
    }


def _fields(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _digest_of(path: Path, name: str) -> str:
    """The digest of a file.

    Args:
        path: the file.
        name: what names it, for the error.
    """
    try:
        with path.open("rb") as file:
            return _DIGEST + hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobError(
            f"{name} names {path}, which can't be read: {reason}",
            "Correct the path, or make the file readable: the plan depends on what it contains.",
        ) from error


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_DIGEST)


def _plain(value: Any) -> Any:
    """Turn a value into what JSON can write, and equal values into equal ones."""
    match value:
        case Limit():
            return value.written
        case Size():
            return value.name
        case OrderKey():
            return f"-{value.column}" if value.descending else value.column
        case ZoneInfo():
            return value.key
        case date():
            return value.isoformat()
        case float():
            return int(value) if value.is_integer() else value
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items() if each is not None}
        case frozenset():
            return sorted(map(_plain, value))
        case tuple() | list():
            return [_plain(each) for each in value]
    return value


def _sha256(value: Any) -> str:
    # ASCII, because the name of a file need not be valid Unicode
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
