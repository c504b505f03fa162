"""What the first bytes of a target file show about it. Pure.

In: the start of the content, decompressed. Out: its format, and whether a run has written it.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from typing import Literal

import orjson

from bulkcert.targets.records import is_of_a_run
from bulkcert.targets.rejected import is_rejected

Format = Literal["csv", "jsonl", "xlsx"]

ZIP = b"PK\x03\x04"
"""How a workbook begins."""


def format_of(start: bytes) -> Format:
    """Return the format of a file that begins like this."""
    if start.startswith(ZIP):
        return "xlsx"
    return "jsonl" if start.removeprefix(BOM_UTF8).lstrip().startswith(b"{") else "csv"


def is_written_by_us(start: bytes) -> bool:
    """Whether CSV begins like results or rejected rows, which are written in one way only."""
    line = start.removeprefix(BOM_UTF8).partition(b"\n")[0].decode(errors="replace")
    try:
        header = next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return False
    return is_of_a_run(header) or is_rejected(header)


def is_record(start: bytes) -> bool:
    """Whether JSON Lines begin with a record of results, or with a rejected row."""
    try:
        record = orjson.loads(start.removeprefix(BOM_UTF8).partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(record, dict) and (is_of_a_run(record) or is_rejected(record))
