"""A small run that was made by hand, its pack, and ways to change one.

In: a folder, and people with real keys. Out: a run directory with everything that evidence can be
made of, and packs as names and contents, which tests change and seal again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from approval_job import People
from stores import manifest

from bulkcert import event_log
from bulkcert.approval.signers import read_signers
from bulkcert.approval.statement import Statement
from bulkcert.event_log import FIRST, RunEvent
from bulkcert.evidence import NAMESPACE
from bulkcert.evidence.archive import FOLDER, ArchiveWriter
from bulkcert.evidence.check import Checked, check
from bulkcert.evidence.manifest import MANIFEST, SIGNATURE, SUMS, LastEvent, Manifest, Part
from bulkcert.evidence.pack import pack
from bulkcert.json_lines import utc
from bulkcert.model import Change, HistoryEntry, HistoryEvent, Outcome, State, Target
from bulkcert.plan_hash import PlanHash
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session, StoredApproval
from bulkcert.store.sqlite import SqlitePlan, SqliteStore

AT_S = 1_795_692_600.0
PACKER = "olga"
"""Who signs packs."""


def finished_run(
    folder: Path,
    people: People,
    *,
    name: str = "fleet",
    unfinished: bool = False,
    options: str = "",
    **changes: Any,
) -> RunDirectory:
    """Make a run of six operations that two people have approved.

    Args:
        folder: a new folder.
        people: who have keys.
        name: of the run.
        unfinished: leave one operation to do, and the process at work.
        options: of the keys in the signers file.
        changes: of its manifest, see `stores.manifest`.
    """
    directory = RunDirectory(folder)
    directory.create()
    lines = [people.line(each, options=options) for each in ("alice", "bob")]
    signers = "".join(f"{line}\n" for line in lines).encode()
    targets = SqlitePlan(directory.checkpoint)
    for number in range(1, 7):
        fields = {"assetId": f"A{number}", "certSn": 1000 + number}
        targets.add(Target(number + 1, fields, {"Site": f"{name} {number}"}), number)
    plan = PlanHash(
        {
            "targets": targets.targets()._asdict(),
            "action": {"provider": "enos", "action": "revoke"},
            "parameters": {"reason": 1},
            "connection": {"endpoint": "https://example.com", "org_id": name},
            "limits": {"in_flight": 1000},
            "approval": {
                "required": 2,
                "signers": f"sha256:{hashlib.sha256(signers).hexdigest()}",
                "valid_s": 86_400,
            },
        }
    )
    about = {"name": name, "plan": plan, "adds_operations": False, "extra_columns": ("Site",)}
    targets.finish(manifest(**about | changes))
    with closing(SqliteStore(directory.checkpoint)) as store, store.transaction():
        _approve(store, people, plan, signers)
        _work(store, unfinished)
        seen = b"".join(
            orjson.dumps({"line": line, "verdict": "agrees"}) + b"\n" for line in range(2, 8)
        )
        directory.verification.write_bytes(seen)
        digest = hashlib.sha256(seen).hexdigest()
        store.add_event(event_log.verified(AT_S + 90, 6, 0, 0, digest))
    return directory


def _approve(store: SqliteStore, people: People, plan: PlanHash, signers: bytes) -> None:
    for who in ("alice", "bob"):
        statement = str(
            Statement(
                facts={"Plan": plan.grouped, "Run": "1", "Action": "revoke"},
                plan=plan,
                approved_s=int(AT_S) - 60,
                expires_s=int(AT_S) + 3600,
            )
        ).encode()
        [fingerprint] = read_signers(signers_file(people, who)).names
        store.add_approval(
            StoredApproval(
                at=AT_S,
                abort="",
                who=who,
                key=fingerprint,
                expires_at=AT_S + 3600,
                statement=statement,
                signature=people.sign(who, statement),
                signers=signers,
            )
        )
        store.add_event(
            event_log.approved(
                AT_S,
                who=who,
                key=fingerprint,
                expires_at=AT_S + 3600,
                statement=statement,
                abort="",
            )
        )


def signers_file(people: People, who: str) -> Path:
    """A signers file with one person."""
    file = people.folder / f"{who}.signers"
    file.write_text(f"{people.line(who)}\n")
    return file


def _work(store: SqliteStore, unfinished: bool) -> None:
    store.add_event(
        event_log.started(
            AT_S + 1,
            process={"host": "ops1", "pid": 7, "user": "ann", "version": "0"},
            total=6,
            settled=0,
            ceiling=490.0,
            rehearsal=False,
            options=[],
        )
    )
    for operation in store.claim(5 if unfinished else 6):
        failed = operation.id == 3
        store.record(
            [
                Change(
                    operation_id=operation.id,
                    expected=State.IN_FLIGHT,
                    state=State.FAILED if failed else State.SUCCEEDED,
                    attempts=1,
                    code=99403 if failed else 0,
                    message="no permission" if failed else "OK",
                    request_id=f"r{operation.id}",
                    finished_at=AT_S + 2 + operation.id,
                )
            ]
        )
        store.add_history(
            [
                HistoryEntry(
                    operation.id,
                    HistoryEvent.ATTEMPT,
                    1,
                    AT_S + 2,
                    AT_S + 2 + operation.id,
                    "127.0.0.1",
                    "succeeded",
                    0,
                    "OK",
                    f"r{operation.id}",
                )
            ]
        )
    store.note_session(Session(AT_S + 1, AT_S + 60, requests=6, exit_code=1))
    if unfinished:
        return
    outcomes = {Outcome.SUCCEEDED: 5, Outcome.FAILED: 1}
    store.add_event(
        event_log.ended(
            AT_S + 60,
            1,
            "",
            outcomes,
            process={"host": "ops1", "pid": 7},
            requests=6,
            throttled=0,
            busiest_second=6,
        )
    )


class Pack:
    """The files of a pack, which a test can change.

    Args:
        path: the pack.

    Attributes:
        files: their content by name, in their order.
    """

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            self.files = {
                member.name.removeprefix(FOLDER): archive.extractfile(member).read()
                for member in archive
            }

    @property
    def manifest(self) -> Manifest:
        return Manifest.parse(self.files[MANIFEST])

    def json(self, name: str) -> Any:
        return orjson.loads(self.files[name])

    def lines(self, name: str) -> list[bytes]:
        return self.files[name].splitlines(keepends=True)

    def edit(self, name: str, before: bytes, after: bytes) -> None:
        """Replace a text that is there once or more."""
        assert before in self.files[name]
        self.files[name] = self.files[name].replace(before, after)

    def cut(self, name: str, lines: int = 1) -> None:
        """Remove the last lines of a file."""
        self.files[name] = b"".join(self.lines(name)[:-lines])

    def write(self, path: Path) -> Path:
        """Write it as it is."""
        buffer = io.BytesIO()
        with ArchiveWriter(buffer, last=True) as archive:
            for name, content in self.files.items():
                archive.add(name, len(content), io.BytesIO(content))
        path.write_bytes(buffer.getvalue())
        return path

    def seal(
        self, people: People, by: str = PACKER, namespace: str = NAMESPACE, **changes: Any
    ) -> None:
        """Make the digests right, and sign; the changes are those of the manifest."""
        head = (SUMS, SIGNATURE, MANIFEST)
        parts = {
            name: Part(hashlib.sha256(content).hexdigest(), len(content), content.count(b"\n"))
            for name, content in self.files.items()
            if name not in head
        }
        sealed = dataclasses.replace(self.manifest, **{"files": parts} | changes)
        sums = sealed.sums()
        signature = people.sign(by, sums, namespace)
        self.files |= dict(zip(head, (sums, signature, sealed.as_bytes()), strict=True))

    def chain(self, *changes: tuple[int, dict[str, Any]]) -> None:
        """Change events, and make the chain right again.

        Args:
            changes: the number of an event, and the fields that change.
        """
        previous, lines = FIRST, []
        for line in self.lines("events.jsonl"):
            event = RunEvent.parse(line.rstrip(b"\n"))
            changed = dict(changes).get(event.seq, {})
            event = event._replace(previous=previous, **changed)
            lines.append(event.line + b"\n")
            previous = event.hash
        self.files["events.jsonl"] = b"".join(lines)

    @property
    def last_event(self) -> Any:
        """The last event, as the manifest should have it."""
        last = RunEvent.parse(self.lines("events.jsonl")[-1].rstrip(b"\n"))
        return LastEvent(last.seq, utc(last.at), last.hash)


def packed(directory: RunDirectory, people: People, path: Path) -> Path:
    """Pack a run."""
    with closing(directory.reader()) as reader:
        pack(reader, directory, path, lambda sums: people.sign(PACKER, sums, NAMESPACE))
    return path


def checked(path: Path, people: People, *witnessed: str) -> Checked:
    """Check a pack; the signers file names only the packer."""
    return check(path, read_signers(signers_file(people, PACKER)), witnessed)
