"""Checks the models in docs/model/ with Spin: the protocol holds, and each protection is needed.

In: docs/model/variants.toml. Out: a table with one line for each variant, and exit code 1 if a
whole protocol has a counterexample, or one that lacks a protection has none. Then the
counterexample is printed, or what is surprising. Must never call a search complete that was not.

    python tools/model.py                     # all of them
    python tools/model.py --only switch       # those with this word in their name
    python tools/model.py --show switch       # and the shortest counterexample, step by step
    python tools/model.py --markdown          # the table as it stands in docs/model/README.md

Every search is exhaustive: no bit state, no limit of depth. It needs Spin, a C compiler, and up to
4 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "docs" / "model"

COMPILER = ("gcc", "-w", "-DSAFETY", "-DNOFAIR", "-DMEMLIM=3900")
SEARCH = ("-E", "-m2000000")
"""-E: a state without a successor is allowed; what must not get stuck is asserted."""

LARGE = "LIVES=3"
"""Needs a larger table of states, and must not run beside another such search."""

INSTALL = """\
Spin and gcc are needed: {missing} not found.
    Debian, Ubuntu:  sudo apt-get install spin gcc libc6-dev
    Fedora:          sudo dnf install gcc, and Spin from https://spinroot.com
    macOS:           brew install spin"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model to check: which, with which definitions, and what is expected."""

    model: str
    name: str
    define: tuple[str, ...]
    must_pass: bool
    without: str = ""
    backwards: bool = False  # try the steps in the other order: finds this one much sooner

    @property
    def options(self) -> list[str]:
        return [f"-D{definition}" for definition in self.define]

    @property
    def is_large(self) -> bool:
        return LARGE in self.define


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What Spin has found, or why its search does not count."""

    variant: Variant
    passed: bool = False
    states: int = 0
    memory_mb: int = 0
    elapsed_s: float = 0.0
    problem: str = ""

    @property
    def is_expected(self) -> bool:
        return not self.problem and self.passed == self.variant.must_pass


def main() -> int:
    arguments = _arguments()
    missing = [name for name in ("spin", "gcc") if shutil.which(name) is None]
    if missing:
        print(INSTALL.format(missing=" and ".join(missing)), file=sys.stderr)
        return 2
    variants = [v for v in _variants() if _is_wanted(v, arguments.only or arguments.show)]
    if not variants:
        print("No variant has this in its name; see docs/model/variants.toml.", file=sys.stderr)
        return 2
    if arguments.show:
        for variant in variants:
            _show(variant)
        return 0
    began = time.monotonic()
    findings = _check_all(variants, arguments.jobs)
    if arguments.markdown:
        print(_markdown(findings))
    surprising = [finding for finding in findings if not finding.is_expected]
    print(
        f"{len(findings)} variants in {time.monotonic() - began:.0f} s, "
        f"{len(surprising)} not as expected.",
        file=sys.stderr,
    )
    for finding in surprising:
        print(f"\n{_line(finding)}\n{finding.problem}", file=sys.stderr)
        if not finding.problem and finding.variant.must_pass:
            _show(finding.variant)
    return 1 if surprising else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check the models in docs/model/ with Spin.")
    parser.add_argument("--only", metavar="WORD", default="", help="variants with it in their name")
    parser.add_argument("--show", metavar="WORD", default="", help="their shortest counterexamples")
    parser.add_argument("--markdown", action="store_true", help="print the table of README.md")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="searches at a time"
    )
    return parser.parse_args()


def _variants() -> list[Variant]:
    document = tomllib.loads((MODELS / "variants.toml").read_text(encoding="utf-8"))
    return [
        Variant(**{**entry, "define": tuple(entry["define"])}, must_pass=kind == "passes")
        for kind in ("passes", "fails")
        for entry in document[kind]
    ]


def _is_wanted(variant: Variant, word: str) -> bool:
    return word.lower() in f"{variant.name} {' '.join(variant.define)}".lower()


def _check_all(variants: list[Variant], jobs: int) -> list[Finding]:
    """Checks them all; the large ones one after the other, as one of the jobs."""
    findings: dict[Variant, Finding] = {}

    def check(batch: Iterable[Variant]) -> None:
        for variant in batch:
            findings[variant] = _check(variant)
            print(_line(findings[variant]), flush=True, file=sys.stderr)

    large = [variant for variant in variants if variant.is_large]
    batches = [large, *([variant] for variant in variants if not variant.is_large)]
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        list(pool.map(check, batches))
    return [findings[variant] for variant in variants]


def _check(variant: Variant) -> Finding:
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        began = time.monotonic()
        problem = _build(variant, Path(folder))
        if problem:
            return Finding(variant=variant, problem=problem)
        table = "-w26" if variant.is_large else "-w24"
        output = _run([f"{folder}/pan", *SEARCH, table], Path(folder))
        return _finding(variant, output, time.monotonic() - began)


def _build(variant: Variant, folder: Path, *options: str) -> str:
    """Translates and compiles the model. Returns what went wrong, or nothing."""
    path = MODELS / f"{variant.model}.pml"
    translated = _run(["spin", "-a", *variant.options, str(path)], folder)
    if not (folder / "pan.c").exists() or "Error" in translated:
        return translated
    # Most counterexamples are found in less time than it takes to optimize the search for them.
    speed = ["-O2" if variant.must_pass or variant.is_large else "-O1"]
    order = ["-DREVERSE"] if variant.backwards else []
    compiled = _run([*COMPILER, *speed, *order, *options, "-o", "pan", "pan.c"], folder)
    return "" if (folder / "pan").exists() else compiled


def _finding(variant: Variant, output: str, elapsed_s: float) -> Finding:
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"(\d+) states, stored", output)
    memory = re.search(r"([\d.]+)\s+total actual memory", output)
    passed = errors is not None and errors[1] == "0"
    problem = ""
    if errors is None or states is None or memory is None:
        problem = f"The search has not ended:\n{output}"
    elif passed and ("not completed" in output or "max search depth too small" in output):
        problem = f"The search was not complete:\n{output}"
    elif not passed and "assertion violated" not in output:
        problem = f"An error of the model, not a counterexample:\n{output}"
    return Finding(
        variant=variant,
        passed=passed,
        states=int(states[1]) if states else 0,
        memory_mb=round(float(memory[1])) if memory else 0,
        elapsed_s=elapsed_s,
        problem=problem,
    )


def _line(finding: Finding) -> str:
    variant = finding.variant
    kind = "" if variant.must_pass else "limit" if variant.name.startswith("limit") else "without"
    name = variant.name.removeprefix("limit: ")
    return (
        f"{'ok' if finding.is_expected else 'NOT AS EXPECTED':4}"
        f"{variant.model:10} {kind:8}{name:52}"
        f"{'holds' if finding.passed else 'counterexample':15}"
        f"{finding.states:>12,} states {finding.memory_mb:>6,} MB {finding.elapsed_s:>6.1f} s"
    )


def _markdown(findings: list[Finding]) -> str:
    whole = ["| whole protocol | options | states | MB | s |", "| --- | --- | --: | --: | --: |"]
    lacking = [
        "| without | options | what the counterexample shows | states | s |",
        "| --- | --- | --- | --: | --: |",
    ]
    for finding in findings:
        variant = finding.variant
        options = " ".join(f"`{definition}`" for definition in variant.define)
        if variant.must_pass:
            whole.append(
                f"| {variant.model}: {variant.name} | {options} | {finding.states:,} "
                f"| {finding.memory_mb:,} | {finding.elapsed_s:.0f} |"
            )
        else:
            lacking.append(
                f"| {variant.model}: {variant.name} | {options} | {variant.without} "
                f"| {finding.states:,} | {finding.elapsed_s:.0f} |"
            )
    return "\n".join([*whole, "", *lacking])


def _show(variant: Variant) -> None:
    """Prints the shortest counterexample: each step, as the line of the model that it is."""
    path = MODELS / f"{variant.model}.pml"
    with tempfile.TemporaryDirectory(prefix="model-") as name:
        folder = Path(name)
        problem = _build(variant, folder, "-DBFS")
        if problem:
            print(problem)
            return
        output = _run(["./pan", *SEARCH, "-w24"], folder)
        trail = folder / f"{path.name}.trail"
        if not trail.exists():
            print(f"{variant.name}: no counterexample.\n{output}")
            return
        replay = ["spin", "-t", "-k", str(trail), *variant.options, str(path)]
        print(f"{variant.name} ({' '.join(variant.options)}): {variant.without}\n")
        print(_story(_run(replay, folder)) + "\n")


def _story(replay: str) -> str:
    """What happens in a counterexample, as the model says it, with the ticks counted."""
    lines: list[str] = []
    ticks = 0
    for line in map(str.strip, replay.splitlines()):
        if line == "tick":
            ticks += 1
        elif "assertion violated" in line:
            lines.append(f"tick {ticks:2}  {line.partition('Error: ')[2]}: the property is broken")
            break
        else:
            lines.append(f"tick {ticks:2}  {line}")
    return "\n".join(lines)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
