"""A stand-in for both vendors on loopback: one process, one port, and a ledger of all requests.

It imports nothing else of `bulkcert`, and checks signatures by the vendors' own rules, so that a
mistake in our clients can't hide behind the same mistake here.

    behaviour    each behaviour and fault as a field of one dataclass; the options come from it
    clock        the one clock of arrivals
    window       limits on arrivals, and the busiest second
    exchange     request, call and response: what the server and the vendors pass to each other
    faults       which fault a request meets; depends on the seed and the request, not on timing
    cache        an HTTP cache in front of the vendors
    fleet_file   the file with the devices and certificates that exist
    ledger       every request as one line
    delivery     sends a response, as it should be or as a fault wants it
    inspection   the pages under `/_simulator/`: ledger, summary, state of a device
    enos/        the EnOS API: tokens, certificates, products, certificate authorities
    apsaramq/    ApsaraMQ for MQTT: the actions on device certificates of the API OnsMqtt
    vendors      both vendors, without a network
    server       the path of a request: arrival, limit, fault, response, ledger

In a test:

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
    """Import the server on first use: `simulate --help` needs no network library."""
    if name == "Simulator":
        from bulkcert.simulator.server import Simulator

        return Simulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
