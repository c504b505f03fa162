"""Compare the CPU per operation of a run whose metrics are scraped with one that has none.

    python -m benchmarks.metrics BEFORE [-n 20000] [--rounds 5] [--rate 500]

BEFORE is a folder with a `bulkcert` package from before there were metrics and events, for example
a git worktree. It and this checkout run the same job in alternation; this one with `--metrics`,
scraped each second from here. Without `--rate` both run as fast as they can. CPU covers each
process from start to exit, the import of the metrics library included. Nothing is recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import stand_in, workload
from benchmarks.alternating import Rounds
from benchmarks.checkouts import check_import, existing_folder
from benchmarks.cost import IN_FLIGHT, bulkcert_run
from benchmarks.processes import ProgramError, Usage

SCRAPE_EVERY_S = 1.0


def main() -> None:
    """Measure both and print what each used in every round."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics")
    parser.add_argument(
        "before", type=existing_folder, metavar="BEFORE", help="checkout without metrics"
    )
    parser.add_argument("-n", type=int, default=20_000, help="operations in each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (%(default)s)")
    parser.add_argument(
        "--rate", type=int, default=workload.NO_CEILING, help="requests per second (no ceiling)"
    )
    arguments = parser.parse_args()
    n = arguments.n
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        with stand_in.serving(folder) as endpoint:
            targets = workload.enos_targets(folder / "enos.csv", n)
            job = workload.enos_job(
                folder, targets, endpoint, in_flight=IN_FLIGHT, requests_per_second=arguments.rate
            )
            check_import(arguments.before, folder)
            before = workload.environment(arguments.before)
            programs = {
                "without": partial(bulkcert_run, folder, job, n, env=before),
                "with": partial(_scraped_run, folder, job, n),
            }
            for program in programs.values():
                program()  # compiles the modules and warms the file cache
            measured = Rounds(programs, arguments.rounds)
    print(f"EnOS revoke, {n:,} operations, {IN_FLIGHT} in flight; µs of CPU per operation")
    print("round  without   with  ratio")
    for number, usage in enumerate(measured.usages, 1):
        without_s, with_s = (usage[label].cpu_s / n for label in programs)
        print(f"{number:5}  {without_s * 1e6:7.1f}  {with_s * 1e6:5.1f}  {with_s / without_s:5.3f}")
    print(
        f"median of the ratios {measured.cpu_ratio('with', 'without'):.3f},"
        f" range {measured.cpu_ratio_range('with', 'without')}"
    )


def _scraped_run(folder: Path, job: Path, n: int) -> Usage:
    """Run a job whose metrics are scraped.

    Raises:
        ProgramError: nobody could scrape them.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with _scraping(f"http://127.0.0.1:{port}/metrics") as scrapes:
        usage = bulkcert_run(folder, job, n, options=("--metrics", str(port)))
    if not scrapes:
        raise ProgramError("the metrics were never scraped")
    return usage


@contextmanager
def _scraping(url: str) -> Iterator[list[int]]:
    """Scrape each second; yields the lengths of the texts."""
    lengths: list[int] = []
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_EVERY_S):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
                lengths.append(len(response.read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield lengths
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
