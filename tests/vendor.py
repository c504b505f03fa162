"""What the harness and the conformance suite must know of a provider, as plain data.

A provider is described by one `Vendor`. Its first half is enough to run jobs against a simulator;
the second half, from `actions` on, says what the conformance suite shall try, in the terms of the
vendor's own simulator. Whatever is left empty is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from job_folder import Row
from local_simulator import local_simulator

if TYPE_CHECKING:
    from harness import JobUnderTest

Rows = list[Row]
Behaviour = Mapping[str, Any]
"""How a simulator behaves: fields of `bulkcert.simulator.Behaviour`. A simulator of one's own must
know those that its vendor uses, and `faults_on`, the names of the requests that meet faults."""


class SimulatorView(Protocol):
    """What the harness needs of a simulator, wherever it runs."""

    @property
    def endpoint(self) -> str:
        """Its base URL."""

    @property
    def requests(self) -> int:
        """Number of requests so far."""

    def entries(self) -> list[Row]:
        """The ledger: one entry for each request that has ended, with `n` (its number), `at`,
        `action`, `device`, `certSn`, `executed`, `code`, `status` and `fault`."""

    def summary(self) -> Row:
        """Figures of the ledger; `open` is the number of requests that have not ended."""

    def certificates(self, device: str) -> Iterable[Any]:
        """The certificates of a device, each with `cert_sn` and `status`."""


@dataclass(frozen=True, kw_only=True)
class ActionCase:
    """An action, as the conformance suite must know it.

    Attributes:
        name: as in a job file.
        rows: makes this many rows of a target file.
        sends: the names, in the ledger, of the request of each step that changes or reads.
        look_up: the name of the request that looks up what an attempt did; empty for reading.
        before: makes the fleet in which nothing is as the action wants it, from the rows.
        done: makes the fleet in which everything is as the action wants it; None if there is none.
        already: what comes of it then: how the simulator behaves, and the outcome.
        wanted: the state of a row's certificate in the end; empty if the action leaves it alone.
        lookalike: makes a row of the fleet that must not be taken for this row of the target file.
        absent: the code for something that does not exist; None if that is what is wanted.
        not_executed: part of the message when a look-up has shown that nothing was executed.
        looks_first: it begins with a look-up, so what does not exist is never attempted.
    """

    name: str
    rows: Callable[[int], Rows]
    sends: tuple[str, ...]
    look_up: str = ""
    before: Callable[[Rows], Rows] = list
    done: Callable[[Rows], Rows] | None = None
    already: tuple[tuple[Behaviour, str], ...] = ()
    wanted: str = ""
    lookalike: Callable[[Row], Row] | None = None
    absent: int | str | None = None
    not_executed: str = ""
    looks_first: bool = False

    @property
    def changes(self) -> bool:
        """Whether it changes certificates."""
        return bool(self.look_up)


@dataclass(frozen=True, kw_only=True)
class FaultCase:
    """Faults that leave open whether a request was executed.

    Attributes:
        name: of the case.
        behaviour: how the simulator behaves; several faults may be mixed.
        rows: number of rows; enough for each fault to happen.
        kinds: the faults that must be in the ledger.
        on_attempts: only attempts have them, no other requests.
        tolerated: part of a violation that is none, because the fault looks like something else.
    """

    name: str
    behaviour: Behaviour
    rows: int
    kinds: frozenset[str]
    on_attempts: bool = False
    tolerated: str = ""


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """A provider.

    Attributes:
        name: as in a job file.
        credentials: the credentials that the simulator accepts, by environment variable.
        connection: keys of `[connection]` in addition to the endpoint.
        limits: keys of `[limits]`; high enough not to slow a test down.
        behaviour: how the simulator behaves unless a test says otherwise.
        simulator: runs a simulator in this process, for a behaviour and the file of what exists;
            yields a `SimulatorView`.
        checks: further checks for `JobUnderTest.violations`, besides the history checker.

        actions: the actions that the suite tries.
        success: the code of a request that was executed as asked.
        opening: names of the requests by which a run proves its credentials.
        faults: faults that leave something open.
        always_executed: faults, each met by every attempt, which is executed all the same.
        never_executed: faults, each met by every attempt, which is never executed.
        lookup_faults: faults of attempts and look-ups.
        late: some requests are executed after their time-out of half a second.
        outage: nothing works after the opening.
        refusals: the ways in which the simulator may refuse something that does not exist.
        throttles: the ways in which it may turn requests away.
        turned_away: whether an entry of the ledger was turned away.
        wait: six requests are too many at once, and the provider says to wait for one second.
        bad_credentials: changed credentials, and a part of the error's text.
        expiry: credentials expire in the middle of a run.
        expiry_stops: part of the error that this ends a run with; empty if the run continues.
        crash: requests take a while and some have faults, so that a killed run leaves doubts.
    """

    name: str
    credentials: Mapping[str, str]
    connection: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=lambda: {"requests_per_second": 5000})
    behaviour: Behaviour = field(default_factory=dict)
    simulator: Callable[[Behaviour, Path], AbstractAsyncContextManager[Any]] = local_simulator
    checks: tuple[Callable[[JobUnderTest], Iterable[str]], ...] = ()

    actions: tuple[ActionCase, ...] = ()
    success: int | str = 0
    opening: frozenset[str] = frozenset()
    faults: tuple[FaultCase, ...] = ()
    always_executed: tuple[str, ...] = ()
    never_executed: tuple[str, ...] = ()
    lookup_faults: Behaviour = field(default_factory=dict)
    late: Behaviour = field(default_factory=dict)
    outage: Behaviour = field(default_factory=dict)
    refusals: tuple[Behaviour, ...] = ()
    throttles: tuple[Behaviour, ...] = ()
    turned_away: Callable[[Row], bool] = lambda entry: entry["code"] == 429
    wait: Behaviour = field(default_factory=dict)
    bad_credentials: tuple[tuple[Mapping[str, str], str], ...] = ()
    expiry: Behaviour = field(default_factory=dict)
    expiry_stops: str = ""
    crash: Behaviour = field(default_factory=dict)
