"""On which lines of a job file its sections and keys stand, for messages. Pure.

In: the text of a job file that is valid TOML. Out: line numbers by place, such as `rollout.waves`.
Keys are found as people write them, one to a line; what is within a value is not looked at. Must
keep no value: one may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bulkcert.jobfile.names import place

_NAME = r"""[\w-]+|"[^"\\]*"|'[^']*'"""
_HEADER = re.compile(rf"\s*\[\s*({_NAME})\s*\]")
_KEY = re.compile(rf"\s*(?:({_NAME})\s*\.\s*)?({_NAME})\s*=")
_LONG_QUOTES = ('"""', "'''")


def lines_of(text: str) -> Mapping[str, int]:
    """Return the line of each section and key, from 1."""
    lines: dict[str, int] = {}
    section, quotes = "", ""
    for number, line in enumerate(text.split("\n"), 1):
        if quotes:  # within a text of several lines
            quotes = "" if quotes in line else quotes
            continue
        if header := _HEADER.match(line):
            section = _plain(header[1])
            lines.setdefault(section, number)
        elif key := _KEY.match(line):
            before = _plain(key[1]) if key[1] else section
            lines.setdefault(place(before, _plain(key[2])), number)
        quotes = next((each for each in _LONG_QUOTES if line.count(each) % 2), "")
    return lines


def _plain(name: str) -> str:
    return name[1:-1] if name[0] in "\"'" else name
