"""What separates the cells of a CSV file: as its first line says, or as it seems. Pure.

In: the first line. Out: one character, or the lines of [format] to add to the job file.
"""

from __future__ import annotations

import json
import re

COMMA = ","
_SIGNS = {COMMA: "commas", ";": "';'", "\t": "tabs", "|": "'|'"}
_DECLARATION = re.compile(r'"?sep=([^\w\s"]|\t)"?\r?\n?', re.IGNORECASE)


def declared(line: str) -> str:
    """Return the delimiter that a line such as `sep=;` declares, as Excel writes it; or nothing."""
    match = _DECLARATION.fullmatch(line)
    return match[1] if match else ""


def seeming(header: str) -> str:
    """Return the sign that separates most parts of a header; empty if there is none."""
    best = max(_SIGNS, key=header.count)
    return best if best in header else ""


def what_to_add(*, delimiter: str = "", encoding: str = "", to_section: bool) -> str:
    """Write the end of a sentence with the lines to add to the job file.

    Args:
        delimiter, encoding: keys of [format]; empty ones are left out.
        to_section: the job file has a section [format] already.
    """
    given = {"delimiter": delimiter, "encoding": encoding}
    lines = [f"{key} = {json.dumps(value)}" for key, value in given.items() if value]
    if to_section:
        return "\n".join(["add to [format] in the job file:", *lines])
    return "\n".join(["add to the job file:", "[format]", *lines])


def how_to_separate(header: str, used: str, *, encoding: str = "", to_section: bool) -> str:
    """Return the next step for a header that is separated by another sign; empty if it is not.

    Args:
        header: the line.
        used: the sign that it was separated by.
        encoding: the encoding to add, if the file is not in UTF-8.
        to_section: see `what_to_add`.
    """
    sign = seeming(header)
    if not sign or sign == used:
        return ""
    if sign == COMMA:
        return "Remove `delimiter` from [format] in the job file: this file seems to use commas."
    return (
        f"Separate the columns with commas, or, since this file seems to use {_SIGNS[sign]},"
        f" {what_to_add(delimiter=sign, encoding=encoding, to_section=to_section)}"
    )
