"""A run in a notebook, cell by cell. Editors open this file as a notebook, because of the `# %%`.

A notebook already runs an event loop, so `run.execute` is awaited at the top level; `asyncio.run`
would fail there. A run is also an ordinary file on disk: another terminal can watch it with
`bulkcert status`, and the command line can continue it.
"""

# %% Load a job. Every fault in it would be listed here.
import bulkcert

job = bulkcert.load_job("job.toml")
job  # noqa: B018 - a notebook shows it

# %% Check all targets. Nothing is sent.
run = bulkcert.Run(job)
with run:
    print(run)


# %% Carry it out. Interrupt the kernel to stop it in order; run the cell again to continue.
def show(event: bulkcert.Event) -> None:
    """Print how far the run is, and what needs attention."""
    if isinstance(event, bulkcert.Progress):
        print(f"{sum(event.settled.values()):,} of {event.total:,} {event.note}", end="\r")
    elif isinstance(event, bulkcert.Notice):
        print(event.text)


with run:
    summary = await run.execute(on_event=show)  # noqa: F704 - fine in a notebook
print(summary)

# %% Look at what failed. `pandas.DataFrame(results)` works, too.
results = list(bulkcert.results(run.directory, "failed"))
print(f"{len(results)} of {summary.total} failed")
