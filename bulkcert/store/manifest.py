"""What a run is about. Stored when the run is planned, read by everything that comes later.

This is the only place that turns it into JSON and back.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bulkcert.job import Connection, Limits
from bulkcert.model import FieldValue


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """What a run is about.

    Attributes:
        name: the job's name.
        provider, action: by name.
        rehearsal: the run is a rehearsal, which no real run may continue.
        settings: the job's other settings that may not change between two processes of one run,
            by dotted name.
        targets_sha256: digest of the target file.
        repeated: repeated rows of the target file; the operation is done once.
        left_out: bad rows of the target file, which were left out on request.
        extra_columns: columns of the target file that the job does not use, kept for the reports.
        adds_operations: the run may add operations to those that were planned (fan-out, next
            pages). They have the line number of their target, but later ids.
        ceiling: requests per second.
        connection, limits, parameters: those of the job, to read the devices back later. A user
            name and a password for a proxy are not kept.

    The last process to work on the run sets `ceiling`, `connection` and `limits`.
    """

    name: str
    provider: str
    action: str
    rehearsal: bool
    settings: Mapping[str, Any]
    targets_sha256: str
    repeated: int
    left_out: int
    extra_columns: tuple[str, ...] = ()
    adds_operations: bool
    ceiling: float
    connection: Connection
    limits: Limits
    parameters: Mapping[str, FieldValue]

    @property
    def what_is_done(self) -> dict[str, Any]:
        """Everything that may not change between two processes of one run, by dotted name."""
        return {
            "provider": self.provider,
            "action": self.action,
            "rehearsal": self.rehearsal,
            **self.settings,
        }

    def as_entries(self) -> dict[str, str]:
        """Return the entries to store: names with values in JSON.

        It is ASCII, because the name of a file need not be valid Unicode.
        """
        ca_file = self.connection.ca_file
        entries = {
            "name": self.name,
            "sha256": self.targets_sha256,
            "repeated": self.repeated,
            "left_out": self.left_out,
            "extra_columns": self.extra_columns,
            "adds_operations": self.adds_operations,
            "ceiling": self.ceiling,
            "what": self.what_is_done,
            "connection": dataclasses.asdict(self.connection)
            | {
                "ca_file": str(ca_file.absolute()) if ca_file else None,
                "proxy": self.connection.public_proxy,
            },
            "limits": dataclasses.asdict(self.limits),
            "parameters": dict(self.parameters),
        }
        return {name: json.dumps(value) for name, value in entries.items()}

    @classmethod
    def from_entries(cls, stored: Mapping[str, str]) -> Self:
        """Return the manifest that was stored as these entries."""
        entries = {name: json.loads(value) for name, value in stored.items()}
        settings = dict(entries["what"])
        connection = entries["connection"]
        return cls(
            name=entries["name"],
            provider=settings.pop("provider"),
            action=settings.pop("action"),
            rehearsal=settings.pop("rehearsal"),
            settings=settings,
            targets_sha256=entries["sha256"],
            repeated=entries["repeated"],
            left_out=entries["left_out"],
            extra_columns=tuple(entries.get("extra_columns", ())),
            adds_operations=entries["adds_operations"],
            ceiling=entries["ceiling"],
            connection=Connection(
                **connection
                | {
                    "ca_file": Path(connection["ca_file"]) if connection["ca_file"] else None,
                    "source_addresses": tuple(connection["source_addresses"]),
                }
            ),
            limits=Limits(**entries["limits"]),
            parameters=entries["parameters"],
        )
