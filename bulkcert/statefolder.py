"""The folder in which the runs of one user find each other, outside any run directory.

Out: a path; nothing is created here. What it contains may be deleted while nothing runs: it is
never needed to continue a run.
"""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return the user's state folder: `$XDG_STATE_HOME/bulkcert`, by default below
    `~/.local/state`.

    Source: specifications.freedesktop.org/basedir-spec; a relative path in the variable is ignored.
    """
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    # without a home directory, `~` stays as it is, and nothing can be kept
    base = given if given.is_absolute() else Path("~/.local/state")
    return Path(os.path.expanduser(base)) / "bulkcert"  # noqa: PTH111 - expanduser() may raise
