"""The example of a third-party provider: it installs, it works, it keeps to the interface.

Its own tests, in examples/provider/tests, run the installed `bulkcert` against a stand-in, from
plan to verify, with faults, an interruption and a `kill -9`.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/provider"
GUIDE = (ROOT / "docs/providers.md").read_text()


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Build the package, install it into a folder, and return an environment that has it.

    Nothing is downloaded: the build backend is among the development requirements.
    """
    folder = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--target", folder, EXAMPLE]
    subprocess.run(command, check=True)
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.mark.system
def test_its_own_tests_pass_once_it_is_installed(installed: dict[str, str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--rootdir", EXAMPLE, "--basetemp", tmp_path / "tests", EXAMPLE / "tests"),
        ],
        env=installed,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    [passed] = re.findall(r"^(\d+) passed", ended.stdout, re.M)
    assert int(passed) > 40


def interface() -> dict[str, set[str]]:
    """Return the documented interface: the names of each module."""
    table = re.findall(r"^\| `(bulkcert[\w.]*)` +\| (.*?) +\|$", GUIDE, re.M)
    return {module: set(re.findall(r"`(\w+)`", names)) for module, names in table}


def used(path: Path) -> set[tuple[str, str]]:
    """Return the names of bulkcert that a module imports, each with the module it is from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {(node.module or "", alias.name) for alias in node.names}
    return {(module, name) for module, name in names if module.split(".")[0] == "bulkcert"}


def test_the_documented_interface_exists() -> None:
    assert len(interface()) > 5
    for module, names in interface().items():
        assert names
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize(
    "path", sorted(EXAMPLE.glob("bulkcert_beacon/*.py")), ids=lambda path: path.name
)
def test_it_imports_nothing_but_the_documented_interface(path: Path) -> None:
    documented = {(module, name) for module, names in interface().items() for name in names}
    assert used(path) <= documented


def test_the_guide_names_every_file_of_the_example() -> None:
    steps = GUIDE.partition("## The interface for providers")[0]
    named = set(re.findall(r"`((?:bulkcert_beacon|tests)/\w+\.py|pyproject\.toml)`", steps))
    files = {
        str(path.relative_to(EXAMPLE))
        for path in (*EXAMPLE.rglob("*.py"), EXAMPLE / "pyproject.toml")
        if path.name != "__init__.py"
    }
    assert named == files


def test_the_excerpts_of_the_guide_are_in_the_example() -> None:
    code = "\n".join(
        path.read_text() for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")
    )
    excerpts = re.findall(r"^```(?:python|toml)\n(.*?)^```", GUIDE, re.M | re.S)
    assert len(excerpts) > 3
    for excerpt in excerpts:
        assert excerpt in code
