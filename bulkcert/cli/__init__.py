"""The command `bulkcert`: one file for each subcommand, imported only when that one is called.

plan, run, status, results, verify, simulate     the subcommands
options             the arguments and options that several of them share
format              what they print for people, as text
console             the standard streams: messages, text and data
output              writes data to standard output or to a file
fault               reports an exception that nobody foresaw
progress_display    shows the progress of a run
process             prepares the process for a long run, and stops it on signals
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any, NoReturn

import click

from bulkcert import __version__
from bulkcert.cli import console
from bulkcert.errors import BulkcertError, PlatformError, TargetsRejectedError

_COMMANDS = {
    "plan": "Check the whole job and show what a run would do; send nothing.",
    "run": "Check the job, then carry it out or continue it.",
    "status": "Show the progress of a running or finished run.",
    "results": "Print the outcome of each operation.",
    "verify": "Read back the devices of a finished run, and compare.",
    "simulate": "Serve a stand-in for the providers on loopback.",
}


class _Group(click.Group):
    """Knows the commands by name, and imports only the one that is called.

    `bulkcert -h` would be slow if it imported them all.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        command.short_help = _COMMANDS[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and (near := difflib.get_close_matches(name, _COMMANDS, n=1)):
            ctx.fail(f"No such command '{name}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def main(self, *args: Any, **options: Any) -> Any:
        console.prepare()
        try:
            return super().main(*args, **options)
        except OSError as error:  # a help text that can't be written
            console.discard("stdout")
            console.write(f"Error: Standard output can't be written: {error.strerror}")
            sys.exit(BulkcertError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _check_platform()
            return super().invoke(ctx)
        except BulkcertError as error:
            _fail(ctx, error)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            console.write("Stopped.")
            _exit_resumable(ctx)
        except Exception as error:
            _fail_by_fault(ctx, error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Bulk operations on device certificates: rate-limited, checkpointed, and never guessing.

    \b
    Example:
      bulkcert plan JOB             check everything, send nothing
      bulkcert run JOB --rehearse   try the whole job against a simulator
      bulkcert run JOB              carry it out
      bulkcert COMMAND -h           show the options of a command, with an example
    """


def _check_platform() -> None:
    """Refuse an unsupported operating system, before a command imports what it lacks."""
    if sys.platform == "win32":
        raise PlatformError(
            "bulkcert does not run on Windows.",
            "Run it on Linux, for example in WSL 2. macOS works too, for development.",
        )


def _fail_by_fault(ctx: click.Context, error: Exception) -> NoReturn:
    """Report a fault of this program; its details go to a file, not to the terminal.

    A run has written its reports by then, and can be resumed. No other command sends anything that
    changes a certificate.
    """
    from bulkcert.cli import fault

    fault.report(error)
    if ctx.invoked_subcommand == "run":
        console.write("Nothing recorded is lost: the same command continues the run.")
        _exit_resumable(ctx)
    ctx.exit(BulkcertError.exit_code)


def _exit_resumable(ctx: click.Context) -> NoReturn:
    from bulkcert.report.summary import RESUMABLE  # slow to import

    ctx.exit(RESUMABLE)


def _fail(ctx: click.Context, error: BulkcertError) -> NoReturn:
    if isinstance(error, TargetsRejectedError):
        for rejection in error.first:
            field = f" {rejection.field}" if rejection.field else ""
            console.write(f"line {rejection.line}:{field} {rejection.reason}")
        if (more := error.total - len(error.first)) > 0:
            console.write(f"... and {more:,} more")
    console.write_text(f"Error: {error.problem}")
    if error.next_step:
        console.write_text(error.next_step)
    ctx.exit(error.exit_code)
