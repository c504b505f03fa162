"""The command `bulkcert`: one file for each subcommand, imported when it is called."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

import click

from bulkcert import __version__
from bulkcert.cli.telling import open_missing_streams, tell
from bulkcert.errors import BulkcertError

_COMMANDS = {
    "plan": "Read and check the whole job; send nothing.",
    "run": "Check the job, then carry it out; go on where an earlier run stopped.",
    "status": "How far a run is, going on or over.",
    "results": "What became of each target.",
    "verify": "Read a finished run's devices back, and compare.",
    "simulate": "Serve a stand-in for the providers on loopback.",
}


class _Group(click.Group):
    """Knows its commands by name, and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        open_missing_streams()
        try:
            return super().invoke(ctx)
        except BulkcertError as error:
            _fail(ctx, error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Bulk operations on device certificates: rate-limited, checkpointed, never guessing.

    Start with `bulkcert plan JOB`, then `bulkcert run JOB --rehearse`.
    """


def _fail(ctx: click.Context, error: BulkcertError) -> NoReturn:
    for rejection in getattr(error, "first", ()):
        where = f"line {rejection.line}"
        field = f" {rejection.field}" if rejection.field else ""
        tell(f"{where}:{field} {rejection.reason}")
    more = getattr(error, "total", 0) - len(getattr(error, "first", ()))
    if more > 0:
        tell(f"... and {more} more")
    tell(f"Error: {error.problem}")
    if error.next_step:
        tell(error.next_step)
    ctx.exit(error.exit_code)
