"""Run a job as part of your own program, with progress in your own format.

    python examples/own_progress.py jobs/list-inventory.toml runs/inventory

Progress goes to standard output as one JSON object per line, for example for a log collector.
Ctrl-C stops in an orderly way; the same command continues. Nobody is asked for confirmation here: a
program that calls `execute` has decided to send.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import bulkcert


def show(event: bulkcert.Event) -> None:
    """Print an event. Called on the event loop, so it must not block for long."""
    match event:
        case bulkcert.Started(total, settled):
            line = {"event": "started", "operations": total, "already_settled": settled}
        case bulkcert.Progress():
            line = {
                "event": "progress",
                "settled": sum(event.settled.values()),
                "of": event.total,
                "requests_per_second": round(event.rate, 1),
                "delayed_by": event.note or None,
            }
        case bulkcert.Settled(outcome=bulkcert.Outcome.FAILED | bulkcert.Outcome.UNKNOWN):
            line = {
                "event": event.outcome,
                "target": event.target,
                "code": event.code,
                "message": event.message,
            }
        case bulkcert.Settled() | bulkcert.Detail():
            return  # one line for each operation that went well, or is retried, is too much
        case bulkcert.RunEvent():
            line = {"event": "log", **event.as_object()}
        case bulkcert.Notice(text):
            line = {"event": "notice", "text": text}
    print(json.dumps(line), flush=True)


async def carry_out(job_file: str, run_dir: str) -> int:
    """Run a job until it is finished or stopped, and return its exit code."""
    job = bulkcert.load_job(job_file)
    with bulkcert.Run(job, run_dir) as run:  # checks all targets; sends nothing
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, run.stop)
        summary = await run.execute(on_event=show)
    print(json.dumps({"event": "ended", **summary.as_object()}), flush=True)
    return summary.exit_code


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(carry_out(sys.argv[1], sys.argv[2])))
    except bulkcert.BulkcertError as error:  # its text says what to do
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
