"""Reads never-touch lists: that of the job, and the global one that `BULKCERT_NEVER` names.

In: a job, and the lists on disk. They are read like target files. Out: what must not be touched in
a run of that job. Must never skip a row silently: a list with a bad row can't be used, nor one
without rows. Only rows of the global list that name nothing but things of other providers are left
to the jobs of those.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from bulkcert.errors import PluginError, ProtectionError, TargetsError
from bulkcert.job import UTF_8_WITH_COMMAS, CsvFormat, Job
from bulkcert.model import FieldValue, Operation, Rejection, Target
from bulkcert.providers import BUILT_IN, installed
from bulkcert.providers.base import Action, Field, Provider
from bulkcert.quantities import count
from bulkcert.rules.protect import WILDCARD, Entry, NeverTouch
from bulkcert.targets import TargetFile
from bulkcert.targets.extra import ExtraColumns
from bulkcert.targets.wording import joined
from bulkcert.values import shown

VARIABLE = "BULKCERT_NEVER"
"""Names the global list, which applies to every run of this environment that changes something."""

_OWNER, _NOTE = "owner", "note"
_FIRST_SHOWN = 20
_FILLERS = ("1", "a1", "")
"""What a wildcard may stand for, to see whether a value with one can be a value of its field."""


def never_touch(job: Job, environment: Mapping[str, str] = os.environ) -> NeverTouch | None:
    """Read the lists of a job.

    Args:
        job: the job.
        environment: has the variable with the global list, or not.

    Returns:
        What must not be touched; None if there is no list, or the job changes nothing.

    Raises:
        ProtectionError: a list can't be used.
    """
    if not job.action.changes:
        return None
    own = job.rules.protect.never if job.rules.protect else None
    entries = list(_read(job, own, identifying(job.provider))) if own else []
    shared = environment.get(VARIABLE)
    if shared is not None:
        entries += _shared(job, shared)
    elif own is None:
        return None
    return NeverTouch(
        entries, [[f.name for f in way] for way in job.action.identifiers], job.common
    )


def refuse_incomparable(job: Job, lists: NeverTouch, shapes: Iterable[tuple[str, ...]]) -> None:
    """Refuse entries that can't be compared with any target.

    Args:
        job: the job.
        lists: its lists.
        shapes: the combinations of fields that its targets have; nothing is refused without any.

    Raises:
        ProtectionError: there is one.
    """
    found = {job.action.selects} if job.select else set()
    have = sorted({tuple(sorted({*shape, *found})) for shape in shapes})
    useless = lists.incomparable(have) if have else ()
    if not useless:
        return
    lines = [
        f"{entry.source}: line {entry.line}: {joined(sorted(entry.fields))} can't be compared with"
        " any target"
        for entry in useless[:_FIRST_SHOWN]
    ]
    if (more := len(useless) - _FIRST_SHOWN) > 0:
        lines.append(f"... and {count(more, 'more entry', 'more entries')}")
    named = ", or ".join(joined(shape) for shape in have)
    raise ProtectionError(
        "\n".join(lines),
        f"The targets have {named}. Name there in the same way what must not be touched, instead or"
        " besides: an entry that can't match protects nothing.",
    )


def refusing(
    job: Job, shapes: Iterable[tuple[str, ...]]
) -> Callable[[Operation], str | None] | None:
    """Return what says why nothing may be sent for an operation; None if there is no list.

    Args:
        job: the job.
        shapes: the combinations of fields that its targets have.

    Raises:
        ProtectionError: a list can't be used.
    """
    lists = never_touch(job)
    if lists is None:
        return None
    refuse_incomparable(job, lists, shapes)

    def refuse(operation: Operation) -> str | None:
        hit = lists.find(operation.fields)
        return None if hit is None else str(hit)

    return refuse


def identifying(provider: Provider) -> dict[str, Field]:
    """The fields by which a list may name what must not be touched, by name."""
    return {
        field.name: field
        for action in provider.actions.values()
        for field in action.fields.values()
        if field.option
        or (field in action.required and not field.pem)
        or any(field in way for way in action.identifiers)
    }


def _shared(job: Job, name: str) -> Iterator[Entry]:
    """Read the global list. It may name things of several providers."""
    if not name:
        raise ProtectionError(
            f"{VARIABLE} is set, but empty.",
            "Name the list of what must never be touched, or unset the variable.",
        )
    own = identifying(job.provider)
    fields = own.copy()
    try:
        others = installed()
    except PluginError:  # its rows are then bad, which is said
        others = BUILT_IN
    for provider in others.values():
        fields = identifying(provider) | fields
    for entry in _read(job, Path(name), fields):
        if named := {name: value for name, value in entry.fields.items() if name in own}:
            yield entry._replace(fields=named)


def _read(job: Job, path: Path, fields: Mapping[str, Field]) -> Iterator[Entry]:
    """Read a list.

    Args:
        job: it may be written like the target file of this job.
        path: the list.
        fields: the columns that it may have.

    Raises:
        ProtectionError: it can't be used.
    """
    in_csv = ".csv" in path.name.lower()
    ways = (UTF_8_WITH_COMMAS, job.format) if job.format and in_csv else (UTF_8_WITH_COMMAS,)
    readings = [_attempt(job, path, fields, way) for way in ways]
    good = [reading for reading in readings if not isinstance(reading, ProtectionError)]
    for reading in readings:
        if isinstance(reading, ProtectionError) and not good:
            raise reading
    # bytes may be text in both encodings: to misread an owner does no harm, a name must be certain
    if any([t.fields for t in one] != [t.fields for t in good[0]] for one in good):
        raise ProtectionError(
            f"{path} can be read as UTF-8 and as the [format] of the job file says, and names"
            " different things then.",
            "Save it as UTF-8 with a byte order mark.",
        )
    for target in good[-1]:
        yield Entry(
            str(path),
            target.line,
            {name: str(value) for name, value in target.fields.items()},
            owner=_about(target, _OWNER),
            note=_about(target, _NOTE),
        )


def _attempt(
    job: Job, path: Path, fields: Mapping[str, Field], csv_format: CsvFormat
) -> list[Target] | ProtectionError:
    """Read a list that is written in one way; return why it can't be used."""
    action = Action(
        name="never",
        changes=False,
        identifiers=tuple((_with_wildcards(field),) for field in fields.values()),
    )

    def file(columns: Mapping[str, str]) -> TargetFile:
        return TargetFile(
            path, action, {}, columns, csv_format=csv_format, extra=ExtraColumns(fields)
        )

    if reason := _why_unreadable(path):
        return ProtectionError(
            f"The never-touch list {path} can't be read: {reason}",
            "Nothing is sent without it. Check the path, and that this user may read the file.",
        )
    try:
        names = _names(file({}))
        list_file = file({f: h for f, h in job.columns.items() if f in fields and h in names})
        good: list[Target] = []
        faults: list[Rejection] = []
        for found in list_file:
            if isinstance(found, Rejection):
                faults.append(found)
            else:
                good.append(found)
    except TargetsError as error:
        return ProtectionError(
            f"The never-touch list can't be used: {error.problem}", error.next_step
        )
    if list_file.without_certificates:
        return ProtectionError(
            f"{path} is the result of a run, and has"
            f" {count(list_file.without_certificates, 'device')} without a certificate.",
            "Write a list with the columns that name what must not be touched.",
        )
    if faults:
        lines = [f"{path}: line {row.line}: {row.fault}" for row in faults[:_FIRST_SHOWN]]
        if (more := len(faults) - _FIRST_SHOWN) > 0:
            lines.append(f"... and {count(more, 'more error')}")
        steps = ("Correct the never-touch list; nothing is sent without it.", list_file.advice)
        return ProtectionError("\n".join(lines), "\n".join(filter(None, steps)))
    return good


def _why_unreadable(path: Path) -> str:
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return getattr(error, "strerror", None) or str(error)
    return ""


def _names(file: TargetFile) -> list[str]:
    """The headers of a list, or the keys of its first line, as far as they can be read."""
    try:
        cells = next((row.cells for row in file.rows()), None)
    except TargetsError:  # the same error comes again
        cells = None
    return list(cells) if isinstance(cells, Mapping) else list(file.header or ())


def _with_wildcards(field: Field) -> Field:
    """The same field for values that may contain wildcards."""

    def parse(value: object) -> FieldValue:
        if isinstance(value, str) and WILDCARD in value:
            return _pattern(value.strip(" "), field.parse)
        return field.parse(value)

    return dataclasses.replace(field, parse=parse, pem=False, option="")


def _pattern(text: str, parse: Callable[[object], FieldValue]) -> str:
    """Check a value with wildcards: some value of the field must be able to match it.

    Raises:
        ValueError: none can.
    """
    if WILDCARD * 2 in text:
        raise ValueError(f"is masked, so it is not known what it names: {shown(text)}")
    reasons: list[ValueError] = []
    for filler in _FILLERS:
        filled = text.replace(WILDCARD, filler)
        try:
            parsed = str(parse(filled))
        except ValueError as reason:
            reasons.append(reason)
        else:
            if parsed != filled:  # a number has no leading zeros
                raise ValueError(f"can never match: it would be written {parsed!r}, not {filled!r}")
            return text
    raise reasons[0]


def _about(target: Target, column: str) -> str:
    """The owner or the note of a row; the letter case of the header makes no difference."""
    return next(
        (
            str(value)
            for name, value in target.extra.items()
            if name.casefold() == column and value is not None
        ),
        "",
    )
