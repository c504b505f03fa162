"""`bulkcert control`: steer a run: pause, resume, rate, go, stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from bulkcert.cli import console
from bulkcert.cli.format import as_text
from bulkcert.cli.options import json_option, run_argument
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.control import FULL_RATE, PAUSE_FILE, Verb
from bulkcert.errors import BulkcertError, ControlError, InterruptionError
from bulkcert.found_runs import RunState
from bulkcert.json_lines import utc
from bulkcert.quantities import count, duration, number
from bulkcert.rundir import RunDirectory
from bulkcert.runs import run_command
from bulkcert.steering import ControlRequest, Force, Steered
from bulkcert.store.base import HostNow
from bulkcert.timings import ControlTimings

NOT_IN_FORCE = 1
"""The exit code when a control has not reached a running process in time."""

_VALUES = {Verb.RATE: "N|max", Verb.GO: "WAVE"}
"""What a verb needs besides the run."""


def _complete_value(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete `max`, or the names of the run's waves."""
    from bulkcert.campaign_state import look

    verb, directory = context.params.get("verb"), context.params.get("directory")
    names: list[str] = []
    if verb == Verb.RATE:
        names = [FULL_RATE]
    elif verb == Verb.GO and directory is not None:
        try:
            names = [each.wave.name for each in look(directory).waves]
        except BulkcertError:
            names = []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(short_help="Steer a run.")
@click.argument("verb", metavar="VERB", type=click.Choice([str(verb) for verb in Verb]))
@run_argument
@click.argument("value", metavar="[VALUE]", required=False, shell_complete=_complete_value)
@click.option("--why", default="", help="The reason, for everybody who looks at the run.")
@json_option
def control(verb: str, directory: RunDirectory, value: str | None, why: str, as_json: bool) -> None:
    """Pause a run, let it go on, stop it, or change its rate, from any terminal.

    Returns when it is in force, with what was under way. Who asked for it, when and why is
    recorded. Without a running process it is recorded, and in force when the run goes on; but a
    stop only reaches running processes.

    \b
    Examples:
      bulkcert control pause jobs/revoke-key-compromise.toml --why "help desk is flooded"
      bulkcert control resume jobs/revoke-key-compromise.toml
      bulkcert control rate jobs/revoke-key-compromise.toml 50
      bulkcert control go jobs/revoke-key-compromise.toml canary
    """
    wanted = Verb(verb)
    if (value is None) == (wanted in _VALUES):
        needed = f"needs {_VALUES[wanted]}" if wanted in _VALUES else "takes nothing else"
        raise click.UsageError(f"`control {wanted}` {needed}, after the run.")
    interrupt_on_signals()
    asked = ControlRequest(directory, wanted, value or "", _one_line(why))
    try:
        asked.record()
        steered = asked.wait()
    except KeyboardInterrupt:
        raise _interrupted(asked) from None
    figures = _figures(asked, steered, directory)
    if steered.force is not Force.IN_FORCE and asked.entry is not None:
        _refuse_if_in_vain(steered, figures)
    if as_json:
        console.print_json(figures)
    else:
        lines = _lines(wanted, asked, steered, directory)
        console.print_text(as_text(lines, console.columns("stdout")))


def _one_line(why: str) -> str:
    """A reason as it can be stored: what is not Unicode is replaced."""
    return " ".join(why.encode(errors="replace").decode().split())


def _interrupted(asked: ControlRequest) -> InterruptionError:
    if asked.entry is None:
        return InterruptionError("Stopped before anything was recorded.")
    return InterruptionError(
        f"Not waiting any longer: the {asked.entry.verb} stays recorded, and is in force as soon"
        " as the run reads it.",
        "`bulkcert status` shows what is in force.",
    )


def _refuse_if_in_vain(steered: Steered, figures: dict[str, Any]) -> None:
    """Raise an error if the control has reached nobody whom it should have reached.

    Raises:
        ControlError: a process has not read it in time, or the run was over before.
    """
    if steered.force is Force.PENDING and steered.missing:
        waited = duration(ControlTimings().patience_s)
        error = ControlError(
            f"Not in force after {waited} on {', '.join(map(_named, steered.missing))}. It stays"
            " recorded; a host that does not read it is fenced, and then sends nothing.",
            "`bulkcert hosts` shows when each host last recorded anything.",
        )
        error.exit_code = NOT_IN_FORCE
    elif steered.force is Force.PENDING:
        waited = duration(ControlTimings().patience_s)
        error = ControlError(
            f"Not in force after {waited}: the process that works on the run has not read it. It"
            " stays recorded, and is in force as soon as the process does.",
            "The process may be stopped, wait for its disk, or not have begun yet; `bulkcert"
            " status` shows when it last recorded anything.",
        )
        error.exit_code = NOT_IN_FORCE
    elif steered.now.state is RunState.OVER:
        error = ControlError("The run was over before that was in force.")
    else:
        return
    error.figures = figures
    raise error


def _lines(
    verb: Verb, asked: ControlRequest, steered: Steered, directory: RunDirectory
) -> Iterator[str]:
    """What has become of a control, for people."""
    now, ceiling = steered.now, asked.manifest.ceiling
    in_force, going_on = steered.force is Force.IN_FORCE, f"  {_run_command(asked, directory)}"
    later = "" if in_force else "; no process works on the run: in force when it goes on"
    match verb:
        case Verb.PAUSE:
            yield f"paused{_under_way(steered)}" if in_force else f"paused{later}"
        case Verb.STOP if not in_force:
            yield "nothing to stop: no process works on the run"
        case Verb.STOP:
            yield f"{'stopping' if now.running else 'stopped'}{_under_way(steered)}"
        case Verb.RATE:
            assert steered.entry is not None
            yield f"rate {_rate(steered.entry.value, ceiling)}{later}"
        case Verb.GO:
            assert steered.entry is not None
            yield f"go after {steered.entry.value}{later}"
        case Verb.RESUME:
            was_paused = asked.before.campaign.control.paused is not None
            yield "resumed" if was_paused else "resumed; no control paused it"
    for host in steered.fenced:
        yield f"  {_named(host)} did not answer, and is fenced: it can't send anything"
    if in_force and now.running and verb in (Verb.RESUME, Verb.GO) and now.session is not None:
        for reason in now.session.reasons:
            yield f"  still {reason}"
    if verb is Verb.RESUME and now.campaign.pause_file is not None:
        yield f"  {directory.path / PAUSE_FILE} pauses it for as long as that file is there"
    if not now.running and verb in (Verb.RESUME, Verb.STOP):
        if now.state is RunState.OVER:
            yield "  the run is over"
        else:
            yield "To go on, run:"
            yield going_on


def _named(host: HostNow) -> str:
    return f"{host.name} (process {host.pid})"


def _rate(value: str, ceiling: float) -> str:
    allowed = f"{number(ceiling)}/s"
    if value == FULL_RATE:
        return f"{allowed}, all that the plan allows"
    return f"{number(float(value))}/s, of {allowed} that the plan allows"


def _under_way(steered: Steered) -> str:
    session = steered.now.session
    if session is None or not session.under_way:
        return "; no request was under way"
    under_way = count(session.under_way, "request was", "requests were")
    still_open = session.open_requests if steered.now.running else 0
    rest = f"{still_open:,} not answered yet" if still_open else "all answered"
    return f"; {under_way} under way, {rest}"


def _run_command(asked: ControlRequest, directory: RunDirectory) -> str:
    return run_command(directory.path, asked.manifest.name, asked.manifest.rehearsal)


def _figures(asked: ControlRequest, steered: Steered, directory: RunDirectory) -> dict[str, Any]:
    entry, now = steered.entry, steered.now
    session = now.session if now.running or steered.force is Force.IN_FORCE else None
    return {
        "name": asked.manifest.name,
        "run_dir": str(directory.path),
        "control": None
        if entry is None
        else {
            "id": entry.id,
            "at": utc(entry.at),
            "who": entry.who,
            "why": entry.why,
            "verb": str(entry.verb),
            "value": entry.value or None,
        },
        "in_force": steered.force is Force.IN_FORCE,
        "state": str(now.state),
        "under_way": session.under_way if session else 0,
        "open_requests": session.open_requests if session and now.running else 0,
        "reasons": list(session.reasons) if session and now.running else [],
        "pause_file": now.campaign.pause_file,
        "fenced": [_named(host) for host in steered.fenced],
    }
