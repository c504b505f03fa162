"""Bulk operations on device certificates: rate-limited, checkpointed, and never guessing.

How a target flows through the program, by module:

    jobfile/     the bytes of a job file     -> a checked job
    job          the checked job itself
    targets/     the rows of a target file   -> checked targets, or what is wrong with them
    plan         targets x action            -> operations, each once, in a checkpoint
    checkpoint/  the durable state of each operation
    dispatch     the worker pool: claim, wait, send, record, and settle or try again
    ratelimit    when may the next request leave?
    providers/   one request to a vendor     -> an answer, and what it means
    retry        answer                      -> settle, repeat or look
    circuit_breaker  is the provider still there?
    report       the checkpoint              -> results and summary
    values       one value of a file         -> parsed, or a reason why not; values in messages
    durable      files that are still there after the power has gone
    run          wires these stages together
    rehearsal, simulator/                    a stand-in for the vendors, on loopback
    cli/         one file for each command, callers of what is exported here

As a library:

    job = bulkcert.load_job("jobs/revoke.toml")
    with bulkcert.Run(job, Path("runs/revoke")) as run:
        credentials = bulkcert.credentials_from(os.environ, job.provider)
        summary = await run.execute(credentials, on_event=print)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkcert.credentials import credentials_from
    from bulkcert.errors import BulkcertError
    from bulkcert.events import Event, Notice, Progress, Settled, Started
    from bulkcert.job import Job
    from bulkcert.jobfile import load as load_job
    from bulkcert.model import Outcome, State
    from bulkcert.run import Run

__version__ = "0.1.0"

_HOMES = {
    "BulkcertError": "errors:BulkcertError",
    "Event": "events:Event",
    "Job": "job:Job",
    "Notice": "events:Notice",
    "Outcome": "model:Outcome",
    "Progress": "events:Progress",
    "Run": "run:Run",
    "Settled": "events:Settled",
    "Started": "events:Started",
    "State": "model:State",
    "credentials_from": "credentials:credentials_from",
    "load_job": "jobfile:load",
}

__all__ = [
    "BulkcertError",
    "Event",
    "Job",
    "Notice",
    "Outcome",
    "Progress",
    "Run",
    "Settled",
    "Started",
    "State",
    "credentials_from",
    "load_job",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `bulkcert --help` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name].split(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value
