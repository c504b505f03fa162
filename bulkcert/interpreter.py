"""How to start another Python process that runs a module of ours, and nothing else.

In: the name of the module and its arguments. Out: a command and an environment. The process imports
from where this one does. It must never import a module only because it is in the current folder.
"""

from __future__ import annotations

import os
import sys


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module; to be started with `python_environment()`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment() -> dict[str, str]:
    """The environment of this process, with all the folders that it imports from."""
    # an empty entry is the current folder
    folders = [folder or os.getcwd() for folder in sys.path]  # noqa: PTH109 - text is wanted
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
