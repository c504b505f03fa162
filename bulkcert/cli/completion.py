"""`bulkcert completion`: print what makes a shell complete commands, options, files and runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bulkcert.cli import console

VARIABLE = "_BULKCERT_COMPLETE"
"""The environment variable with which the script asks for completions; click gives it this name."""


@click.command
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for bash, zsh or fish.

    It completes commands, options, their values, files, and the names of runs.

    \b
    Examples:
      bulkcert completion bash > ~/.local/share/bash-completion/completions/bulkcert
      bulkcert completion zsh > "${fpath[1]}/_bulkcert"
      bulkcert completion fish > ~/.config/fish/completions/bulkcert.fish
    """
    script = get_completion_class(shell)
    assert script is not None  # click knows all three
    source = script(context.find_root().command, {}, "bulkcert", VARIABLE).source()
    console.print_text(source.rstrip("\n"))
