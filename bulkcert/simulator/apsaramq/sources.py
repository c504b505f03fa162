"""How much each source address sends, and which addresses are blocked.

In: arrivals, with their source address. Out: whether to let them in. The vendor blocks an address
that sends too much; how long, and what the address then sees, is not documented, so both are
options.
"""

from __future__ import annotations

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.window import SlidingWindow


class Sources:
    """All source addresses."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._windows: dict[str, SlidingWindow] = {}
        self._blocked_until_us: dict[str, int] = {}

    def blocks(self, source: str, action: str, at_us: int) -> bool:
        """Whether to keep out an arrival. The first one over the limit blocks its address."""
        behaviour = self._behaviour
        if at_us < self._blocked_until_us.get(source, 0):
            return True
        scope = f"{source}\0{action}" if behaviour.mq_source_scope == "api" else source
        window = self._windows.get(scope)
        if window is None:
            window = self._windows[scope] = SlidingWindow(behaviour.mq_source_limit)
        if window.admits(at_us):
            return False
        self._blocked_until_us[source] = at_us + int(behaviour.mq_block_for * SECOND_US)
        return True
