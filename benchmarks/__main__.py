"""Run benchmarks, record their results and rewrite the tables in docs/performance.md.

Each row is recorded as soon as it is measured, so a benchmark that fails later loses nothing.
A benchmark whose program or package is not installed is skipped with a message.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback

from benchmarks import results
from benchmarks.processes import MissingError, ProgramError
from benchmarks.results import BENCHMARKS, Settings, shown


def main() -> int:
    """Run the benchmarks that were asked for; return 1 if one of them failed."""
    arguments = _arguments()
    if arguments.tables:
        results.write_tables()
        return 0
    settings = Settings(arguments.full, arguments.seconds, tuple(arguments.option))
    # A SystemExit unwinds the stack, which stops every program that was started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed = 0
    for name in arguments.name or BENCHMARKS:
        started_at = time.monotonic()
        print(name, flush=True)
        try:
            for row in importlib.import_module(f"benchmarks.{name}").run(settings):
                results.record(name, settings, row)
                figures = "; ".join(f"{key} {shown(value)}" for key, value in row.figures.items())
                print(f"  {row.label} (n = {row.n:,}): {figures}", flush=True)
        except MissingError as error:
            print(f"  skipped: {error}", flush=True)
        except (ProgramError, OSError):
            traceback.print_exc()
            failed = 1
        print(f"  took {time.monotonic() - started_at:.0f} s", flush=True)
    return failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all"
    )
    parser.add_argument("--full", action="store_true", help="the sizes used for the record")
    parser.add_argument("--seconds", type=float, help="length of each pacing run")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of `bulkcert simulate` for the pacing runs; can be repeated",
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="measure nothing; only rewrite the tables from the recorded results",
    )
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.name) - set(BENCHMARKS)):
        parser.error(
            f"unknown benchmark: {', '.join(unknown)}. Choose from {', '.join(BENCHMARKS)}."
        )
    return arguments


if __name__ == "__main__":
    sys.exit(main())
