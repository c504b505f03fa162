"""The times that several hosts agree on, all of them longer or shorter."""

from __future__ import annotations

import dataclasses

from bulkcert.timings import HostTimings

_OF_LEASES = ("ttl_s", "grace_s", "user_timeout_s", "beat_every_s", "stand_still_s", "kill_s")
_OF_COMMITS = (
    "idle_in_transaction_s",
    "statement_s",
    "answer_s",
    "claim_ahead_s",
    "commit_every_s",
)
_OF_OTHERS = ("watch_every_s", "lock_patience_s")


def scaled(factor: float) -> HostTimings:
    """The times of a run times a factor, but for those of slots: what must be true still is."""
    usual = HostTimings()
    names = (*_OF_LEASES, *_OF_COMMITS, *_OF_OTHERS)
    return dataclasses.replace(usual, **{name: getattr(usual, name) * factor for name in names})
