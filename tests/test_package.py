"""The package as a whole: its public names, and the map of its modules."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from public_api import FILE, public_api

import bulkcert

PUBLIC = {
    *("BulkcertError", "Detail", "Event", "EventType", "Job", "Notice", "Outcome", "Progress"),
    *("Result", "Run", "RunEvent", "Settled", "Started", "State", "Summary", "credentials_from"),
    *("load_job", "results"),
}


def in_new_process(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_public_names_are_these() -> None:
    assert set(bulkcert.__all__) == PUBLIC
    assert {name for name in dir(bulkcert) if not name.startswith("__")} == PUBLIC
    for name in PUBLIC:
        assert getattr(bulkcert, name), name


def test_the_public_names_and_signatures_are_the_reviewed_ones() -> None:
    """See `public_api` for what to do after a change that is meant."""
    assert public_api() == FILE.read_text(), "run tests/public_api.py, and read the difference"


def test_an_unknown_name_is_an_attribute_error_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'bulkcert' has no attribute 'nonsense'"):
        _ = bulkcert.nonsense  # type: ignore[attr-defined]


@pytest.mark.system
def test_a_star_import_brings_the_public_names() -> None:
    code = "before = {*globals(), 'before'}; from bulkcert import *; print(*{*globals()} - before)"
    assert set(in_new_process(code).split()) == PUBLIC


@pytest.mark.system
@pytest.mark.parametrize(
    "code", ["import bulkcert", "from bulkcert import durable", "import bulkcert.cli"]
)
def test_public_names_are_not_imported_before_they_are_used(code: str) -> None:
    loaded = in_new_process(f"{code}; import sys; print(*sys.modules)").split()
    assert "bulkcert" in loaded
    assert {"bulkcert.api", "bulkcert.run", "aiohttp"}.isdisjoint(loaded)


def loaded_by(code: str) -> set[str]:
    """The modules that some code has imported, besides those of `click`."""
    loaded = in_new_process(
        f"import click, sys; before = {{*sys.modules}}; {code}; print(*{{*sys.modules}} - before)"
    )
    return set(loaded.splitlines()[-1].split())


@pytest.mark.system
def test_the_help_text_imports_next_to_nothing_besides_click() -> None:
    loaded = loaded_by("from bulkcert.cli import main; main(['--help'], standalone_mode=False)")
    ours = {name for name in loaded if name.partition(".")[0] == "bulkcert"}
    assert ours == {"bulkcert", "bulkcert.version"} | {
        f"bulkcert.cli{name}" for name in ("", ".help", ".streams")
    }
    slow = {"asyncio", "dataclasses", "difflib", "json", "pathlib", "shutil", "signal", "ssl"}
    assert slow.isdisjoint(loaded)


OF_A_RUN = {
    *("aiohttp", "aiolimiter", "asyncio", "cryptography", "email", "logging", "ssl"),
    *("bulkcert.dispatch", "bulkcert.lifecycle", "bulkcert.ratelimit", "bulkcert.execution"),
}
"""What only a run needs."""

OF_FEW = {
    *("html", "jinja2", "openpyxl", "prometheus_client", "psycopg", "rich", "bulkcert.simulator"),
    *("bulkcert.evidence", "bulkcert.report.page"),
}
"""What hardly any command needs, and takes long to import."""


@pytest.mark.system
def test_a_plan_imports_nothing_that_only_others_need(tmp_path: Path) -> None:
    """Ten targets are to be planned in 150 ms, nearly all of which is importing."""
    job = Path(__file__).parents[1] / "jobs" / "renew.toml"
    words = ["plan", str(job), "--run-dir", str(tmp_path)]
    loaded = loaded_by(f"from bulkcert.cli import main; main({words}, standalone_mode=False)")
    assert "bulkcert.plan" in loaded
    assert (OF_A_RUN | OF_FEW | {"bulkcert.approval.verdict"}).isdisjoint(loaded)


@pytest.mark.system
@pytest.mark.parametrize("command", ["control", "history", "hosts", "results", "runs", "status"])
def test_commands_that_look_at_a_run_do_not_import_what_carries_it_out(command: str) -> None:
    loaded = loaded_by(f"import bulkcert.cli.{command}")
    assert "bulkcert.rundir" in loaded
    assert (OF_A_RUN | OF_FEW).isdisjoint(loaded)


@pytest.mark.system
def test_a_run_imports_only_what_runs_need() -> None:
    loaded = loaded_by("import bulkcert.cli.run")
    assert "bulkcert.dispatch" in loaded
    assert (OF_FEW - {"html"}).isdisjoint(loaded)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".cli", ".jobfile", ".providers", ".report", ".store", ".targets"),
        *(".simulator", ".simulator.apsaramq", ".simulator.enos"),
        *(".providers.apsaramq", ".providers.enos"),
    ],
)
def test_the_map_names_every_module_of_a_package(name: str) -> None:
    package = importlib.import_module(f"bulkcert{name}")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    missing = [
        module
        for module in modules
        if module != "__main__" and not re.search(rf"\b{module}\b", package.__doc__ or "")
    ]
    assert not missing


def test_the_map_names_no_module_that_does_not_exist() -> None:
    assert bulkcert.__doc__ is not None
    named = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*)/?  +\S", bulkcert.__doc__, re.M)
    modules = {module.name for module in pkgutil.iter_modules(bulkcert.__path__)}
    assert len(named) > 20
    assert set(", ".join(named).split(", ")) <= modules
