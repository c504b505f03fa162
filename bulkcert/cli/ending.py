"""How a command ends that fails: what people and programs get to read, and the exit code.

In: the command, as something to call. Out: its result, or an error on standard error, with `--json`
on standard output too, and the end of the process. Nothing leaves as a traceback.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import click

from bulkcert.cli import console
from bulkcert.cli.messages import Level
from bulkcert.errors import (
    BulkcertError,
    InterruptionError,
    PlatformError,
    TargetsRejectedError,
)
from bulkcert.values import printable


def guarded(ctx: click.Context, command: Callable[[click.Context], Any], *, as_json: bool) -> Any:
    """Carry a command out, and end the process if that fails.

    Args:
        ctx: of the command line as a whole.
        command: parses what is left of it and calls the function.
        as_json: programs read standard output.
    """
    console.reset()
    try:
        _check_platform()
        return command(ctx)
    except BulkcertError as error:
        failure = error
    except click.UsageError as error:
        if as_json:
            _print_error(BulkcertError(error.format_message()))
        raise
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        failure = InterruptionError("Stopped.")
    except Exception as error:
        failure = _fault(ctx, error)
    if as_json:
        _print_error(failure)
    _say(failure)
    sys.exit(failure.exit_code)


def no_output(error: OSError) -> int:
    """Say that standard output can't be written, and return the exit code."""
    console.reset()
    console.write(f"Standard output can't be written: {error.strerror}", Level.ERROR)
    return BulkcertError.exit_code


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
