"""The rules of a campaign as a rehearsal follows them: all of them, but without long waits. Pure.

A rehearsal calls nobody and waits for nobody: a wait lasts a second, `go` comes by itself, and no
outside check is run. A change window is for the real provider, so it is always open.
"""

from __future__ import annotations

from dataclasses import replace

from bulkcert.rules import Rules

WAIT_S = 1.0


def rehearsed(rules: Rules) -> Rules:
    """Return the rules for a rehearsal."""
    rollout = rules.rollout
    if rollout is not None:
        waits = rollout.between_s > 0 or rollout.confirm
        rollout = replace(rollout, between_s=WAIT_S if waits else 0.0, confirm=frozenset())
    return replace(rules, approval=None, rollout=rollout, check=None, window=None)
