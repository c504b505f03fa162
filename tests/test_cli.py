"""The commands as a user types them: names, help, and the errors behind their exit codes."""

from __future__ import annotations

import importlib
import re

import click
import pytest
from click.testing import CliRunner

from bulkcert import errors
from bulkcert.cli import main
from bulkcert.cli.format import count, duration, number

COMMANDS = ("plan", "run", "status", "results", "verify", "simulate")


def test_help_lists_each_command_with_what_it_does() -> None:
    text = CliRunner().invoke(main, ["-h"]).stdout
    assert "Example" in text
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].+\.$", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_each_option_and_shows_an_example(command: str) -> None:
    text = CliRunner().invoke(main, [command, "-h"], terminal_width=100).stdout
    assert f"bulkcert {command} " in text.split("Example", 1)[1]
    parameters = getattr(importlib.import_module(f"bulkcert.cli.{command}"), command).params
    options = [option for option in parameters if isinstance(option, click.Option)]
    assert options
    assert [option.name for option in options if not (option.help or option.hidden)] == []


@pytest.mark.parametrize(
    ("typed", "meant"), [("rn", "run"), ("result", "results"), ("Status", "status")]
)
def test_a_misspelt_command_is_answered_with_the_nearest_one(typed: str, meant: str) -> None:
    ended = CliRunner().invoke(main, [typed, "job.toml"])
    assert ended.exit_code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in ended.stderr


def test_a_command_that_is_like_no_other_is_refused() -> None:
    ended = CliRunner().invoke(main, ["xyzzy"])
    assert ended.exit_code == 2
    assert "No such command 'xyzzy'" in ended.stderr
    assert "Did you mean" not in ended.stderr


# ---- errors


def _tree(error: type[Exception], prefix: str = "") -> list[str]:
    """Draw an error and all that derive from it, without their explanations."""
    children = error.__subclasses__()
    lines = []
    for child in children:
        last = child is children[-1]
        lines.append(f"{prefix}{'└' if last else '├'}── {child.__name__}")
        lines += _tree(child, prefix + ("    " if last else "│   "))
    return lines


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawing = (errors.__doc__ or "").split("    BulkcertError", 1)[1].split("\n\n", 1)[0]
    drawn = [re.sub(r"(Error)\s.*", r"\1", line[4:]) for line in drawing.splitlines()[1:]]
    assert drawn == _tree(errors.BulkcertError)


def test_errors_have_the_exit_codes_in_the_drawing() -> None:
    three = {errors.ProviderUnusableError, errors.StoreError}
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.BulkcertError):
            assert error.exit_code == (3 if error in three else 2), name


# ---- numbers and words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.25, "4.2 s"),
        (59.4, "59.4 s"),
        (59.6, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11_220, "3 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_agree_with_their_nouns_and_verbs() -> None:
    assert count(0, "operation") == "0 operations"
    assert count(1, "operation") == "1 operation"
    assert count(2_000, "operation") == "2,000 operations"
    assert count(1, "agrees", "agree") == "1 agrees"
    assert count(3, "agrees", "agree") == "3 agree"


@pytest.mark.parametrize(
    ("value", "text"), [(3000.0, "3,000"), (0.5, "0.5"), (1_500_000, "1,500,000"), (98.1, "98.1")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
