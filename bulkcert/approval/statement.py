"""The statement that an approver signs: what is approved, in lines that people can read. Pure.

In: a job and its plan. Out: text, one `Key: value` a line; and the same back from a file. A text
that is not exactly what this module writes is refused: an unknown line, a repeated one, or another
order could show people something else than is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bulkcert.job import Job
from bulkcert.plan_hash import TARGETS, PlanHash
from bulkcert.values import printable, shown

_VERSION = ("Bulkcert approval", "1")
_SECTION = "Section "
_APPROVED, _EXPIRES = "Approved", "Expires"
_KEYS = (
    "Plan",
    "Run",
    "Overrides abort",
    "Job",
    "Action",
    "Reason",
    "Parameters",
    "Selection",
    "Provider",
    "Endpoint",
    "Account",
    "Operations",
    "Deadline",
)
_ONLY_SHOWN = ("Job", "Deadline")
"""They are outside the plan's hash: they may change, and the approval still counts."""

_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is approved.

    Attributes:
        job: the job.
        plan: what identifies its plan.
        run: which run of this job it is, from 1.
        abort: the id of an abort that is overridden; empty for the beginning of a run.
        fingerprints: returns the fingerprints of the operations, for an error that says how many
            have changed; None if they are not known.
        skipped: the options with which rows are left out, for the commands that people are shown.
    """

    job: Job
    plan: PlanHash
    run: int = 1
    abort: str = ""
    fingerprints: Callable[[], bytes] | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What an approver signs.

    Attributes:
        facts: what is approved, by key, in the order of the lines.
        plan: what identifies the plan, with the content of each section.
        approved_s: when it was approved, as Unix time in whole seconds.
        expires_s: until when it counts.
    """

    facts: Mapping[str, str]
    plan: PlanHash
    approved_s: int
    expires_s: int

    @classmethod
    def about(cls, subject: Subject, approved_s: float, valid_s: float) -> Statement:
        """Write the statement about a plan.

        Args:
            subject: what is approved.
            approved_s: when, as Unix time.
            valid_s: for how many seconds it counts.
        """
        return cls(
            facts={key: printable(value) for key, value in _facts(subject)},
            plan=subject.plan,
            approved_s=int(approved_s),
            expires_s=int(approved_s + valid_s),
        )

    def __str__(self) -> str:
        lines = [
            _VERSION,
            *self.facts.items(),
            (_APPROVED, as_utc(self.approved_s)),
            (_EXPIRES, as_utc(self.expires_s)),
            *((_SECTION + name, _json(content)) for name, content in self.plan.contents.items()),
        ]
        return "".join(f"{key}: {value}\n" for key, value in lines)

    def differences(self, wanted: Statement) -> list[str]:
        """The keys whose values are not those of another statement about the same plan.

        What may change without a new approval is left out.
        """
        keys = [key for key in _KEYS if key not in _ONLY_SHOWN]
        return [key for key in keys if self.facts.get(key) != wanted.facts.get(key)]


def parse(text: str) -> Statement:
    """Read a statement.

    Raises:
        ValueError: it is not one; the reason fits behind its name.
    """
    lines = text.removesuffix("\n").split("\n")
    entries = dict(_entries(lines))
    if next(iter(entries.items())) != _VERSION:
        raise ValueError("is not a statement of this version of bulkcert")
    statement = Statement(
        facts={key: entries[key] for key in _KEYS if key in entries},
        plan=PlanHash(
            {
                key.removeprefix(_SECTION): _object(key, value)
                for key, value in entries.items()
                if key.startswith(_SECTION)
            }
        ),
        approved_s=_seconds(entries, _APPROVED),
        expires_s=_seconds(entries, _EXPIRES),
    )
    if str(statement) != text:
        raise ValueError("is not exactly what bulkcert writes")
    if statement.facts.get("Plan") != statement.plan.grouped:
        raise ValueError("has the hash of other sections than its own")
    return statement


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)  # ASCII, on one line


def _object(key: str, value: str) -> dict[str, Any]:
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"has something else than a JSON object as {shown(key)}")
    return content


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for number, line in enumerate(lines, 1):
        key, colon, value = line.partition(": ")
        known = key in (_VERSION[0], *_KEYS, _APPROVED, _EXPIRES) or key.startswith(_SECTION)
        if printable(line) != line:  # on a terminal, it could hide what stands above it
            raise ValueError(f"has characters in line {number} that can't be shown: {shown(line)}")
        if not (colon and known):
            raise ValueError(f"has an unknown line {number}: {shown(line)}")
        if key in seen:
            raise ValueError(f"has {shown(key)} twice")
        seen.add(key)
        yield key, value


def _seconds(entries: Mapping[str, str], key: str) -> int:
    text = entries.get(key, "")
    try:
        moment = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"has no time for {shown(key)}") from None
    return int(moment.timestamp())


def as_utc(at_s: float) -> str:
    """Write a Unix time as in `2026-11-28T09:00:00Z`."""
    return datetime.fromtimestamp(at_s, UTC).strftime(_TIME)


def _facts(subject: Subject) -> Iterator[tuple[str, str]]:
    job = subject.job
    action = job.action
    undoing = f"can be undone with {action.undone_by}" if action.undone_by else "can't be undone"
    yield "Plan", subject.plan.grouped
    yield "Run", str(subject.run)
    if subject.abort:
        yield "Overrides abort", subject.abort
    yield "Job", job.file.name if job.file else job.name
    yield "Action", f"{action.name}, which {undoing}"
    if "reason" in action.fields:
        yield "Reason", _parameter(job, "reason") or "none, unless a row has its own"
    if others := [name for name in job.parameters if name != "reason"]:
        yield "Parameters", ", ".join(f"{name} = {_parameter(job, name)}" for name in others)
    if job.select:
        given = [field for field in action.select if field.name in job.select]
        clauses = [field.clause.format(field.show(job.select[field.name])) for field in given]
        yield "Selection", f"certificates that {', and '.join(clauses)}"
    yield "Provider", job.provider.name
    yield "Endpoint", job.connection.endpoint
    yield "Account", ", ".join(f"{name} {value or 'of each row'}" for name, value in _account(job))
    several = ", each of which may be several certificates" if job.select else ""
    yield "Operations", f"{subject.plan.contents[TARGETS]['operations']:,}{several}"
    yield "Deadline", as_utc(job.deadline_s) if job.deadline_s is not None else "none"


def _parameter(job: Job, name: str) -> str:
    value = job.parameters.get(name)
    return "" if value is None else job.action.fields[name].show(value)


def _account(job: Job) -> Iterator[tuple[str, str]]:
    """Organization or instance by the name in `[connection]`, which each row may overrule."""
    fields = job.provider.actions[job.action.name].fields.values()
    named = [field for field in fields if field.option]
    for field in named:
        yield field.option, str(job.common.get(field.name, ""))
    if not named:  # as the provider of a package may have it
        yield from job.connection.options.items()
