"""A version of the program that is newer than this one: it has one more migration."""

from __future__ import annotations

import shutil
from pathlib import Path

import bulkcert

_MIGRATION = "ALTER TABLE bulkcert.operation ADD COLUMN newer text;\n"


def newer_version(folder: Path) -> Path:
    """Copy the package into a folder, for PYTHONPATH, with a migration that adds a column."""
    package = folder / "bulkcert"
    shutil.copytree(Path(bulkcert.__file__).parent, package)
    migrations = package / "store" / "postgresql" / "migrations"
    number = 1 + max(int(file.stem) for file in migrations.glob("*.sql"))
    (migrations / f"{number:04}.sql").write_text(_MIGRATION)
    return folder
