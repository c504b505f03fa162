"""The reference in docs/ covers every key, option, exit code, variable and file, and is current."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import click
import pytest
from processes import bulkcert

import bulkcert.errors as errors
from bulkcert.jobfile import load_job
from bulkcert.jobfile.sections import REQUIRED, TOP, sections
from bulkcert.model import State
from bulkcert.providers import BUILT_IN
from bulkcert.providers.base import Field, Key
from bulkcert.report.summary import exit_code

ROOT = Path(__file__).parents[1]
JOB_FILE = (ROOT / "docs/job-file.md").read_text()
CLI = (ROOT / "docs/cli.md").read_text()
OUTPUT = (ROOT / "docs/output.md").read_text()


def tool() -> ModuleType:
    """Load the generator, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = tool()


def under(document: str, heading: str) -> str:
    """Return the text under the heading that contains these words, up to the next one."""
    [text] = [
        text
        for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", document, re.M | re.S)
        if re.search(rf"(?<!\w){re.escape(heading)}(?!\w)", title)
    ]
    return str(text)


def first_column(text: str) -> list[str]:
    """Return the names in backticks in the first column of the tables."""
    cells = re.findall(r"^\| (`.*?) +\| ", text, re.M)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def keys() -> Iterator[tuple[str, Key]]:
    """Return every key that a job file may have, with its section."""
    yield from (("", key) for key in TOP.values())
    for provider in BUILT_IN.values():
        for action in provider.actions.values():
            for section, table in sections(provider, action).items():
                assert table is not None
                yield from ((section, key) for key in table.values())


KEYS = {(section, key.name): key for section, key in keys()}
COMMANDS = reference.commands()


@pytest.mark.parametrize("path", reference.DOCUMENTS, ids=lambda path: path.name)
def test_generated_parts_are_current(path: Path) -> None:
    document = path.read_text()
    assert reference.render(document) == document, "stale; run `make docs`"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("<!-- generated:limts -->\n<!-- /generated:limts -->\n", "no generated part 'limts'"),
        ("<!-- generated:limits -->\n", "has no end"),
        ("<!-- /generated:limits -->\n", "or no beginning"),
        ("<!-- generated:limits -->\n<!-- /generated:retry -->\n", "has no end"),
    ],
)
def test_a_broken_marker_is_an_error(document: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        reference.render(document)


def test_a_stale_part_is_replaced_and_everything_else_kept() -> None:
    marked = "before\n<!-- generated:retry -->\n{}<!-- /generated:retry -->\nafter\n"
    rendered = reference.render(marked.format("stale\n"))
    assert rendered == reference.render(marked.format(""))
    assert rendered.startswith("before\n<!-- generated:retry -->\n\n| key ")
    assert rendered.endswith("<!-- /generated:retry -->\nafter\n")
    assert "stale" not in rendered
    assert "| `max_attempts`     | whole number, 1 to 1,000 | 8       | most attempts " in rendered


# ---- the job file


@pytest.mark.parametrize(("section", "name"), KEYS)
def test_every_key_is_documented(section: str, name: str) -> None:
    heading = f"[{section}]" if section else "At the top"
    assert name in first_column(under(JOB_FILE, heading)), f"no `{name}`; run `make docs`"


@pytest.mark.parametrize(
    "key", [key for (section, _), key in KEYS.items() if section != "columns"], ids=lambda k: k.name
)
def test_every_key_has_a_meaning_and_a_good_example(key: Key) -> None:
    assert key.meaning
    assert key.type
    assert not key.meaning.endswith(".")
    written = tomllib.loads(f"{key.name} = {reference.toml(key.example)}")
    assert written == {key.name: key.example}
    if isinstance(key, Field) and key.pem:
        assert str(key.example).startswith("-----BEGIN ")  # the rest would be too long to show
    elif key.from_file is not None:
        key.from_file((ROOT / "jobs" / str(key.example)).read_bytes())
    else:
        key.parse(key.example)


def test_every_required_key_is_a_key() -> None:
    assert {place.rpartition(".")[::2] for place in REQUIRED} <= set(KEYS)


def test_every_action_is_documented() -> None:
    named = first_column(under(JOB_FILE, "At the top"))
    for provider in BUILT_IN.values():
        assert f'provider = "{provider.name}"' in under(JOB_FILE, "At the top")
        assert set(provider.actions) <= set(named)
        assert all(action.meaning for action in provider.actions.values())


def test_every_example_is_toml() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", JOB_FILE, re.M | re.S)
    assert len(examples) > len(sections(None, None))
    for example in examples:
        assert tomllib.loads(example)


def test_the_complete_example_is_a_good_job_with_every_section(tmp_path: Path) -> None:
    example = re.findall(r"^```toml\n(.*?)^```", JOB_FILE, re.M | re.S)[0]
    path = tmp_path / "job.toml"
    path.write_text(example)
    assert load_job(path).warnings == ()
    assert set(tomllib.loads(example)) == {*TOP, *sections(None, None)}


# ---- the command line


def test_every_command_is_documented() -> None:
    titles = re.findall(r"^## bulkcert (\w+)$", CLI, re.M)
    assert titles == list(COMMANDS)
    for name in COMMANDS:
        assert f"<!-- generated:command-{name} -->" in under(CLI, f"bulkcert {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    documented = first_column(under(CLI, f"bulkcert {name}"))
    options = reference.options_of(COMMANDS[name])
    expected = {n for option in options for n in (*option.opts, *option.secondary_opts)}
    assert expected - set(documented) == set(), "run `make docs`"
    assert {n for n in documented if n.startswith("-")} - expected == set(), "run `make docs`"


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in COMMANDS for option in reference.options_of(COMMANDS[name])],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_option_has_a_meaning(name: str, option: click.Option) -> None:
    assert option.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name: str) -> None:
    assert f"```console\nbulkcert {name} " in under(CLI, f"bulkcert {name}")


def test_every_argument_is_documented() -> None:
    metavars = {
        argument.make_metavar(click.Context(command))
        for command in COMMANDS.values()
        for argument in command.params
        if isinstance(argument, click.Argument)
    }
    introduction = CLI.partition("## bulkcert")[0]
    assert set(first_column(introduction)) - set(COMMANDS) == metavars


def all_errors(base: type[errors.BulkcertError]) -> Iterator[type[errors.BulkcertError]]:
    yield base
    for error in base.__subclasses__():
        yield from all_errors(error)


def exit_codes() -> Iterator[int]:
    """Return every exit code: of errors, and of runs in any combination of states."""
    yield from (error.exit_code for error in all_errors(errors.BulkcertError))
    for counts in product((0, 1), repeat=len(State)):
        yield exit_code(dict(zip(State, counts, strict=True)))


def test_every_exit_code_is_documented() -> None:
    documented = first_column(under(CLI, "Exit codes"))
    assert documented == sorted({str(code) for code in exit_codes()})


def rows(text: str) -> Iterable[list[str]]:
    """Return the cells of each row of a table, without backticks."""
    for line in re.findall(r"^\| `.*\|$", text, re.M):
        yield [cell.strip(" `") for cell in line.strip("|").split("|")]


def test_every_environment_variable_is_documented() -> None:
    documented = {row[0]: row[2] for row in rows(under(CLI, "Environment variables"))}
    credentials = {
        name: name in provider.optional_credentials
        for provider in BUILT_IN.values()
        for name in (*provider.credentials, *provider.optional_credentials)
    }
    own = ("EGRESS", "NEVER", "STORE")
    others = {*(f"BULKCERT_{name}" for name in own), "NO_COLOR", "XDG_STATE_HOME"}
    assert set(documented) == credentials.keys() | others
    for name, optional in credentials.items():
        assert ("(optional)" in documented[name]) == optional


@pytest.mark.system
def test_every_file_of_a_run_directory_is_documented(tmp_path: Path) -> None:
    """A rehearsal with new keys, a repeated and a bad row leaves every kind of file behind."""
    rows = '{"assetId":"A1","certSn":1}\n'
    (tmp_path / "fleet.jsonl").write_text(rows + rows + '{"assetId":"A2"}\n')
    (tmp_path / "job.toml").write_text(
        'provider = "enos"\naction = "renew"\ntargets = "fleet.jsonl"\n'
        'keys.generate = "ecdsa-p256"\n'
        '[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n'
    )
    run_dir = tmp_path / "run"
    ended = bulkcert(
        *("run", tmp_path / "job.toml", "--rehearse", "--skip-rejected", "--run-dir", run_dir),
        folder=tmp_path,
    )
    assert ended.code == 1, ended.err
    left = {path.name + ("/" if path.is_dir() else "") for path in run_dir.iterdir()}
    documented = set(first_column(OUTPUT.partition("\n## ")[0]))
    assert left - documented == set()
    # SQLite removes two of these at the end, most file systems need no third one, there is nothing
    # to verify or to protect, and a rehearsal is in no shared store
    assert documented - left <= {
        *("checkpoint.sqlite3-wal", "checkpoint.sqlite3-shm", "lock", "verify.jsonl"),
        *("protected.csv", "shared-store.json", "job-files/"),
    }
