"""Runs benchmarks: `python -m benchmarks [NAME ...] [--full]`.

Results go to `results/` and to README.md after each row, so that what was measured stays when a
later part fails. What needs a program or package that is not installed is left out, with a word.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback

from benchmarks import results
from benchmarks.nginx import MissingError
from benchmarks.processes import ProgramError
from benchmarks.results import ORDER, Settings, shown


def main() -> int:
    """Run what is asked for; return 1 if something failed."""
    arguments = _arguments()
    settings = Settings(arguments.full, arguments.seconds, tuple(arguments.option))
    # so that whatever was started is ended
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed = 0
    for name in arguments.name or ORDER:
        began_at = time.monotonic()
        print(f"{name}", flush=True)
        try:
            for row in importlib.import_module(f"benchmarks.{name}").run(settings):
                results.keep(name, settings, row)
                figures = ", ".join(f"{key} {shown(value)}" for key, value in row.figures.items())
                print(f"  {row.what} (n = {row.n:,}): {figures}", flush=True)
        except MissingError as reason:
            print(f"  left out: {reason}", flush=True)
        except (ProgramError, OSError):
            traceback.print_exc()
            failed = 1
        print(f"  took {time.monotonic() - began_at:.0f} s", flush=True)
    return failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"{', '.join(ORDER)}; default: all")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", help="small sizes (default)")
    form.add_argument("--full", action="store_true", help="sizes for the record")
    parser.add_argument("--seconds", type=float, help="length of each pacing run")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of `bulkcert simulate` for the pacing runs; idempotent",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.name) - set(ORDER):
        parser.error(f"there is no {', '.join(sorted(unknown))}, but {', '.join(ORDER)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
