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
watch_hosts         the hosts on that screen
watch_layout        its lines, cut to what fits
campaign_screen     where a campaign stands: waves, controls, aborts
next_steps          what lets a run go on, and the commands for it
left_out            what to do with the rows that a run leaves out
prompt              asks for confirmation
streams             makes the standard streams usable
ending              how a command ends that fails
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
signals             which signals stop a command
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from bulkcert import __version__
from bulkcert.cli import streams
from bulkcert.cli.help import epilog

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

    `bulkcert -h` would be slow if it imported them all. Nor does it import what only they need.
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
        if name not in _COMMANDS:
            from difflib import get_close_matches  # only for a name that is wrong

            if near := get_close_matches(name, _COMMANDS, n=1):
                ctx.fail(f"No such command '{name}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        streams.prepare()
        words = sys.argv[1:] if args is None else args
        self._reports_json = "--json" in words
        options.setdefault("terminal_width", streams.text_width())
        try:
            return super().main(args, *others, **options)
        except OSError as error:  # a help text that can't be written
            streams.discard("stdout")
            if isinstance(error, BrokenPipeError):
                sys.exit(streams.READER_IS_GONE)
            from bulkcert.cli import ending

            sys.exit(ending.no_output(error))

    def invoke(self, ctx: click.Context) -> Any:
        from bulkcert.cli import ending  # not before the help text of `bulkcert` is shown

        return ending.guarded(ctx, super().invoke, as_json=self._reports_json)


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
