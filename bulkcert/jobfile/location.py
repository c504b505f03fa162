"""Where a job file really is.

In: the path that somebody named. Out: the file itself. A job that is named through a symbolic link
is the same job, with the same name, targets and run, as one that is named directly.
"""

from __future__ import annotations

import os
from pathlib import Path

_NOT_IN_A_FOLDER = ("/dev", "/proc")
"""Where the paths of pipes, here-documents and process substitutions are."""


def locate(path: Path) -> Path | None:
    """Return the job file without symbolic links.

    Args:
        path: the job file as it was named.

    Returns:
        None if it is not in a folder of its own, such as a pipe.
    """
    given = Path(os.path.abspath(path))  # noqa: PTH100 - links in /dev are not followed yet
    if any(map(given.is_relative_to, _NOT_IN_A_FOLDER)):
        return None
    resolved = path.resolve()
    return resolved if resolved.is_file() else None
