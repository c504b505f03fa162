"""Read the bytes of a job file as TOML.

In: a path. Out: the document as `tomllib` returns it, unchecked, and on which lines its keys stand.
An error must never quote the file's content or keep it in its `__cause__`: it may contain a secret.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bulkcert.errors import JobError
from bulkcert.jobfile.faults import CORRECT_JOB
from bulkcert.jobfile.lines import lines_of

MAX_BYTES = 2**20


class Document(NamedTuple):
    """What a job file contains.

    Attributes:
        values: as `tomllib` returns them.
        lines: on which line each section and key stands, see `lines_of`.
    """

    values: dict[str, Any]
    lines: Mapping[str, int]


def read_document(path: Path) -> Document:
    """Read a job file: TOML in UTF-8, at most 1 MiB.

    Raises:
        JobError: the file can't be read, or is not TOML.
    """
    content = _read_bytes(path)
    # "from None": the causes refer to the content, which may contain a secret
    try:
        text = content.decode("utf-8-sig")
        return Document(tomllib.loads(text), lines_of(text))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JobError(
            f"{path}: line {line} is not UTF-8 text", "Save the job file as UTF-8."
        ) from None
    except RecursionError:
        raise JobError(f"{path}: the values are nested too deeply", CORRECT_JOB) from None
    except ValueError as error:  # TOMLDecodeError, or a number with too many digits for Python
        raise JobError(
            f"{path}: this is not valid TOML: {error}",
            "Correct that line. Text must be in double quotes.",
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise JobError(
            f"{path}: the job file can't be read: {reason}",
            "Check the path and the permissions of the file.",
        ) from error
    if len(content) > MAX_BYTES:
        raise JobError(
            f"{path}: the job file is larger than {MAX_BYTES // 2**20} MiB",
            "Check that it is the job file and not the target file.",
        )
    return content
