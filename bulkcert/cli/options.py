"""The arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from bulkcert.cli import console
from bulkcert.cli.messages import Level
from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.jobfile import load_job
from bulkcert.numbering import upcoming
from bulkcert.rundir import RunDirectory
from bulkcert.runs import default_directory, find_run, place_of
from bulkcert.shared_numbering import RunsOfJob
from bulkcert.store_url import chosen

_Command = TypeVar("_Command", bound=Callable[..., Any])

FilePath = click.Path(path_type=Path)


_STORE = "bulkcert.store"
"""In the context of click: the shared store that the command line names."""


class RunDirectoryOf(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A run, named by its directory, its job file or its name; the value is a `RunDirectory`.

    Args:
        results_too: a file with results stands for itself.
    """

    name = "run"

    def __init__(self, *, results_too: bool = False) -> None:
        self._results_too = results_too

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> RunDirectory:
        if isinstance(value, RunDirectory):
            return value
        path = Path(value)
        if self._results_too and path.suffix == ".jsonl" and path.is_file():
            return RunDirectory(path)
        return find_run(value, ctx.meta.get(_STORE, "") if ctx else "")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from bulkcert.known_runs import known_runs

        known = [run.name for run in known_runs() if shlex.quote(run.name) == run.name]
        jobs = [path.name for path in Path().glob("*.toml")]
        matching = [n for n in dict.fromkeys([*known, *jobs]) if n.startswith(incomplete)]
        # bash completes either what it is given or files
        return [CompletionItem(name) for name in matching] or [
            CompletionItem(incomplete, type="file")
        ]


def _note_store(context: click.Context, option: click.Parameter, given: str) -> None:
    context.meta[_STORE] = given


def named_run(
    metavar: str = "RUN", *, results_too: bool = False, required: bool = True
) -> Callable[[_Command], _Command]:
    """Add the argument `directory`, a run, and the option that says where else to look for it.

    Args:
        metavar: the argument in the usage.
        results_too: a file with results stands for itself.
        required: the command needs a run.
    """
    argument = click.argument(
        "directory",
        metavar=metavar,
        type=RunDirectoryOf(results_too=results_too),
        required=required,
    )
    option = click.option(
        "--store",
        metavar="URL",
        default="",
        is_eager=True,  # the argument needs it
        expose_value=False,
        callback=_note_store,
        help="The shared store with the run [default: the job's, or that in BULKCERT_STORE].",
    )
    return lambda command: argument(option(command))


run_argument = named_run()


def _refuse_dry_run(context: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        raise click.UsageError(
            "There is no --dry-run. `bulkcert plan JOB` checks everything and sends nothing;"
            " `bulkcert run JOB --rehearse` carries the whole job out against a simulator."
        )


no_dry_run = click.option(
    "--dry-run",
    is_flag=True,
    hidden=True,
    expose_value=False,
    is_eager=True,
    callback=_refuse_dry_run,
)
"""What other tools have, and this one has in two commands."""

store_option = click.option(
    "--store",
    metavar="URL",
    default="",
    help="The shared store with the run [default: that in BULKCERT_STORE].",
)

progress_option = click.option(
    "--progress/--no-progress",
    default=True,
    help="Show progress: a bar on a terminal, a line every few seconds elsewhere.",
)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object on standard output, also in case of an error.",
)


def message_options(command: _Command) -> _Command:
    """Add the options about messages; see `bulkcert.cli.console.configure`."""
    for decorate in (
        click.option(
            "-v", "--verbose", is_flag=True, help="Show retries, pauses and other details."
        ),
        click.option(
            "-q", "--quiet", is_flag=True, help="Show only warnings, errors and the result."
        ),
        click.option(
            "--log-file",
            type=FilePath,
            help="Append all messages to this file too, each line with the time.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Write each message as a line of text or as a JSON object.",
        ),
    ):
        command = decorate(command)
    return command


def job_arguments(command: _Command) -> _Command:
    """Add the arguments that name a job, its targets and its run directory."""
    for decorate in (
        click.option(
            "--store",
            metavar="URL",
            default="",
            help="Keep the run in this shared store, for several hosts [default: the job's, or that"
            " in BULKCERT_STORE].",
        ),
        click.option(
            "--run-dir",
            type=FilePath,
            help="Keep the run in this directory [default: runs/NAME beside the job file].",
        ),
        click.option(
            "--skip-rejected",
            is_flag=True,
            help="Leave bad rows out, and do the others; then the exit code is 1 at the end.",
        ),
        click.option(
            "--skip-protected",
            is_flag=True,
            help="Leave targets out that must not be touched, and do the others; then the exit code"
            " is 1 at the end.",
        ),
        click.option(
            "--targets",
            type=click.Path(path_type=Path, allow_dash=True),
            help="Use this target file instead of the job's; - is standard input.",
        ),
        click.argument("job_file", metavar="JOB", type=FilePath),
    ):
        command = decorate(command)
    return command


def load(job_file: Path, targets: Path | None, store: str = "") -> Job:
    """Load a job, with the target file and the shared store that are meant.

    Args:
        job_file: the job.
        targets: the target file to use instead of the job's; "-" is standard input.
        store: the shared store to use instead of the job's, or that of the environment.

    Raises:
        JobError: the job file cannot be used.
        StoreUrlError: the shared store can't be used.
    """
    job = load_job(job_file, targets=targets)
    return dataclasses.replace(job, store=chosen(job.store, store))


def refuse_unsafe(job: Job, job_file: Path) -> None:
    """Refuse a job that should not be run as it is.

    Raises:
        JobError: there is a reason against it.
    """
    if job.unsafe:
        raise JobError(
            "\n".join(f"{job_file}: {reason}" for reason in job.unsafe),
            "Correct the job file. `run --yes` overrules this, for certificates that were issued"
            " before the run begins.",
        )


def run_directory(job: Job, job_file: Path, given: Path | None) -> Path:
    """Return where the run of a job is kept, as an absolute path.

    Args:
        job: the job.
        job_file: its file.
        given: the directory that the user wants.

    Raises:
        RunDirectoryError: the user has to say where.
    """
    if given is not None:
        return given.absolute()
    return place_of(job_file, job.name, job.store).path


def run_number(job: Job, job_file: Path, given: Path | None) -> int:
    """Return which run of a job a plan is for: the one that is not over, or the next.

    Args:
        job: the job.
        job_file: its file.
        given: the directory that the user wants.

    Raises:
        RunDirectoryError: the user has to say where.
    """
    if job.store:
        return RunsOfJob(job.store, job.name).upcoming()
    first = given.absolute() if given is not None else default_directory(job_file, job.name)
    return upcoming(first, job.name).number


def remember_run(job: Job, directory: RunDirectory, *, rehearsal: bool) -> None:
    """Let the user call the run by its name from now on; warn if that is impossible."""
    from bulkcert.known_runs import KnownRun, remember

    problem = remember(
        KnownRun(
            name=directory.manifest().run,
            path=directory.path.resolve(),
            action=job.action.name,
            provider=job.provider.name,
        )
    )
    if problem:
        console.write(f"This run can't be called by its name later: {problem}", Level.WARNING)
