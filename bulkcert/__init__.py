"""Bulk operations on device certificates: rate-limited, checkpointed, and never guessing.

The way of a target through the program, by module:

    jobfile/         the bytes of a job file        -> a `Job`
    job              what to do, to which targets, how fast
    targets/         the rows of a target file      -> checked targets, or what is wrong with them
    identity         the fields of rows             -> which are about the same
    rules/           a campaign's rules: may the next operation be claimed?
    contradictions   rows that contradict or repeat others
    rejections       the rows that are not carried out, in files in which they can be corrected
    never_touch      the lists of what must not be touched, as the job's rules compare them
    protection       the rows that must not be touched, sorted out while planning
    plan             targets x action               -> operations, each of them once
    row_planner      the rows of a target file      -> operations in the store
    control          what people ask of a run: pause, resume, rate, go, stop
    approval/        signed statements beside the job -> who has approved the plan
    overlap          what earlier runs have done to the targets of a plan
    plan_hash        what identifies a plan, and how two differ
    fingerprints     how many targets were added to a plan, and how many are gone
    decisions        records what people have decided, in the store and in the event log
    amendment        what may change within a run, and what it takes
    stopped          what a person reads when a run has stopped itself
    preparation      continue an earlier run of the job, or plan a new one
    store/           the durable state of each operation
    lifecycle        an operation and an event      -> the operation, a change, an effect
    dispatch         the worker pool: claim, wait, send, record
    taskqueue        what is claimed and not sent: ready, or due later
    ready_slots      how many requests may get ready at the same time
    history          what happened to an operation, for those who ask later
    circuit_breaker  does the provider still work?
    check            runs the outside command that says whether a run may go on
    notifier         gives the events to a command of the operator's, beside the sender
    ratelimit        when may the next request leave?
    jitter           how much of the ceiling may be used: how much responses vary
    slots            the slots of a limit that is shared, and the files of those of one machine
    sharing          which limits a run shares with others, and with whom
    hosts/           several hosts on one run: leases, the switch, slots for all of them
    providers/       one request to a provider      -> its result
    report/          the store                      -> results, summary and page

What holds them together:

    run              one run of a job: planned or continued, carried out, reported
    wiring           the stages, wired together: the whole flow on one screen
    execution        one process's work on a run, from opening the connection to the last commit
    events           what a run reports while it works
    event_log        what happened to a run, each event chained to the one before
    event_file       a copy of that log beside the store
    process_log      what a process logs of itself: its start and its end
    event_words      a sentence about each event, for people
    progress         the figures of one process
    metrics/         the figures of a run for Prometheus: by scraping, and in a file
    timeleft         how long a run will still take, by how fast it has been
    horizon          how long with its waves, waits and window; and whether that is in time
    forecast         when it will be over, by its waves, waits and window; and when it must begin

Where runs are kept:

    rundir           the run directory: its files and its lock
    runs             which run directory is meant
    numbering        which run of a job is meant: the first, or a later one
    job_files        the files of a job, for hosts that have none of them
    shared_numbering the same in a shared store, for all hosts
    found_runs       the runs below a folder, and where each of them stands
    known_runs       the runs that this user has worked on, by name
    begun_runs       the plans that this user has begun, and where
    repetition       a plan is carried out once
    statefolder      the folder in which the runs of one user find each other

What is done with a run besides:

    cli/             the command: one file per subcommand
    api              the public names of this package
    reading          the results of a run, as Python objects
    observer         looks at a run again and again, without being a burden to it
    steering         records a control of a run, and waits until it is in force
    campaign_state   where a campaign stands, for those who look at it or steer it
    verify           reads the devices of a run back, and compares
    material         fetches keys and certificates from a shared store
    evidence/        what proves a run, in one signed file; and whether such a file is intact
    revocation_list  is a revoked certificate in the list of its CA?
    rehearsal        runs a job against the simulator
    simulator/       stands in for the providers, on loopback
    testing          a fake transport, for tests of programs that use this package

Keys:

    keyspec          which key pairs can be generated, and for which subjects
    keys             makes them, and keeps them in files
    key_files        the names of these files
    keyworker        the processes that do so
    keykeeper        where they are kept: in files, or in a shared store, too
    envelope         seals a private key for the operator
    shared_material  what a job must say about them with a shared store
    public_keys      what identifies a public key, and the one in a file
    pem              the signing request in PEM text, and nothing of what stands beside it

What everybody may use:

    model            the nouns: target, operation, state, outcome
    errors           what stops a run; each error says what to do next
    store_url        the URL of a shared store, and whether it may be used
    credentials      credentials from the environment
    timings          how long to wait, and for what
    values           parsing and quoting of values
    json_lines       values as JSON, and times in it
    spreadsheet      what spreadsheets do to names and numbers, where it shows
    quantities       numbers, durations and rates as people read them
    durable          files that survive a power loss
    folder_lock      a lock on a folder, which ends with its process
    threads          blocking work in a thread, which no cancellation leaves half done
    job_commands     the commands that a job names, and where they run
    outside_command  runs a command of the operator's, bounded in every respect
    interpreter      how to start another Python process
    version          the version of this package

As a library:

    job = bulkcert.load_job("jobs/revoke.toml")
    with bulkcert.Run(job) as run:
        summary = await run.execute(on_event=print)

docs/library.md has the rest, and `bulkcert.testing` tests programs without a network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bulkcert.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from bulkcert.api import *  # noqa: F403 - the public names, as a type checker sees them
else:

    def __getattr__(name: str) -> Any:
        """Import the public names when one of them is first used."""
        if name == "__all__":
            return list(_public_names())
        # Python asks for a submodule here before it imports it, and must get an AttributeError.
        if not name.startswith("_") and not _is_submodule(name):
            public = _public_names()
            if name in public:
                return public[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    dunder = [name for name in globals() if name.startswith("__")]
    return sorted({*dunder, *_public_names()})


def _public_names() -> dict[str, Any]:
    api = importlib.import_module("bulkcert.api")
    return {name: value for name, value in vars(api).items() if not name.startswith("_")}


def _is_submodule(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"{__name__}.{name}") is not None
