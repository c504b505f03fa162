"""What tests of stores share."""

from __future__ import annotations

from typing import Any

from bulkcert.job import Connection, Limits
from bulkcert.store.manifest import RunManifest


def manifest(**changes: Any) -> RunManifest:
    """A manifest that differs from a usual one in these attributes."""
    usual: dict[str, Any] = {
        "name": "job",
        "provider": "enos",
        "action": "revoke",
        "rehearsal": False,
        "settings": {"connection.org_id": "o1", "parameters.reason": 1},
        "targets_sha256": "0" * 64,
        "repeated": 2,
        "adds_operations": True,
        "ceiling": 490.0,
        "connection": Connection(endpoint="https://example.com", options={"org_id": "o1"}),
        "limits": Limits(requests_per_second=490.0),
        "parameters": {"reason": 1},
    }
    return RunManifest(**usual | changes)
