"""A run in a notebook, cell by cell. Editors open this file as a notebook, because of the `# %%`.

A notebook already runs an event loop, so `run.execute` is awaited at the top level; `asyncio.run`
would fail there. A run is also an ordinary file on disk: another terminal can watch it with
`bulkcert status`, and the command line can continue it.
"""

# %% Load a job. Every fault in it would be listed here.
import json
import os
from pathlib import Path

import bulkcert

job = bulkcert.load_job(Path("job.toml"))
print(f"{job.action.name}: at most {job.ceiling:g} requests in any second")

# %% Check all targets. Nothing is sent.
run_dir = Path("runs/notebook")
with bulkcert.Run(job, run_dir) as run:
    print(run.counts)

# %% Carry it out. If the kernel is interrupted, nothing recorded is lost: run the cell again.
credentials = bulkcert.credentials_from(os.environ, job.provider)


def show(event: bulkcert.Event) -> None:
    """Print how far the run is, and what needs attention."""
    if isinstance(event, bulkcert.Progress):
        print(f"{sum(event.settled.values()):,} of {event.total:,} {event.note}")
    elif isinstance(event, bulkcert.Notice):
        print(event.text)


with bulkcert.Run(job, run_dir) as run:
    summary = await run.execute(credentials, on_event=show)  # noqa: F704 - fine in a notebook
print(summary)

# %% Look at what failed. `pandas.DataFrame(results)` works, too.
results = [json.loads(line) for line in (run_dir / "results.jsonl").read_text().splitlines()]
failed = [result for result in results if result["outcome"] == "failed"]
print(f"{len(failed)} of {summary.total} failed")
