"""Mutation testing: make small changes to the core and check that its tests notice them.

In: the modules listed in `TESTS`. Out: for each module how many mutants were caught, and each
survivor as a diff. The exit code is 1 if fewer than 95 % were caught, if a survivor has not been
judged in `survivors.toml`, or if an entry there matches no mutant any more.

    python tools/mutants.py                         # a seeded sample of each module
    python tools/mutants.py bulkcert/ratelimit.py   # every mutant of one module

A mutant is written into a copy of the project. There, only the tests that reach the changed line
run, fastest first, up to the first failure. A mutant that makes them hang counts as caught. As a
control, each module is tried unchanged too. The working tree is never touched.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Self

import aiohttp.web  # noqa: F401 - slow to import, so not again in each fork
import coverage
import cryptography.x509  # noqa: F401 - likewise
import hypothesis.strategies  # noqa: F401 - likewise
import pytest
from mutations import Mutant, mutants_of, unchanged

ROOT = Path(__file__).resolve().parents[1]
JUDGED = Path(__file__).with_name("survivors.toml")

TESTS: dict[str, tuple[str, ...]] = {
    "bulkcert/lifecycle.py": ("tests/lifecycle/", "tests/test_dispatch.py"),
    "bulkcert/dispatch.py": (
        "tests/test_campaign.py",
        "tests/test_dispatch.py",
        "tests/test_run.py",
        "tests/test_virtual_",
    ),
    "bulkcert/taskqueue.py": ("tests/test_taskqueue.py", "tests/test_virtual_"),
    "bulkcert/ratelimit.py": ("tests/test_ratelimit.py", "tests/test_slots.py"),
    "bulkcert/slots.py": ("tests/test_slots.py",),
    "bulkcert/circuit_breaker.py": ("tests/test_circuit_breaker.py",),
    "bulkcert/plan.py": (
        "tests/test_cli.py",
        "tests/test_job_limits.py",
        "tests/test_plan.py",
        "tests/test_preparation.py",
        "tests/test_rejections.py",
    ),
    "bulkcert/plan_hash.py": ("tests/test_plan_hash.py", "tests/test_amendment.py"),
    "bulkcert/amendment.py": ("tests/test_amendment.py",),
    "bulkcert/forecast.py": ("tests/test_forecast.py", "tests/test_horizon.py"),
    "bulkcert/rules/gate.py": (
        "tests/rules/test_campaign_model.py",
        "tests/rules/test_gate.py",
        "tests/test_campaign.py",
        "tests/test_progress.py",
        "tests/test_virtual_",
    ),
    "bulkcert/rules/abort.py": ("tests/rules/test_abort.py",),
    "bulkcert/rules/rollout.py": ("tests/rules/test_rollout.py",),
    "bulkcert/rules/window.py": ("tests/rules/test_window.py",),
    "bulkcert/rules/protect.py": ("tests/rules/test_protect.py",),
    "bulkcert/control.py": ("tests/test_control.py", "tests/test_steering.py"),
    "bulkcert/event_log.py": ("tests/test_event_log.py", "tests/test_events_page.py"),
    "bulkcert/process_log.py": ("tests/test_process_log.py",),
    "bulkcert/decisions.py": ("tests/test_decisions.py",),
    "bulkcert/notifier.py": ("tests/test_notifier.py",),
    "bulkcert/approval/verdict.py": ("tests/approval/",),
    "bulkcert/approval/statement.py": ("tests/approval/",),
    "bulkcert/store/claims.py": ("tests/test_claims.py", "tests/rules/test_campaign_model.py"),
    "bulkcert/evidence/agreement.py": ("tests/evidence/test_agreement.py",),
    "bulkcert/providers/sources.py": ("tests/test_sources.py",),
    "bulkcert/providers/transport.py": (
        "tests/test_connections.py",
        "tests/test_proxies.py",
        "tests/test_sources.py",
        "tests/test_transport.py",
    ),
    "bulkcert/providers/enos/renewal.py": (
        "tests/enos/test_renew.py",
        "tests/enos/test_rotate.py",
        "tests/enos/test_steps.py",
    ),
    "bulkcert/providers/enos/successor.py": (
        "tests/enos/test_renew.py",
        "tests/enos/test_rotate.py",
        "tests/enos/test_successor.py",
    ),
    "bulkcert/providers/enos/rotation.py": (
        "tests/enos/test_rotate.py",
        "tests/enos/test_steps.py",
    ),
    "bulkcert/providers/enos/revocation.py": (
        "tests/enos/test_enos_runs.py",
        "tests/enos/test_revocation.py",
        "tests/enos/test_rotate.py",
        "tests/enos/test_steps.py",
    ),
    "bulkcert/providers/enos/issuance.py": (
        "tests/enos/test_enos_samples.py",
        "tests/enos/test_issuance.py",
        "tests/enos/test_renew.py",
    ),
    "bulkcert/providers/enos/chain.py": ("tests/enos/test_chain.py",),
    "bulkcert/providers/enos/responses.py": (
        "tests/enos/test_enos_samples.py",
        "tests/enos/test_responses.py",
    ),
    "bulkcert/providers/apsaramq/responses.py": ("tests/apsaramq/test_apsaramq_responses.py",),
    "bulkcert/store/sqlite/plan.py": ("tests/test_store_", "tests/test_platform.py"),
    "bulkcert/store/sqlite/reader.py": ("tests/test_store_", "tests/test_report.py"),
    "bulkcert/store/sqlite/store.py": ("tests/test_store_",),
    "bulkcert/store/writer.py": ("tests/test_store_writer.py",),
    "bulkcert/timings.py": ("tests/test_timings.py", "tests/test_ratelimit.py"),
}
"""The tests of each module: the beginnings of their paths."""

SAMPLE = 20
"""Mutants per module in a sample."""

SHARE_TO_CATCH = 0.95

WORKERS = os.cpu_count() or 1
POLL_S = 0.02

SLOWNESS = 10.0
CPU_SPARE_S = 3.0
WAIT_SPARE_S = 60.0
"""A test hangs if it takes `SLOWNESS` times longer than usual, plus one of these: the first in
processor time, the second in real time, which must allow for a busy machine."""

MOST_MEMORY_BYTES = 4 << 30
"""An endless loop that fills a list must not exhaust the machine."""

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


@dataclass(frozen=True)
class Baseline:
    """The tests as they are without a mutant.

    Attributes:
        duration_s: seconds that each test takes, by its id.
        reaching: by file and line, the tests that execute it; "" stands for an import.
    """

    duration_s: dict[str, float]
    reaching: dict[str, dict[int, list[str]]]

    def tests_for(self, mutant: Mutant) -> list[str]:
        """The tests of the module that reach the mutant, the fastest first.

        When an exception is thrown into a coroutine, such as a cancellation, Python 3.11 stops
        tracing it. So what reaches only another line of the coroutine may reach the mutant, too.
        """
        contexts = self.reaching.get(mutant.path, {})
        reaching = {test for line in mutant.lines for test in contexts.get(line, ())}
        may_reach = {test for line in mutant.coroutine for test in contexts.get(line, ())}
        of_module = [test for test in self.duration_s if test.startswith(TESTS[mutant.path])]
        chosen = (test for test in of_module if test in reaching | may_reach or "" in reaching)
        return sorted(chosen, key=lambda test: (test not in reaching, self.duration_s[test]))


class _ChosenTests:
    """A pytest plugin that runs some of the tests, in order, and ends the process if one hangs.

    Args:
        chosen: ids of the tests.
        duration_s: seconds that each test of the project usually takes.
    """

    def __init__(self, chosen: list[str], duration_s: dict[str, float]) -> None:
        self._order = {test: number for number, test in enumerate(chosen)}
        self._duration_s = duration_s

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # tests that exist only with this mutant, such as other parameters, run too
        kept = [i for i in items if i.nodeid in self._order or i.nodeid not in self._duration_s]
        items[:] = sorted(kept, key=lambda item: self._order.get(item.nodeid, -1))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _set_alarm(SLOWNESS * self._duration_s.get(nodeid, 0.0))


def _set_alarm(expected_s: float) -> None:
    """Have the kernel end this process if it takes much longer than expected."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SPARE_S + expected_s)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SPARE_S + expected_s)


class _Durations:
    """A pytest plugin that writes into a file how long each test takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._duration_s: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._duration_s[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._duration_s))


def _pytest(copy: Path, arguments: list[str], plugin: object) -> None:
    """Run pytest in a copy of the project; the body of a forked process."""
    os.setsid()
    os.chdir(copy)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    os.environ["PYTHONPATH"] = str(copy)  # for the processes that tests start
    sys.path.insert(0, str(copy))
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants", "-m", "not slow"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # some are imported above
    if isinstance(plugin, _ChosenTests):
        _set_alarm(SLOWNESS)  # for the import of a mutant
    os._exit(pytest.main([*options, *arguments], plugins=[plugin]))


class Sandbox:
    """Copies of the project; in each, pytest runs for one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self._fork = get_context("fork")
        self._running: list[tuple[Mutant | None, ForkProcess, Path]] = []
        self._free = [folder / f"copy-{number}" for number in range(WORKERS)]
        self._written = 0
        for copy in self._free:
            shutil.copytree(ROOT, copy, ignore=NOT_COPIED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _mutant, process, _copy in self._running:  # none, unless this is interrupted
            _end(process)

    @property
    def full(self) -> bool:
        """No copy is free."""
        return not self._free

    @property
    def busy(self) -> bool:
        """Something is still running."""
        return bool(self._running)

    def start(self, mutant: Mutant | None, arguments: list[str], plugin: object) -> Path:
        """Start pytest in a free copy, with the mutant in it; return the copy."""
        copy = self._free.pop()
        if mutant:
            self._write(copy / mutant.path, mutant.source)
        process = self._fork.Process(target=_pytest, args=(copy, arguments, plugin))
        process.start()
        self._running.append((mutant, process, copy))
        return copy

    def ended(self) -> Iterator[tuple[Mutant | None, bool]]:
        """Wait a moment; yield each mutant whose tests have ended, and whether they passed."""
        time.sleep(POLL_S)
        for run in self._running.copy():
            mutant, process, copy = run
            if process.exitcode is None:
                continue
            _end(process)
            if mutant:
                self._write(copy / mutant.path, mutant.original)
            self._running.remove(run)
            self._free.append(copy)
            yield mutant, process.exitcode == 0

    def _write(self, path: Path, source: str) -> None:
        path.write_text(source)
        # compiled files are matched by time in whole seconds, in which several may be written
        self._written += 1
        os.utime(path, (self._written, self._written))


def _end(process: ForkProcess) -> None:
    """End a run and what its tests started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.ident or 0, signal.SIGKILL)


def baseline(sandbox: Sandbox, modules: Iterable[str]) -> Baseline:
    """Run all tests of the modules once, under coverage.

    Raises:
        SystemExit: they do not pass.
    """
    prefixes = tuple(prefix for module in modules for prefix in TESTS[module])
    paths = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py"))
    files = [path for path in paths if path.startswith(prefixes)]
    for prefix in prefixes:
        if not any(path.startswith(prefix) for path in paths):
            sys.exit(f"TESTS names {prefix}, which is not there.")
    cover = ["--cov=bulkcert", "--cov-context=test", "--cov-report=", f"--numprocesses={WORKERS}"]
    with tempfile.TemporaryDirectory() as folder:
        durations = Path(folder) / "durations.json"
        copy = sandbox.start(None, [*cover, *files], _Durations(durations))
        while sandbox.busy:
            for _, passed in sandbox.ended():
                if not passed:
                    sys.exit((copy / "output.txt").read_text() + "\nWithout a mutant tests fail.")
        duration_s = json.loads(durations.read_text())
    data = coverage.CoverageData(str(copy / ".coverage"))
    data.read()
    reaching = {
        str(Path(file).relative_to(copy)): {
            line: [context.rpartition("|")[0] for context in contexts]
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    return Baseline(duration_s, reaching)


def survivors(sandbox: Sandbox, mutants: list[Mutant], known: Baseline) -> list[Mutant]:
    """Try each mutant; return those that no test caught."""
    found = [mutant for mutant in mutants if not known.tests_for(mutant)]
    waiting = [mutant for mutant in reversed(mutants) if mutant not in found]
    while waiting or sandbox.busy:
        while waiting and not sandbox.full:
            mutant = waiting.pop()
            tests = known.tests_for(mutant)
            files = sorted({test.partition("::")[0] for test in tests})
            sandbox.start(mutant, ["-x", *files], _ChosenTests(tests, known.duration_s))
        found += [mutant for mutant, passed in sandbox.ended() if mutant and passed]
    return sorted(found, key=mutants.index)


def diff(mutant: Mutant) -> str:
    """What the mutant changes."""
    before = mutant.original.splitlines()
    lines = difflib.unified_diff(before, mutant.source.splitlines(), lineterm="", n=1)
    return "\n".join(f"    {line}" for line in list(lines)[3:])


def judged() -> dict[tuple[str, str], str]:
    """The verdicts in `survivors.toml`, by module and key."""
    entries = tomllib.loads(JUDGED.read_text())
    return {
        (entry["module"], entry["mutant"]): verdict
        for verdict in ("equivalent", "accepted")
        for entry in entries.get(verdict, [])
        if entry["reason"].strip()
    }


def some(mutants: list[Mutant], count: int, seed: str) -> list[Mutant]:
    """A sample, in source order."""
    numbers = random.Random(seed).sample(range(len(mutants)), min(count, len(mutants)))
    return [mutants[number] for number in sorted(numbers)]


def main() -> int:
    """Carry out what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="default: all")
    parser.add_argument("--sample", type=int, help="mutants of each module; 0 for all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.modules) - set(TESTS):
        parser.error(f"not in TESTS: {', '.join(sorted(unknown))}")
    modules = options.modules or list(TESTS)
    count = options.sample if options.sample is not None else 0 if options.modules else SAMPLE

    mutants = {module: mutants_of(module, (ROOT / module).read_text()) for module in modules}
    verdicts = judged()
    stale = {
        (module, key)
        for module, key in verdicts
        if module not in TESTS
        or (module in mutants and key not in {mutant.key for mutant in mutants[module]})
    }
    chosen = {
        module: some(of_module, count or len(of_module), f"{options.seed} {module}")
        for module, of_module in mutants.items()
    }
    missed, tried, unjudged = 0, 0, False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, Sandbox(Path(folder)) as sandbox:
        known = baseline(sandbox, modules)
        for module, sample in chosen.items():
            control = unchanged(module, sample[0].original)
            survived = survivors(sandbox, [control, *sample], known)
            if control not in survived:
                sys.exit(f"{module}: its tests fail without any change, at least now and then.")
            survived.remove(control)
            for mutant in survived:
                if (module, mutant.key) not in verdicts:
                    unjudged = True
                    print(f"{module}:{mutant.line}  {mutant.key!r}\n{diff(mutant)}\n")
            equivalent = [m for m in survived if verdicts.get((module, m.key)) == "equivalent"]
            counts = len(survived) - len(equivalent), len(sample) - len(equivalent)
            print(f"{module:44} {counts[1] - counts[0]:4} of {counts[1]:4} caught\n", flush=True)
            missed, tried = missed + counts[0], tried + counts[1]
    for module, key in sorted(stale):
        print(f"{JUDGED.name}: there is no such mutant any more: {module} {key!r}\n")
    share = 1 - missed / tried if tried else 1.0
    print(f"{'total':44} {tried - missed:4} of {tried:4} caught, {share:.1%}")
    return int(unjudged or bool(stale) or share < SHARE_TO_CATCH)


if __name__ == "__main__":
    sys.exit(main())
