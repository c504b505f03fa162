"""A run in a shared store, as those see it who look for one."""

from __future__ import annotations

from typing import NamedTuple

from bulkcert.store.manifest import RunManifest


class StoredRun(NamedTuple):
    """One of the runs in a shared store.

    Attributes:
        name: its name.
        manifest: what it is about.
        begun: a request that changes something may have left.
        over: nothing is left to do.
        confirmed: a host has worked on it, so somebody has confirmed it.
        worked_on: a host works on it.
    """

    name: str
    manifest: RunManifest
    begun: bool
    over: bool
    confirmed: bool
    worked_on: bool
