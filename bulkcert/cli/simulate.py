"""`bulkcert simulate`: run a stand-in for both providers on loopback until stopped.

In: options, one for each field of `Behaviour`. Out: the endpoint and the credentials that it
accepts, as NAME=value lines on standard output, followed by an empty line. Messages for people go
to standard error.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulkcert.simulator.behaviour import Behaviour, Option, options

if TYPE_CHECKING:
    from bulkcert.simulator import Simulator

OPEN_FILES = 4_000
"""Number of open files that the process has room for from the start; see `_serve`."""

_EXAMPLE = """\b
Example: 300 ms latency, every fifth call executed but reported as an error, and a ledger.
  bulkcert simulate --latency 0.3 --error-after 0.2 --ledger ledger.jsonl
"""


class _GroupedCommand(click.Command):
    """Shows the many options in groups, as `Behaviour` declares them."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        group_of = {option.name: option.group for option in options()}
        for parameter in self.get_params(context):
            if record := parameter.get_help_record(context):
                groups.setdefault(group_of.get(parameter.name or "", "Options"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


def _click_option(option: Option) -> click.Option:
    name = option.name.replace("_", "-")
    declaration = f"--{name}/--no-{name}" if option.type is bool else f"--{name}"
    return click.Option(
        [declaration, option.name],
        type=click.Choice(option.choices) if option.choices else option.type,
        default=option.default,
        show_default=option.default not in ("", False, 0.0),
        help=option.help,
    )


_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    cls=_GroupedCommand,
    params=[_click_option(option) for option in options()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLE,
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on."
)
@click.option(
    "--port", default=8765, show_default=True, help="Port to listen on; 0 takes any free port."
)
@click.option(
    "--ledger",
    type=_FILE,
    help="File for the ledger of all requests; an existing file is replaced.",
)
@click.option(
    "--fleet",
    type=_EXISTING,
    help="Target file with the devices that exist; without it, all devices exist.",
)
@click.option(
    "--job",
    "job_file",
    type=_EXISTING,
    help="Job file: its targets exist, as the job itself reads them. With --fleet, the job's target"
    " file is that one.",
)
@click.option("--tls-cert", type=_EXISTING, help="Serve HTTPS with this certificate (PEM).")
@click.option("--tls-key", type=_EXISTING, help="Private key of the certificate (PEM).")
@click.option("--stop-with-stdin", is_flag=True, hidden=True)
def simulate(
    host: str,
    port: int,
    ledger: Path | None,
    fleet: Path | None,
    job_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    stop_with_stdin: bool,
    **values: Any,
) -> None:
    """Run a stand-in for both providers on loopback until stopped.

    The simulator checks tokens, signatures and rate limits as the vendors do, keeps the state of
    every device, and injects the faults that you ask for. Probabilities are shares from 0 to 1;
    times are in seconds. Its ledger of requests is at ENDPOINT/_simulator/ledger, a summary at
    ENDPOINT/_simulator/summary.
    """
    from bulkcert.simulator import Simulator
    from bulkcert.simulator.ledger import LedgerError

    try:
        with _fleet(fleet, job_file) as path:
            simulator = Simulator(
                Behaviour(**values),
                fleet=path,
                ledger=ledger,
                host=host,
                port=port,
                tls=_tls(tls_cert, tls_key),
            )
            asyncio.run(_serve(simulator, stop_with_stdin=stop_with_stdin))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(_in_words(error, host, port)) from error
    except LedgerError as error:
        raise click.ClickException(str(error)) from error


def _in_words(error: OSError, host: str, port: int) -> str:
    """Say why the simulator can't listen, or can't use a file."""
    match error.errno:
        case errno.EADDRINUSE:
            why = f"Port {port} of {host} is in use, perhaps by another simulator."
        case errno.EACCES if error.filename is None:
            why = f"Port {port} of {host} is reserved for the system."
        case _:
            return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{why} Name another one with --port; --port 0 takes any free one, and prints it."


@contextmanager
def _fleet(path: Path | None, job_file: Path | None) -> Iterator[Path | None]:
    """The fleet file; for a job a temporary one."""
    if job_file is None:
        yield path
        return
    import tempfile

    from bulkcert.cli.options import load
    from bulkcert.rehearsal import write_targets_as_fleet

    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        fleet = Path(scratch) / "fleet.jsonl"
        write_targets_as_fleet(load(job_file, path), fleet)
        yield fleet


def _tls(certificate: Path | None, key: Path | None) -> Any:
    if not certificate:
        if key:
            raise ValueError("--tls-key needs --tls-cert")
        return None
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def _serve(simulator: Simulator, *, stop_with_stdin: bool) -> None:
    import contextlib
    import fcntl
    import gc
    import os
    import signal
    import threading

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:
        threading.Thread(target=_wait_for_end_of_stdin, args=(loop, stop), daemon=True).start()
    async with simulator:
        _announce(simulator)
        # Objects that exist now are permanent, and few later ones end up in reference cycles.
        # Collecting those in small portions keeps each pause far below a millisecond.
        gc.freeze()
        gc.set_threshold(5_000, 1_000, 1_000)
        # Each time the process's table of open files grows, the kernel stops all threads for 15 to
        # 40 ms, and requests then seem to arrive in a burst. A high descriptor makes the table
        # large at once.
        with contextlib.suppress(OSError):
            os.close(fcntl.fcntl(sys.stderr.fileno(), fcntl.F_DUPFD, OPEN_FILES))
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait(
            {stopped, simulator.writing}, return_when=asyncio.FIRST_COMPLETED
        )
        stopped.cancel()
        if simulator.writing in done:
            simulator.writing.result()  # raises the LedgerError
    click.echo("stopped", err=True)


def _announce(simulator: Simulator) -> None:
    import shlex

    behaviour = simulator.behaviour
    names = {
        "ENDPOINT": simulator.endpoint,
        "ENOS_APP_KEY": behaviour.app_key,
        "ENOS_APP_SECRET": behaviour.app_secret,
        "ALIBABA_CLOUD_ACCESS_KEY_ID": behaviour.access_key_id,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": behaviour.access_key_secret,
    }
    if behaviour.security_token:
        names["ALIBABA_CLOUD_SECURITY_TOKEN"] = behaviour.security_token
    for name, value in names.items():
        click.echo(f"{name}={shlex.quote(value)}")
    click.echo()  # marks the end for programs that read the lines
    click.echo("The simulator is running; press Ctrl-C to stop it.", err=True)


def _wait_for_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    import contextlib
    import os

    while os.read(0, 65536):
        pass
    with contextlib.suppress(RuntimeError):  # a signal was faster, and the loop is closed
        loop.call_soon_threadsafe(stop.set)
