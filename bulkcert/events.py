"""The events of a run, as the caller of `Run.execute` receives them.

An outcome is durable before its event is sent. A caller that fails on an event does not disturb the
run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bulkcert.model import State


@dataclass(frozen=True, slots=True)
class Started:
    """The provider accepted the credentials; operations are about to be sent.

    Attributes:
        total: operations of the run.
        settled: how many of them earlier processes settled.
    """

    total: int
    settled: int


class Settled(NamedTuple):
    """One operation has reached a final state.

    Attributes:
        operation_id: which operation.
        state: its final state.
        code: the code of the last response, as in the results.
        message: the message of the last response, as in the results.
    """

    operation_id: int
    state: State
    code: int | str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of the run, sent about twice a second.

    Attributes:
        total: operations of the run.
        settled: operations in each final state; every final state is a key.
        requests: all requests that this process has sent.
        rate: recent requests per second.
        note: what is delaying the run at the moment, for people; empty if nothing is.
        left_s: estimated seconds until the run is over, or None if there is no estimate.
    """

    total: int
    settled: Mapping[State, int]
    requests: int
    rate: float
    note: str
    left_s: float | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know at once, in one sentence."""

    text: str


Event = Started | Settled | Progress | Notice
"""Any event of a run."""

Listener = Callable[[Event], object]
"""What is called with every event."""


def shielded(listener: Listener) -> Listener:
    """Return a listener that never raises.

    What the given one raises goes to the event loop's exception handler, once: the next event would
    most likely have the same effect.
    """
    failed = False

    def call(event: Event) -> None:
        nonlocal failed
        try:
            listener(event)
        except Exception as error:
            if not failed:
                failed = True
                what = {"message": "a listener failed on an event", "exception": error}
                asyncio.get_running_loop().call_exception_handler(what)

    return call
