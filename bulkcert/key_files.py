"""The names of the files of keys.

In: names, and the results of operations. Out: file names, and a folder without those that have
served their purpose. Must never remove the last name of a key.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

KEY = ".key.pem"
"""How the name of a key ends."""

_WITH_SERIAL = re.compile(r"\.\d+\.key\.pem\Z")

LONGEST_NAME = 200
"""Characters in a name from `file_name`; most file systems allow 255 with what is added to it."""


def file_name(*parts: object) -> str:
    """Build a file name from parts of any content: readable, unique for these parts, and safe.

    Returns:
        At most `LONGEST_NAME` ASCII characters, without an extension.
    """
    name = "+".join(quote(str(part), safe="") for part in parts)
    if len(name) <= LONGEST_NAME:
        return name
    return hashlib.sha256(name.encode()).hexdigest()


def has_first_names(folder: Path) -> bool:
    """Whether a key has the name that it had before its certificate was known."""
    with os.scandir(folder) as entries:  # there may be millions
        return any(
            entry.name.endswith(KEY) and not _WITH_SERIAL.search(entry.name) for entry in entries
        )


def remove_first_names(folder: Path, results: Iterable[Any]) -> None:
    """Remove the names that keys had before their certificates were known.

    Args:
        folder: the folder of the keys.
        results: the results of operations whose outcomes are durable, and which never look for
            their key again.
    """
    for result in results:
        named = Path(result.get("key_file") or "" if isinstance(result, dict) else "").name
        name, _, serial = named.removesuffix(KEY).rpartition(".")
        if name and serial.isdigit() and (folder / named).exists():
            (folder / f"{name}{KEY}").unlink(missing_ok=True)
