"""Start-up: what a user waits for before anything happens.

`bulkcert --help` and `bulkcert plan` of ten rows, compared with `python -c 'import click'`, the
least that any program with this command line needs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import workload
from benchmarks.alternating import Rounds
from benchmarks.processes import Usage, measure
from benchmarks.results import Row, Settings

IMPORT_CLICK = [sys.executable, "-c", "import click"]


def run(settings: Settings) -> Iterator[Row]:
    """Start each program many times, in alternation."""
    rounds = 15 if settings.full else 9
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        targets = workload.enos_targets(folder / "targets.csv", 10)
        job = workload.enos_job(folder, targets, "http://127.0.0.1:9")

        def start(command: Sequence[str | Path]) -> Callable[[], Usage]:
            return lambda: measure(command, env=workload.environment(), cwd=folder, limit_s=60)

        programs = {
            "import click": start(IMPORT_CLICK),
            "`bulkcert --help`": start([*_bulkcert(), "--help"]),
            "`bulkcert plan`, 10 rows": start([*_bulkcert(), "plan", job]),
        }
        for program in programs.values():  # compiles the modules and warms the file cache
            program()
        measured = Rounds(programs, rounds)
    for label in list(programs)[1:]:
        yield Row(
            label,
            rounds,
            {
                "ms CPU": measured.cpu_s(label) * 1000,
                "ms CPU, `import click`": measured.cpu_s("import click") * 1000,
                "CPU, bulkcert ÷ `import click`": measured.cpu_ratio(label, "import click"),
                "range of that ratio": measured.cpu_ratio_range(label, "import click"),
                "ms elapsed": measured.elapsed_s(label) * 1000,
            },
        )


def _bulkcert() -> list[str]:
    """Return the installed command, as users start it, or the module if there is none."""
    script = Path(sys.executable).with_name("bulkcert")
    return [str(script)] if script.exists() else workload.BULKCERT
