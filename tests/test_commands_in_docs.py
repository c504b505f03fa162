"""Every `bulkcert` command in a document is one that the program takes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from code_blocks import bulkcert_commands

from bulkcert.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
COMMANDS = [
    pytest.param(words, id=f"{path.stem}: {' '.join(words)}")
    for path in DOCUMENTS
    for words in bulkcert_commands(path)
]


def parse(words: list[str]) -> None:
    """Parse a command line; files and runs need not exist.

    Raises:
        click.UsageError: the program would refuse it.
    """
    name, command, others = main.resolve_command(click.Context(main), words)
    assert command is not None
    context = click.Context(command, info_name=name)
    values, surplus, _ = command.make_parser(context).parse_args(others)
    if surplus:
        raise click.UsageError(f"surplus: {surplus}")
    for parameter in command.get_params(context):
        value = values.get(parameter.name or "")
        # the files and runs of an example do not exist
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)
        if parameter.required and parameter.value_is_missing(value):
            raise click.UsageError(f"missing: {parameter.name}")


@pytest.mark.parametrize("words", COMMANDS)
def test_the_program_takes_it(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize(
    "words",
    [
        ["verfy", "job.toml"],
        ["run", "job.toml", "--rehears"],
        ["run"],
        ["run", "job.toml", "other.toml"],
        ["results", "job.toml", "--format", "xml"],
        ["results", "job.toml", "--outcome"],
    ],
)
def test_what_the_program_does_not_take_is_found(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(words)


def test_there_are_commands_in_most_documents() -> None:
    assert len(COMMANDS) > 40
