"""From the bytes of a target file, or of standard input, to checked targets.

In: CSV with a header or JSON objects, one per line; either may be gzipped; UTF-8 with or without a
byte order mark; lines end in LF or CRLF (a lone CR is a fault). Out: a `Target` for each good row
and a `Rejection` for each fault of a bad one, in file order. What is wrong with the file as a whole
is a `TargetsError`; nothing else is raised, whatever the bytes are.

It must never hold more than one row in memory, guess what a bad row means, or skip one silently:
only lines without content are passed over.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from bulkcert.errors import TargetsError
from bulkcert.model import Fields, FieldValue, Rejection, Target
from bulkcert.providers.base import Action, Field
from bulkcert.values import shown

Format = Literal["csv", "jsonl"]

_LONGEST_ROW = 2**20  # bytes; a row is some hundred, one with a certificate request a few thousand
_LONGEST_NAME = 100  # characters of a foreign header that are kept, or compared with known fields
_MOST_UNUSED = 50
_MOST_COMPARED = 200
_LARGEST_PEM = 2**16
_CHUNK = 2**18
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_ENDINGS: dict[str, tuple[Format, bool]] = {
    ".csv": ("csv", False),
    ".csv.gz": ("csv", True),
    ".jsonl": ("jsonl", False),
    ".jsonl.gz": ("jsonl", True),
}
_NOT_GIVEN = "is empty or missing"


class TargetFile:
    """A target file, read anew by each iteration (standard input can be read once).

    Args:
        source: the file, or None for standard input.
        action: says which fields there are.
        parameters: the job's checked parameters; they stand in for fields that a row does not give.
        columns: field name to the header (CSV) or key (JSONL) that the file uses for it.
        stdin: what to read when `source` is None; default is the standard input of the process.
        format: for a source whose name does not tell; compression is then seen from the content.

    Attributes:
        sha256: of the bytes as stored (compressed ones for .gz); empty until all was read.
        lines: rows seen so far, good and bad, without the header and lines without content.
    """

    def __init__(
        self,
        source: Path | None,
        action: Action,
        parameters: Fields,
        columns: Mapping[str, str],
        stdin: BinaryIO | None = None,
        format: Format | None = None,  # noqa: A002 - the usual word for it
    ) -> None:
        self.source = source
        self.sha256 = ""
        self.lines = 0
        self._name = _name_of(source)
        self._stdin = stdin
        self._format = format
        self._rules = _RowRules(action, parameters, source.parent if source else Path())
        self._layout = _Layout(action, parameters, columns)
        self._unused: dict[str, None] = {}

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """Foreign headers or keys met so far: the first 50, long ones cut, safe to print."""
        return tuple(self._unused)

    def __iter__(self) -> Iterator[Target | Rejection]:
        """Yield targets and rejections in file order.

        Raises:
            TargetsError: the file can't be used as a whole; what was yielded before is void.
        """
        self.sha256, self.lines, self._unused = "", 0, {}
        with _opened(self.source, self._stdin) as raw:
            lines = _Lines()
            try:
                form = lines.open(raw, *self._stored_as())
                yield from self._csv(lines) if form == "csv" else self._jsonl(lines)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise TargetsError(
                    f"{self._name}: the gzip data is cut short or damaged after line "
                    f"{lines.number}: {error}",
                    "Make or copy the file again; `gzip -t` tells whether it is whole.",
                ) from error
            except OSError as error:
                raise _unreadable(self._name, error) from error
        if not self.lines:
            raise TargetsError(
                f"{self._name}: no targets: the file is empty or has only a header",
                "Check that it is the right file and that writing it has finished.",
            )
        self.sha256 = raw.hexdigest()

    def _stored_as(self) -> tuple[Format | None, bool | None]:
        """The format, and whether it is compressed; None means that the content has to tell."""
        if self.source is None or self._format:
            return self._format, None
        name = self.source.name.lower()
        for ending, stored_as in _ENDINGS.items():
            if name.endswith(ending):
                return stored_as
        raise TargetsError(
            f"{self._name}: the format can't be told from the name",
            f"Give it a name that ends in one of {', '.join(_ENDINGS)}.",
        )

    def _csv(self, lines: _Lines) -> Iterator[Target | Rejection]:
        rows = _csv_rows(lines)
        header = next(rows, None)
        if header is None:
            return
        places, width = self._read_header(*header)
        for line, cells, fault in rows:
            self.lines += 1
            found: Sequence[Target | Rejection]
            if fault:
                found = (Rejection(line, "", fault),)
            elif len(cells) != width:
                found = (Rejection(line, "", f"has {len(cells)} cells, the header has {width}"),)
            else:
                given: dict[str, object] = {}
                for name, place in places:
                    cell = cells[place]
                    if cell and not cell.isspace():
                        given[name] = cell
                found = self._rules.check(line, given)
            if lines.number > line:
                found = _with_end(found, lines.number)
            yield from found

    def _jsonl(self, lines: _Lines) -> Iterator[Target | Rejection]:
        any_object = False
        unseen = set(self._layout.mapped.values())
        for line, content, fault in _jsonl_rows(lines):
            self.lines += 1
            row = fault or _json_object(content)
            if isinstance(row, str):
                yield Rejection(line, "", row)
            else:
                any_object = True
                unseen -= row.keys()
                yield from self._check_object(line, row, content)
        if unseen and any_object:
            raise TargetsError(
                f"{self._name}: [columns] of the job file names keys that no line has: "
                + _listed(sorted(unseen)),
                "Correct [columns] in the job file.",
            )

    def _check_object(
        self, line: int, row: dict[str, Any], content: str
    ) -> Sequence[Target | Rejection]:
        if faults := self._key_faults(row, content):
            return [Rejection(line, *fault) for fault in faults]
        given = {
            name: value
            for name, key in self._layout.headers.items()
            # an empty text is not a value here either: it is what a converted CSV has
            if (value := row.get(key)) is not None
            and not (isinstance(value, str) and not value.strip())
        }
        return self._rules.check(line, given)

    def _key_faults(self, row: dict[str, Any], content: str) -> list[tuple[str, str]]:
        """What is wrong with the keys of a JSON object, as field and reason."""
        layout = self._layout
        faults = []
        # each pair has one colon: with as many colons as different keys, no key is there twice
        if content.count(":") != len(row):
            twice = _keys_given_twice(content)
            if twice is None:
                return [("", "is nested too deeply")]
            faults += [(f, "is given twice") for f, k in layout.headers.items() if k in twice]
        if row.keys() <= layout.known:
            return faults
        for key in row:
            if key in layout.known:
                continue
            field = layout.meant_by(key)
            if field and layout.headers.get(field) not in row:
                how = f"rename it or map it: {_toml_line(field, key)}"
                faults.append((field, f"is surely meant by {shown(key)}: {how}"))
            else:
                self._note_unused(key)
        return faults

    def _note_unused(self, header: str) -> None:
        if header and len(self._unused) < _MOST_UNUSED:
            name = header if header.isprintable() else repr(header)[1:-1]
            self._unused.setdefault(name[:_LONGEST_NAME])

    def _read_header(
        self, line: int, cells: list[str], fault: str
    ) -> tuple[list[tuple[str, int]], int]:
        """Where each field stands in a row, in field order, and how many cells a row has."""
        if fault:
            raise TargetsError(
                f"{self._name}: line {line}, which should be the header, {fault}",
                "Save the file as CSV in UTF-8, and compressed only if its name ends in .gz.",
            )
        headers = [cell.strip() for cell in cells]
        faults, mapping = self._layout.judge(headers)
        if faults:
            raise TargetsError(
                "\n".join(f"{self._name}: {fault}" for fault in faults)
                + f"\nThe headers are: {_listed(headers)}",
                _how_to_correct(headers, mapping),
            )
        places = self._layout.places(headers)
        used = {headers[place] for place in places.values()}
        for header in headers:
            if header not in used:
                self._note_unused(header)
        return list(places.items()), len(headers)


def digest(source: Path | None, stdin: BinaryIO | None = None) -> str:
    """The `sha256` that a `TargetFile` of this source has after it was read, without the reading.

    Raises:
        TargetsError: the file can't be read.
    """
    with _opened(source, stdin) as raw:
        try:
            raw.drain()
        except OSError as error:
            raise _unreadable(_name_of(source), error) from error
    return raw.hexdigest()


class _Layout:
    """Which header (CSV) or key (JSONL) holds which field.

    Attributes:
        headers: by field name, in field order; a header that [columns] gives to one field is not
            looked at for the field that happens to have that name.
        mapped: the part of `headers` that comes from [columns].
        known: the values of `headers`.
    """

    def __init__(self, action: Action, parameters: Fields, columns: Mapping[str, str]) -> None:
        taken = set(columns.values())
        self.headers = {
            name: columns.get(name, name)
            for name in action.fields
            if name in columns or name not in taken
        }
        self.mapped = {name: header for name, header in self.headers.items() if name in columns}
        self.known = set(self.headers.values())
        self._parameters = parameters
        self._required = [field.name for field in action.required]
        self._ways = _ways_of(action)
        self._folded = {_fold(name): name for name in action.fields if name not in columns}

    def places(self, headers: list[str]) -> dict[str, int]:
        """Where in a CSV row the fields stand, in field order, as far as they are there."""
        return {f: headers.index(header) for f, header in self.headers.items() if header in headers}

    def meant_by(self, header: str) -> str | None:
        """The field that a foreign header is surely meant for, as if misspelt."""
        return self._folded.get(_fold(header)) if len(header) <= _LONGEST_NAME else None

    def judge(self, headers: list[str]) -> tuple[list[str], dict[str, str]]:
        """What is wrong with the header of a CSV file, and which mapping may put it right."""
        found = self.places(headers)
        foreign = [header for header in headers if header not in self.known]
        meant = {
            field: header
            for header in reversed(foreign)  # so that the first of several is kept
            if (field := self.meant_by(header)) and field not in found
        }
        faults = [
            f"the header {shown(headers[place])} is there twice"
            for place in found.values()
            if headers.count(headers[place]) > 1
        ]
        faults += [
            f"[columns] says that {field} is under {shown(header)}, but there is no such header"
            for field, header in self.mapped.items()
            if field not in found
        ]
        faults += [
            f"the header {shown(header)} surely means {field}, but is not its name"
            for field, header in meant.items()
        ]
        lacking = self._lacking({*found, *meant, *self.mapped, *self._parameters})
        return faults + list(lacking), meant | self._resembling(lacking.values(), foreign)

    def _lacking(self, present: set[str]) -> dict[str, list[str]]:
        """What is wrong when rows have the fields `present` only, and which fields would help."""
        lacking = {
            f"the column {name} is missing": [name]
            for name in self._required
            if name not in present
        }
        if not any(present.issuperset(way) for way in self._ways):
            lacking[f"no column names the device: {_either(self._ways)} is needed"] = [
                name for way in self._ways for name in way if name not in present
            ]
        return lacking

    @staticmethod
    def _resembling(lacking: Iterable[list[str]], foreign: list[str]) -> dict[str, str]:
        few = (header for header in foreign[:_MOST_COMPARED] if len(header) <= _LONGEST_NAME)
        by_fold = {_fold(header): header for header in few}
        close = {
            name: difflib.get_close_matches(_fold(name), by_fold, n=1)
            for names in lacking
            for name in names
        }
        return {name: by_fold[folds[0]] for name, folds in close.items() if folds}


class _RowRules:
    """Checks one row, of either format, against the action and the job's parameters."""

    def __init__(self, action: Action, parameters: Fields, folder: Path) -> None:
        self._folder = folder
        self._parsers = {
            name: self._pem_parser(field) if field.pem else field.parse
            for name, field in action.fields.items()
        }
        self._parameters = parameters
        self._required = [field.name for field in action.required]
        self._ways = _ways_of(action)
        # what is wrong depends only on which fields are given, and few combinations occur
        self._incomplete: dict[tuple[str, ...], list[tuple[str, str]]] = {}

    def check(self, line: int, given: Mapping[str, object]) -> Sequence[Target | Rejection]:
        """One target, or all that is wrong with it.

        Args:
            line: where the row starts.
            given: the values that the row gives, not yet parsed, in field order.
        """
        parsers, combination = self._parsers, tuple(given)
        incomplete = self._incomplete.get(combination)
        if incomplete is None:
            incomplete = self._incomplete[combination] = self._check_given(combination)
        if not incomplete:
            try:
                fields = {name: parsers[name](value) for name, value in given.items()}
            except ValueError:
                pass  # there may be more than one
            else:
                return (Target(line, fields),)
        faults = []
        for name, value in given.items():
            try:
                parsers[name](value)
            except ValueError as reason:
                faults.append(Rejection(line, name, str(reason)))
        return faults + [Rejection(line, *fault) for fault in incomplete]

    def _pem_parser(self, field: Field) -> Callable[[object], FieldValue]:
        return lambda value: field.parse(self._pem_text(value))

    def _pem_text(self, value: object) -> object:
        """PEM text as it is; that of a file where the value is a path relative to the targets."""
        if not isinstance(value, str) or value.lstrip().startswith("-----BEGIN"):
            return value
        path = self._folder / value.strip()
        try:
            with path.open("rb") as file:
                return file.read(_LARGEST_PEM).decode("ascii")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no PEM file"
            raise ValueError(f"names {shown(value)}, which can't be read: {reason}") from None

    def _check_given(self, given: tuple[str, ...]) -> list[tuple[str, str]]:
        present = {*given, *self._parameters}
        faults = [(field, _NOT_GIVEN) for field in self._required if field not in present]
        return faults + self._check_identity(present, given)

    def _check_identity(self, present: set[str], given: tuple[str, ...]) -> list[tuple[str, str]]:
        """Exactly one way to name the device must be there, and nothing of another."""
        named = [name for way in self._ways for name in way if name in present]
        whole = [way for way in self._ways if present.issuperset(way)]
        if whole and set(named) == set(whole[0]):
            return []
        if not named:
            return [("", f"names no device: {_either(self._ways)} is needed")]
        origin = [f"{name} from [parameters]" for name in named if name not in given]
        hint = f" ({', '.join(origin)})" if origin else ""
        if whole:
            return [
                (
                    "",
                    f"names the device in more than one way, by {_and(named)}{hint}: "
                    f"{_either(self._ways)} is needed, not both",
                )
            ]
        begun = next(way for way in self._ways if present.intersection(way))
        return [
            (name, f"{_NOT_GIVEN}, but is needed together with {_and(named)}{hint}")
            for name in begun
            if name not in present
        ]


class _Lines:
    """Lines of text, one at a time, of which none can exhaust the memory.

    A line that is no text is replaced by what is left of it, so that quotes still match, and
    `fault` says what was wrong.

    Attributes:
        number: of the line read last, from 1.
        fault: what is wrong first with the lines of the row that is being read.
    """

    def __init__(self) -> None:
        self.number = 0
        self.fault = ""
        self._stream: io.BufferedReader
        self._room = _LONGEST_ROW
        self._start = 1

    def open(self, raw: _HashingReader, form: Format | None, zipped: bool | None) -> Format:
        """Start reading; what is not known beforehand, the first bytes tell."""
        self._stream = io.BufferedReader(raw, _CHUNK)
        if zipped is None:
            zipped = self._stream.peek()[:2] == _GZIP_MAGIC
        if zipped:
            self._stream = io.BufferedReader(gzip.GzipFile(fileobj=self._stream), _CHUNK)
        if form is None:
            start = self._stream.peek().removeprefix(_BYTE_ORDER_MARK).lstrip()
            form = "jsonl" if start.startswith(b"{") else "csv"
        return form

    def begin_row(self) -> int:
        """Forget the row before; the number of the line on which the next one starts."""
        self.fault = ""
        self._room = _LONGEST_ROW
        self._start = self.number + 1
        return self._start

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(_LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > _LONGEST_ROW:
            return self._skip(line)
        self._room -= len(line)
        if self._room < 0:
            raise _EndlessRowError
        if self.number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            text = line.decode(errors="replace")
            self._note(f"is not valid UTF-8, at byte {error.start + 1}")
        if "\0" in text:
            self._note("contains a NUL byte")
        return text

    def _note(self, fault: str) -> None:
        if not self.fault:  # the first one of a row is the one to look at
            where = f" on line {self.number}" if self.number > self._start else ""
            self.fault = fault + where

    def _skip(self, line: bytes) -> str:
        self._note(f"is longer than {_LONGEST_ROW // 2**20} MiB")
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_LONGEST_ROW)
        return "\n"


class _EndlessRowError(csv.Error):
    """A CSV row goes on beyond the longest row that is read."""


class _HashingReader(io.RawIOBase):
    """Passes bytes on, and takes their digest on the way."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._source.read(len(buffer))
        if content is None:
            # to take this for the end would lose targets
            raise BlockingIOError("standard input is in non-blocking mode")
        self._sha256.update(content)
        buffer[: len(content)] = content
        return len(content)

    def drain(self) -> None:
        """Read to the end, so that the digest covers all."""
        buffer = bytearray(_CHUNK)
        while self.readinto(buffer):
            pass

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


@contextmanager
def _opened(source: Path | None, stdin: BinaryIO | None) -> Iterator[_HashingReader]:
    if source is None:
        # Python has no standard input at all when the process was started with it closed
        stream = stdin or (sys.stdin and sys.stdin.buffer)
        if not stream or stream.closed:
            raise TargetsError(
                "standard input is closed", "Pipe the targets in, or name a target file."
            )
        yield _HashingReader(stream)
        return
    try:
        file = source.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(_name_of(source), error) from error
    with file:
        yield _HashingReader(file)


def _name_of(source: Path | None) -> str:
    return "standard input" if source is None else str(source)


def _unreadable(name: str, error: Exception) -> TargetsError:
    reason = getattr(error, "strerror", None) or str(error)
    return TargetsError(
        f"{name}: the targets can't be read: {reason}",
        "Check `targets` in the job file, and that the file may be read.",
    )


def _how_to_correct(headers: list[str], mapping: dict[str, str]) -> str:
    """The next step for a header that is not usable as it is."""
    if len(headers) == 1 and (separator := _other_separator(headers[0])):
        return f"Separate the columns by commas; this file seems to use {separator}."
    if headers[0].startswith(("{", "[")):
        return "This looks like JSON: write one object per line, and name the file .jsonl."
    if not mapping:
        return "Correct the header, or map it in the job file under [columns]."
    lines = "\n".join(_toml_line(*pair) for pair in mapping.items())
    return (
        f"Correct the header, or add to the job file, if that is what is meant:\n[columns]\n{lines}"
    )


def _csv_rows(lines: _Lines) -> Iterator[tuple[int, list[str], str]]:
    """Rows with content: the line on which each starts, its cells, and what is wrong with it."""
    # strict, because text after a closing quote is a fault and not a guess
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    while True:
        line, fault = lines.begin_row(), ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, fault = [], _csv_fault(error)
        fault = lines.fault or fault
        if fault or len(cells) > 1 or (cells and cells[0].strip()):
            yield line, cells, fault


def _jsonl_rows(lines: _Lines) -> Iterator[tuple[int, str, str]]:
    """Rows with content: the line of each, its text, and what is wrong with it."""
    line = lines.begin_row()
    for content in lines:
        if lines.fault or (content and not content.isspace()):
            yield line, content, lines.fault
        line = lines.begin_row()


def _csv_fault(error: csv.Error) -> str:
    """What a fault of the CSV syntax means, in plain words."""
    problem = str(error)
    if isinstance(error, _EndlessRowError) or "end of data" in problem:
        return 'has a quote (") that is opened and not closed'
    if "larger than field limit" in problem:
        return (
            f'has a cell of more than {csv.field_size_limit()} characters, or a quote (") '
            "that is opened and not closed"
        )
    if "expected after" in problem:
        return 'has text after a closing quote (")'
    if "new-line" in problem:
        return "contains a lone carriage return (CR); lines must end in LF or CRLF"
    return f"is not valid CSV: {problem}"


def _with_end(found: Sequence[Target | Rejection], end: int) -> list[Target | Rejection]:
    """Add to rejections where the row ended: a stray quote makes one row of many."""
    hint = f'; the row goes on to line {end}: is a quote (") missing?'
    return [
        item._replace(reason=item.reason + hint) if isinstance(item, Rejection) else item
        for item in found
    ]


def _json_object(content: str) -> dict[str, Any] | str:
    """The object that a line holds, or what is wrong with the line."""
    try:
        row = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return f"is not valid JSON: {error.msg}, at character {error.pos + 1}"
    if not isinstance(row, dict):
        return "is not a JSON object; each line must be one, such as {...}"
    return row


_PAIRS = json.JSONDecoder(object_pairs_hook=list)


def _keys_given_twice(content: str) -> set[str] | None:
    """Keys that an object of valid JSON has more than once; None if that can't be told."""
    try:
        pairs = _PAIRS.decode(content)
    except RecursionError:
        return None
    seen: set[str] = set()
    twice: set[str] = set()
    for key, _ in pairs:
        (twice if key in seen else seen).add(key)
    return twice


def _fold(header: str) -> str:
    """What is left of a header when letter case and separators do not count."""
    return header.translate(_SEPARATORS).casefold()


_SEPARATORS = str.maketrans("", "", " -_")


def _toml_line(field: str, header: str) -> str:
    # a JSON string is a TOML string too, as long as no character beyond 16 bits is escaped
    return f"{field} = {json.dumps(header, ensure_ascii=False)}"


def _other_separator(header: str) -> str:
    return next((name for sign, name in ((";", "';'"), ("\t", "tabs")) if sign in header), "")


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def _ways_of(action: Action) -> list[tuple[str, ...]]:
    return [tuple(field.name for field in way) for way in action.identifiers]


def _either(ways: list[tuple[str, ...]]) -> str:
    """The ways to name a device: "assetId, or productKey and deviceKey"."""
    return ", or ".join(_and(way) for way in ways)


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)
