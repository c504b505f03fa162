"""Read a fleet file: the devices and certificates that exist when the simulator starts.

In: a CSV or JSON Lines file. Out: its rows, one at a time, unchanged. What a row means is up to the
vendor that it belongs to.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a `.csv` or `.jsonl` file, numbered from 1; either may be compressed (`.gz`).

    Raises:
        OSError: the file can't be read.
        ValueError: the file has another suffix, or a line does not have the suffix's format.
    """
    name = path.name.removesuffix(".gz")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as raw:
        if name.endswith(".csv"):
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            lines = csv.reader(text)
            header = next(lines, [])
            for number, line in enumerate(lines, 1):
                yield number, dict(zip(header, line, strict=False))
        elif name.endswith(".jsonl"):
            for number, content in enumerate(raw, 1):
                if content := content.removeprefix(b"\xef\xbb\xbf").strip():
                    yield number, orjson.loads(content)
        else:
            raise ValueError(f"{path} is neither .csv nor .jsonl (nor either with .gz)")
