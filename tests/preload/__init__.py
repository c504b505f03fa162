"""Small C libraries that are loaded into a process with LD_PRELOAD.

They change what a program sees of its machine. Each says at its top what it does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def built(name: str, folder: Path) -> Path | None:
    """Compile one of the libraries into a folder; None if there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    path = folder / f"{name}.so"
    source = HERE / f"{name}.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", path, source, "-ldl"]
    subprocess.run(command, check=True)
    return path
