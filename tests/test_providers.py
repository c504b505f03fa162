"""How providers are found: the built-in ones, and those of installed packages.

That an installed package works from the first request to the last is tested in
`test_example_provider`.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from bulkcert import providers
from bulkcert.cli import main
from bulkcert.errors import PluginError
from bulkcert.jobfile import load_job
from bulkcert.providers import BUILT_IN, connect, installed, installed_provider
from bulkcert.providers.base import Setup
from bulkcert.providers.enos.actions import ENOS

JOB = """
provider = "{}"
action = "revoke"
targets = "fleet.csv"
connection.endpoint = "https://apim.example.com"
connection.org_id = "o1"
"""


@pytest.fixture(autouse=True)
def searched_anew() -> Iterator[None]:
    """Forget what other tests found, and let others forget what these find."""
    installed.cache_clear()
    yield
    installed.cache_clear()


def package(folder: Path, name: str, entry_points: str, code: str = "") -> str:
    """Put an installed package into a folder: its metadata, and a module of the same name."""
    module = name.replace("-", "_")
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[bulkcert.providers]\n{entry_points}\n")
    (folder / f"{module}.py").write_text(code)
    return module


def provider_code(name: str, handler: str = "nowhere:connect") -> str:
    return (
        "import dataclasses\n"
        "from bulkcert.providers.enos.actions import ENOS\n"
        f"PROVIDER = dataclasses.replace(ENOS, name={name!r}, handler={handler!r})\n"
    )


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages that Python imports from."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def job_file(folder: Path, provider: str) -> Path:
    file = folder / "job.toml"
    file.write_text(JOB.format(provider))
    return file


def test_without_packages_only_the_built_in_providers_are_installed() -> None:
    assert list(installed()) == ["enos", "apsaramq"]
    assert dict(installed()) == dict(BUILT_IN)


@pytest.mark.parametrize("provider", BUILT_IN.values(), ids=lambda provider: provider.name)
def test_each_built_in_provider_names_its_handler_and_has_a_simulator(provider: Any) -> None:
    assert provider.handler == f"bulkcert.providers.{provider.name}.handler:connect"
    assert provider.simulated


def test_the_provider_of_a_package_can_be_named_in_a_job(path: Path) -> None:
    package(path, "one-plugin", "one = one_plugin:PROVIDER", provider_code("one"))
    assert list(installed()) == ["enos", "apsaramq", "one"]
    assert load_job(job_file(path, "one")).provider is installed_provider("one")


def test_a_misspelt_provider_of_a_package_is_answered_with_its_name(path: Path) -> None:
    package(path, "two-plugin", "second = two_plugin:PROVIDER", provider_code("second"))
    ended = CliRunner().invoke(main, ["plan", str(job_file(path, "secnd"))])
    assert ended.exit_code == 2
    assert "provider 'secnd' is not known; the nearest is second" in ended.stderr


def test_only_the_providers_that_are_given_can_be_named(path: Path) -> None:
    package(path, "three-plugin", "three = three_plugin:PROVIDER", "1 / 0")
    assert load_job(job_file(path, "own"), providers={"own": ENOS}).provider is ENOS


@pytest.mark.parametrize(
    ("entry_point", "code", "problem"),
    [
        (
            "bad = {}:PROVIDER",
            "import no_such_library",
            "it can't be imported: ModuleNotFoundError: No module named 'no_such_library'",
        ),
        (
            "bad = {}:PROVIDER",
            "",
            "it can't be imported: AttributeError: module '{}' has no attribute 'PROVIDER'",
        ),
        ("bad = {}:PROVIDER", "1 / 0", "it can't be imported: ZeroDivisionError: division by zero"),
        (
            "bad = {}:PROVIDER",
            "PROVIDER = 'text'",
            "{}:PROVIDER is not a bulkcert.providers.base.Provider",
        ),
        ("bad = {}:PROVIDER", provider_code("good"), "{}:PROVIDER has the name 'good'"),
        (
            "enos = {}:PROVIDER",
            provider_code("enos"),
            "the name is already taken by bulkcert itself",
        ),
    ],
)
def test_a_provider_that_cannot_be_used_is_an_error_that_names_its_package(
    path: Path, request: pytest.FixtureRequest, entry_point: str, code: str, problem: str
) -> None:
    name = f"bad-{request.node.callspec.indices['problem']}"  # no module is imported twice
    module = package(path, name, entry_point.format(name.replace("-", "_")), code)
    ended = CliRunner().invoke(main, ["plan", str(job_file(path, "another"))])
    provider = entry_point.partition(" ")[0]
    assert ended.exit_code == 2
    assert ended.stderr.splitlines() == [
        f"Error: The provider '{provider}' of the package {name} can't be used:"
        f" {problem.format(module)}.",
        f"Update or uninstall {name}, then run the same command.",
    ]


def test_a_job_of_a_built_in_provider_loads_no_package(path: Path) -> None:
    package(path, "broken-plugin", "broken = broken_plugin:PROVIDER", "1 / 0")
    assert load_job(job_file(path, "enos")).provider is ENOS
    assert installed_provider("enos") is ENOS


def test_two_packages_with_the_same_provider_are_both_named(path: Path) -> None:
    for name in ("first", "second"):
        package(path, f"{name}-twin", f"twin = {name}_twin:PROVIDER", provider_code("twin"))
    with pytest.raises(PluginError) as caught:
        installed()
    assert "already taken by the package" in caught.value.problem
    assert "first-twin" in caught.value.problem
    assert "second-twin" in caught.value.problem


def test_a_run_of_a_provider_that_was_uninstalled_is_an_error_that_names_it() -> None:
    with pytest.raises(PluginError) as caught:
        installed_provider("gone")
    assert caught.value.problem == "The run is of the provider 'gone', which is not installed here."
    assert caught.value.exit_code == 2


def test_a_handler_that_cannot_be_imported_is_an_error_that_names_it() -> None:
    provider = dataclasses.replace(ENOS, handler="bulkcert.no_such_module:connect")
    with pytest.raises(PluginError) as caught:
        connect(provider, cast("Setup", None))
    assert caught.value.problem == (
        "The provider 'enos' can't be used: its handler bulkcert.no_such_module:connect can't be"
        " imported: ModuleNotFoundError: No module named 'bulkcert.no_such_module'."
    )


def test_the_handler_is_made_by_what_the_provider_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "made_by_test", lambda setup: ("handler", setup), raising=False)
    provider = dataclasses.replace(ENOS, handler="bulkcert.providers:made_by_test")
    setup = cast("Setup", object())
    assert connect(provider, setup) == ("handler", setup)


def test_a_job_of_a_provider_without_a_simulator_cannot_be_rehearsed(path: Path) -> None:
    package(
        path,
        "real-plugin",
        "real = real_plugin:PROVIDER",
        provider_code("real").replace("name=", "simulated=False, name="),
    )
    ended = CliRunner().invoke(main, ["run", str(job_file(path, "real")), "--rehearse"])
    assert ended.exit_code == 2
    assert " Error: A job for real can't be rehearsed: " in ended.stderr  # after the time


@pytest.mark.system
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"]])
def test_packages_are_not_searched_unless_a_provider_is_needed(
    path: Path, words: list[str]
) -> None:
    package(path, "costly-plugin", "costly = costly_plugin:PROVIDER", "raise SystemExit('loaded')")
    code = (
        f"import sys; sys.path.insert(0, {str(path)!r}); sys.argv[1:] = {words!r}\n"
        "from bulkcert.cli import main\n"
        "try: main()\n"
        "finally: print('costly_plugin' in sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "False\n")
