"""A stand-in for both vendors on loopback: one process, one port, and a ledger of all it did.

It imports nothing else of `bulkcert` and checks signatures by the vendors' own rules, so that a
mistake of the client can't hide behind the same mistake here.

    behaviour    every behaviour and fault as one field of one dataclass; the options are made of it
    clock        the one clock of arrivals
    window       limits on arrivals, and the busiest second
    faults       which fault a request meets: by seed and request, never by timing
    exchange     a request, the call in it, the reply to it: what server and services pass around
    ledger       every request in one line
    fleet_file   the file with the devices and certificates that exist
    enos/        the EnOS API: token service, certificates, products, certificate authority
    apsaramq/    ApsaraMQ for MQTT, the device-certificate actions of OnsMqtt
    delivery     putting a reply on the wire, well or badly
    server       the socket: arrival, limit, fault, answer, ledger

Use in a test:

    async with Simulator(Behaviour(error_after=0.2), fleet=path) as simulator:
        ...  # send requests to simulator.endpoint
        assert [entry["code"] for entry in simulator.ledger] == [0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkcert.simulator.behaviour import Behaviour

if TYPE_CHECKING:
    from bulkcert.simulator.server import Simulator

__all__ = ["Behaviour", "Simulator"]


def __getattr__(name: str) -> Any:
    """Import the server when it is asked for: `simulate --help` needs no network library."""
    if name == "Simulator":
        from bulkcert.simulator.server import Simulator

        return Simulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
