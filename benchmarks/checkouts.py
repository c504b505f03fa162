"""Compare the CPU per operation of two checkouts of `bulkcert`, before and after a change.

    python -m benchmarks.checkouts BEFORE AFTER [-n 20000] [--rounds 5]

BEFORE and AFTER are folders that contain a `bulkcert` package, for example two git worktrees. Both
run the same job with this Python and its installed packages, so only the code of `bulkcert`
differs, and in alternation. CPU covers each process from start to exit; a short run therefore
weighs the start-up more. Nothing is recorded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import stand_in, workload
from benchmarks.alternating import Rounds
from benchmarks.cost import IN_FLIGHT, bulkcert_run
from benchmarks.processes import ProgramError, Usage, measure

_IMPORTED = "import bulkcert; print(bulkcert.__file__)"


def main() -> None:
    """Measure both checkouts and print what each used in every round."""
    arguments = _arguments()
    n = arguments.n
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        with stand_in.serving(folder) as endpoint:
            targets = workload.enos_targets(folder / "enos.csv", n)
            job = workload.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT)

            def run(checkout: Path) -> Usage:
                env = workload.environment(checkout)
                return bulkcert_run(folder, job, n, env=env)

            checkouts = {"before": arguments.before, "after": arguments.after}
            for checkout in checkouts.values():
                check_import(checkout, folder)
                run(checkout)  # compiles the modules and warms the file cache
            measured = Rounds(
                {label: partial(run, checkout) for label, checkout in checkouts.items()},
                arguments.rounds,
            )
    print(f"EnOS revoke, {n:,} operations, {IN_FLIGHT} in flight; µs of CPU per operation")
    print("round  before   after  ratio")
    for number, usage in enumerate(measured.usages, 1):
        _print(f"{number}", usage["before"].cpu_s / n, usage["after"].cpu_s / n)
    lowest = [min(usage[label].cpu_s for usage in measured.usages) / n for label in checkouts]
    _print("lowest", *lowest)
    print(
        f"median of the ratios {measured.cpu_ratio('after', 'before'):.3f},"
        f" range {measured.cpu_ratio_range('after', 'before')}"
    )


def _print(label: str, before_s: float, after_s: float) -> None:
    print(f"{label:6} {before_s * 1e6:6.1f}  {after_s * 1e6:6.1f}  {after_s / before_s:5.3f}")


def check_import(checkout: Path, folder: Path) -> None:
    """Check that a process with this checkout's environment imports this checkout's code.

    Raises:
        ProgramError: it imports another.
    """
    command = [sys.executable, "-c", _IMPORTED]
    usage = measure(command, env=workload.environment(checkout), cwd=folder, limit_s=60)
    if not Path(usage.output.strip()).is_relative_to(checkout):
        raise ProgramError(f"{checkout} contains no bulkcert: imported {usage.output.strip()}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkouts")
    parser.add_argument(
        "before", type=existing_folder, metavar="BEFORE", help="checkout without the change"
    )
    parser.add_argument(
        "after", type=existing_folder, metavar="AFTER", help="checkout with the change"
    )
    parser.add_argument("-n", type=int, default=20_000, help="operations in each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (%(default)s)")
    return parser.parse_args()


def existing_folder(text: str) -> Path:
    """Return the folder that an argument names."""
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


if __name__ == "__main__":
    main()
