"""Start-up: what a user waits for before anything happens.

`bulkcert --help` against `python -c 'import click'`, which no program with this command line can do
without, and `bulkcert plan` of ten rows. CPU, because it is hardly changed by what else runs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import work
from benchmarks.pairs import Rounds
from benchmarks.processes import Usage, measure
from benchmarks.results import Row, Settings

IMPORT_CLICK = [sys.executable, "-c", "import click"]


def run(settings: Settings) -> Iterator[Row]:
    """Start each of them again and again."""
    rounds = 15 if settings.full else 9
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        targets = work.enos_targets(folder / "targets.csv", 10)
        job = work.enos_job(folder, targets, "http://127.0.0.1:9")

        def start(command: Sequence[str | Path]) -> Callable[[], Usage]:
            return lambda: measure(command, env=work.environment(), cwd=folder, limit_s=60)

        programs = {
            "click": start(IMPORT_CLICK),
            "help": start([*_bulkcert(), "--help"]),
            "plan": start([*_bulkcert(), "plan", job]),
        }
        for program in programs.values():  # compiled and cached from here on
            program()
        measured = Rounds(programs, rounds)
    for key, what in (("help", "`bulkcert --help`"), ("plan", "`bulkcert plan` of 10 rows")):
        yield Row(
            key,
            f"{what} against `python -c 'import click'`",
            rounds,
            {
                "bulkcert, ms CPU": measured.cpu_s(key) * 1000,
                "import click, ms": measured.cpu_s("click") * 1000,
                "ratio of CPU": measured.cpu_ratio(key, "click"),
                "from and to": measured.cpu_ratio_range(key, "click"),
                "bulkcert, ms on the wall": measured.wall_s(key) * 1000,
            },
        )


def _bulkcert() -> list[str]:
    """The installed command, as users start it; where there is none, the module."""
    script = Path(sys.executable).with_name("bulkcert")
    return [str(script)] if script.exists() else work.BULKCERT
