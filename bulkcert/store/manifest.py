"""What a run is about. Stored when the run is planned, read by everything that comes later.

This is the only place that turns it into JSON and back.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bulkcert.job import Connection, Limits
from bulkcert.model import FieldValue
from bulkcert.plan_hash import PlanHash


def called(name: str, *, rehearsal: bool = False, number: int = 1) -> str:
    """The name of a run, which is also that of its directory.

    Args:
        name: that of its job.
        rehearsal: it is a rehearsal.
        number: which run of the job it is.
    """
    if rehearsal:
        return f"{name}-rehearsal"
    return f"{name}-{number}" if number > 1 else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Amended:
    """A change of the limits and rules of a run.

    Attributes:
        at: Unix time in seconds.
        who: the user and the machine.
        before: the hash of the plan until then.
        changes: what has changed, one phrase each.
    """

    at: float
    who: str
    before: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """What a run is about.

    Attributes:
        name: the job's name.
        rehearsal: the run is a rehearsal, which no real run may continue.
        plan: what identifies the plan that the run carries out, as it was planned or amended.
        number: which run of the job it is, from 1.
        run_id: a random text that no other run has.
        amendments: how the plan was changed since it was planned.
        planned_at: Unix time in seconds: what "now" is for a selection.
        reading: the settings of the job that say how the target file is read, by dotted name.
        targets_sha256: digest of the target file.
        repeated: repeated rows of the target file; the operation is done once.
        left_out: rows of the target file that were left out on request.
        protected: those of them that must not be touched; the others are bad.
        shapes: the combinations of fields that the targets have, to know what can be compared with
            them; empty in what earlier versions stored.
        extra_columns: columns of the target file that the job does not use, kept for the reports.
        adds_operations: the run may add operations to those that were planned (fan-out, next
            pages). They have the line number of their target, but later ids.
        ceiling: requests per second.
        connection, limits: those of the job, to read the devices back later. A user name and a
            password for a proxy are not kept.
        deadline_s: when the run must be over, as Unix time; None for no deadline.

    The last process to work on the run sets `ceiling`, `connection`, `limits` and `deadline_s`; the
    limits may be lower than those of the plan.
    """

    name: str
    rehearsal: bool
    plan: PlanHash
    number: int = 1
    run_id: str = field(default_factory=lambda: os.urandom(16).hex())
    amendments: tuple[Amended, ...] = ()
    planned_at: float = field(default_factory=time.time)
    reading: Mapping[str, Any]
    targets_sha256: str
    repeated: int
    left_out: int
    protected: int = 0
    shapes: tuple[tuple[str, ...], ...] = ()
    extra_columns: tuple[str, ...] = ()
    adds_operations: bool
    ceiling: float
    connection: Connection
    limits: Limits
    deadline_s: float | None = None

    @property
    def run(self) -> str:
        """The name of the run."""
        return called(self.name, rehearsal=self.rehearsal, number=self.number)

    @property
    def provider(self) -> str:
        """The provider, by name."""
        return str(self.plan.contents["action"]["provider"])

    @property
    def action(self) -> str:
        """The action, by name."""
        return str(self.plan.contents["action"]["action"])

    @property
    def parameters(self) -> Mapping[str, FieldValue]:
        """Fields that apply to every target."""
        return self.plan.contents.get("parameters", {})

    @property
    def approvals_required(self) -> int:
        """How many people must approve the plan, and going on after an abort; 0 for none."""
        approval = {} if self.rehearsal else self.plan.contents.get("approval", {})
        return int(approval.get("required", 0))

    def as_entries(self) -> dict[str, str]:
        """Return the entries to store: names with values in JSON.

        It is ASCII, because the name of a file need not be valid Unicode.
        """
        ca_file = self.connection.ca_file
        entries = {
            "name": self.name,
            "rehearsal": self.rehearsal,
            "plan": dict(self.plan.contents),
            "number": self.number,
            "run_id": self.run_id,
            "amendments": [dataclasses.asdict(each) for each in self.amendments],
            "planned_at": self.planned_at,
            "reading": dict(self.reading),
            "sha256": self.targets_sha256,
            "repeated": self.repeated,
            "left_out": self.left_out,
            "protected": self.protected,
            "shapes": self.shapes,
            "extra_columns": self.extra_columns,
            "adds_operations": self.adds_operations,
            "ceiling": self.ceiling,
            "connection": dataclasses.asdict(self.connection)
            | {
                "ca_file": str(ca_file.absolute()) if ca_file else None,
                "proxy": self.connection.public_proxy,
            },
            "limits": dataclasses.asdict(self.limits),
            "deadline_s": self.deadline_s,
        }
        return {name: json.dumps(value) for name, value in entries.items()}

    @classmethod
    def from_entries(cls, stored: Mapping[str, str]) -> Self:
        """Return the manifest that was stored as these entries."""
        entries = {name: json.loads(value) for name, value in stored.items()}
        connection = entries["connection"]
        return cls(
            name=entries["name"],
            rehearsal=entries["rehearsal"],
            plan=PlanHash(entries["plan"]),
            number=entries["number"],
            run_id=entries["run_id"],
            amendments=tuple(
                Amended(**each | {"changes": tuple(each["changes"])})
                for each in entries.get("amendments", ())
            ),
            planned_at=entries["planned_at"],
            reading=entries["reading"],
            targets_sha256=entries["sha256"],
            repeated=entries["repeated"],
            left_out=entries["left_out"],
            protected=entries.get("protected", 0),
            shapes=tuple(map(tuple, entries.get("shapes", ()))),
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
            deadline_s=entries["deadline_s"],
        )
