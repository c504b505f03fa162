"""The command `bulkcert`: one file for each subcommand, imported only when that one is called.

plan, approve, run, work, control, runs, status, hosts, results, history, verify, report, material,
evidence, store, simulate, completion
                    the subcommands
help                the arguments, exit codes and environment variables of each command
options             the arguments and options that several of them share
format              lines and columns as people read them
plan_screen         what a run would do, as text and as JSON
rules_screen        what it would do by the rules of a campaign; rules_object: the same as JSON
overlap_screen      what earlier runs have done to the same targets
outlook             when it would be over, and who has approved it
summary_screen      the end of a run
status_screen       where a run stands, as text and as JSON
hosts_screen        who works on a run, and who did, as text and as JSON
verdict             does it go on, and if not, why not
watch               shows a run until it is over: watch_screen on a terminal, or lines
watch_layout        the lines of that screen, cut to what fits
campaign_screen     where a campaign stands: waves, controls, aborts
next_steps          what lets a run go on, and the commands for it
left_out            what to do with the rows that a run leaves out
prompt              asks for confirmation
console             the standard streams: messages, text and data
messages            what a message looks like on a terminal, in a log and as JSON
sink                writes messages without holding anything up
target_filter       the records about a target that a person names
crl                 gets revocation lists from files and URLs
download            fetches a file from a URL, within bounds
output              writes data to standard output or to a file
fault               reports an exception that nobody foresaw
execution           carries a run out, and says how it ended
progress_display    shows the progress of a run
terminal            a terminal that shows a screen, and is left as it was
process             prepares the process for a long run, and stops it on signals
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from bulkcert import __version__
from bulkcert.cli import console
from bulkcert.cli.help import epilog
from bulkcert.cli.messages import Level
from bulkcert.errors import (
    BulkcertError,
    InterruptionError,
    PlatformError,
    TargetsRejectedError,
)
from bulkcert.values import printable

_COMMANDS = {
    "plan": "Check the whole job and show what a run would do; send nothing.",
    "approve": "Show what a run would do, and sign a statement that it may.",
    "run": "Check the job, then carry it out or continue it.",
    "work": "Join a run in a shared store, without its files.",
    "control": "Pause a run, let it go on, stop it, or change its rate.",
    "runs": "List the runs below a folder.",
    "status": "Show the progress of a running or finished run.",
    "hosts": "Show the hosts that work on a run.",
    "results": "Print the outcome of each operation.",
    "history": "Show everything that happened to one device.",
    "verify": "Read back the devices of a run, and compare.",
    "report": "Write one HTML page about a run.",
    "material": "Fetch the keys and certificates of a run from its shared store.",
    "evidence": "Pack what proves a run, signed; or check such a pack.",
    "store": "Set up a shared store, or check it.",
    "simulate": "Serve a stand-in for the providers on loopback.",
    "completion": "Print the completion script for a shell.",
}


@functools.cache
def _command(name: str) -> click.Command:
    """Import a command, and add to its help what all have."""
    module = importlib.import_module(f"{__name__}.{name}")
    command: click.Command = getattr(module, name)
    command.short_help = _COMMANDS[name]
    arguments = [p.metavar or "" for p in command.params if isinstance(p, click.Argument)]
    command.epilog = "\n\n".join(filter(None, (command.epilog, epilog(name, arguments))))
    return command


class _Group(click.Group):
    """Knows the commands by name, and imports only the one that is called.

    `bulkcert -h` would be slow if it imported them all.
    """

    _reports_json = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name) if cmd_name in _COMMANDS else None

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

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        console.prepare()
        words = sys.argv[1:] if args is None else args
        self._reports_json = "--json" in words
        try:
            return super().main(args, *others, **options)
        except OSError as error:  # a help text that can't be written
            console.discard("stdout")
            gone = isinstance(error, BrokenPipeError)
            if not gone:
                problem = f"Standard output can't be written: {error.strerror}"
                console.write(problem, Level.ERROR)
            sys.exit(console.READER_IS_GONE if gone else BulkcertError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _check_platform()
            return super().invoke(ctx)
        except BulkcertError as error:
            failure = error
        except click.UsageError as error:
            if self._reports_json:
                _print_error(BulkcertError(error.format_message()))
            raise
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            failure = InterruptionError("Stopped.")
        except Exception as error:
            failure = _fault(ctx, error)
        if self._reports_json:
            _print_error(failure)
        _say(failure)
        sys.exit(failure.exit_code)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog(),
)
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


def _fault(ctx: click.Context, error: Exception) -> BulkcertError:
    """Turn a fault of this program into an error; its details go to a file, not to the terminal.

    A run has written its reports by then, and can be resumed. No other command sends anything that
    changes a certificate.
    """
    from bulkcert.cli import fault

    failure = fault.as_error(error)
    if ctx.invoked_subcommand in ("run", "work"):
        from bulkcert.report.summary import RESUMABLE  # slow to import

        failure.exit_code = RESUMABLE
        resumable = "Nothing recorded is lost: the same command continues the run."
        failure.next_step = "\n".join(filter(None, (failure.next_step, resumable)))
    return failure


def _say(error: BulkcertError) -> None:
    """Write an error for people."""
    fields = error_object(error)
    before = None
    if isinstance(error, TargetsRejectedError):
        lines = [f"line {row.line}: {row.fault}" for row in error.first]
        if (more := error.total - len(error.first)) > 0:
            lines.append(f"... and {more:,} more")
        before = "\n".join(map(printable, lines))
    # somebody who has pressed Ctrl-C does not see that as an error
    level = Level.RESULT if isinstance(error, InterruptionError) else Level.ERROR
    problem, _, others = error.problem.partition("\n")
    after = "\n".join(filter(None, (others, error.next_step)))
    console.write(problem, level, before=before, after=after, event="error", error=fields)


def _print_error(error: BulkcertError) -> None:
    """Write an error as the JSON object that a command with --json prints."""
    with contextlib.suppress(click.exceptions.Exit, BulkcertError):  # nobody reads it
        console.print_json({**error.figures, "error": error_object(error)})


def error_object(error: BulkcertError) -> dict[str, Any]:
    """Return an error as a JSON object; docs/output.md describes it."""
    entry: dict[str, Any] = {
        "problem": error.problem,
        "next_step": error.next_step or None,
        "exit_code": error.exit_code,
    }
    if isinstance(error, TargetsRejectedError):
        entry["rejected"] = error.total
        entry["first_rejected"] = [row.as_object() for row in error.first]
    return entry
