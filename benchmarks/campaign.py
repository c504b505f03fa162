"""Compare the CPU per operation of a job without rules and with all of them.

    python -m benchmarks.campaign [-n 20000] [--rounds 5] [--planned]

Both jobs revoke the same devices, in alternation. The one with rules has an order, a canary and
waves, limits of `[abort]`, a list of what must never be touched, a cap, an outside check and a
change window that is always open; what it waits for costs time, but no CPU. Approvals are left
out: they are verified once. CPU covers each process from start to exit, so also the ordering of
the targets and the reading of the list; with `--planned`, the run is planned before. Nothing is
recorded.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import stand_in, workload
from benchmarks.alternating import Rounds
from benchmarks.cost import IN_FLIGHT, bulkcert_run

RULES = """
[protect]
never = "never.csv"
max_operations = {n}
[rollout]
order = ["-assetId"]
canary = 20
waves = ["1%", "10%"]
[abort]
canary = 2
failed = "2% of 500"
unknown = "0.5% of 1000"
99403 = 3
[check]
command = ["true"]
[window]
open = ["Mon-Sun 00:00-24:00"]
zone = "Europe/Berlin"
"""

LABELS = ("without", "with")


def main() -> None:
    """Measure both jobs and print what each used in every round."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign")
    parser.add_argument("-n", type=int, default=20_000, help="operations (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (%(default)s)")
    parser.add_argument("--planned", action="store_true", help="leave planning out")
    arguments = parser.parse_args()
    n = arguments.n
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        with stand_in.serving(folder) as endpoint:
            targets = workload.enos_targets(folder / "enos.csv", n)
            jobs = {label: _job(folder / label, targets, endpoint, label) for label in LABELS}
            programs = {
                label: partial(bulkcert_run, folder / label, job, n, planned=arguments.planned)
                for label, job in jobs.items()
            }
            for program in programs.values():
                program()  # compiles the modules and warms the file cache
            measured = Rounds(programs, arguments.rounds)
    print(f"EnOS revoke, {n:,} operations, {IN_FLIGHT} in flight; µs of CPU per operation")
    print("round   without rules  with all of them  ratio")
    for number, usage in enumerate(measured.usages, 1):
        without_s, with_s = (usage[label].cpu_s / n for label in LABELS)
        ratio = with_s / without_s
        print(f"{number:5}  {without_s * 1e6:14.1f}  {with_s * 1e6:16.1f}  {ratio:5.3f}")
    print(
        f"median of the ratios {measured.cpu_ratio('with', 'without'):.3f},"
        f" range {measured.cpu_ratio_range('with', 'without')}"
    )


def _job(folder: Path, targets: Path, endpoint: str, label: str) -> Path:
    folder.mkdir()
    job = workload.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT)
    if label == "with":
        n = sum(1 for _ in targets.open()) - 1
        (folder / "never.csv").write_text("assetId,owner\nB0000*,plant operations\n")
        job.write_text(job.read_text() + RULES.format(n=n))
    return job


if __name__ == "__main__":
    main()
