"""The history checker: did a run keep its promises?

In: the simulator's ledger, the job with its target file, and the run directory. Out: a list of
violations, each with the operation's name; empty for a run that kept all promises. It is the oracle
of every test above unit level, so it uses no code of `bulkcert`: it reads the checkpoint as a
SQLite file, and the target file as CSV or JSON lines. A run of several hosts has its rows in a
shared store, and a run directory on each host: see `read_shared`.

    python tests/history.py JOB RUN_DIR [LEDGER]       LEDGER defaults to RUN_DIR/ledger.jsonl

What is checked, by the invariants of the design:

    ceiling            in every rolling second of arrivals, and in the busiest second of departures
    nothing lost       every target is in checkpoint and results once; the counts add up everywhere
    outcomes           succeeded <=> executed, as far as the run can know
    never guess        a step that is not idempotent is never executed twice, and not repeated
                       without a look-up
    nothing repeated   nothing is sent after its response was recorded, or arrived in full
    certificates       each certificate in the results was issued, and its key is there
    intent first       at least as many attempts are recorded as the ledger has requests
    history            each attempt and look-up in the ledger is in the history table, unless its
                       process died; and each one there that got a response is in the ledger
    secrets            are in no file of the run directory
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import io
import itertools
import json
import sqlite3
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

Entry = dict[str, Any]
"""A line of the ledger, an operation, a session or a result."""

OUTCOMES = {
    "planned": "pending",
    "in_flight": "unknown",
    "succeeded": "succeeded",
    "already_done": "already_done",
    "failed": "failed",
    "flawed": "failed",
    "unknown": "unknown",
}
"""Outcome by state."""

IDENTITY = ("assetId", "productKey", "deviceKey", "certSn", "CaSn", "DeviceSn")
"""Fields that identify an operation, in the ledger's order."""

CREDENTIALS = ("simulator-key", "simulator-secret", "simulator-id", "APIMTOKEN-")
"""Credentials that the simulator accepts or issues."""

SECRETS = (
    *CREDENTIALS,
    "apim-accesstoken",
    "apim-signature",
    "Authorization:",
    "ACS3-HMAC-SHA256",
)
"""Text that no file may contain: credentials, and the headers that carry them."""

ACCOUNT_REFUSED = {99403, "NoPermission", "Forbidden.RAM", "MqttOwnerCheckError"}
"""Codes with which a whole account may be refused. Then what was refused counts for nothing."""

NO_OPERATION = {"token.get", "token.refresh", "products.get", "cacert", "crl"}
"""Requests of a run that belong to no operation."""

CAMPAIGN_TABLES = {
    "waves": "number",
    "settled": "id",
    "aborts": "number",
    "controls": "id",
    "events": "seq",
}
"""The tables of the checkpoint that say what the rules of a campaign did, and their order."""

PROTECTED = "PROTECTED"
"""The code of an operation that failed because it must never be touched."""

UNKNOWN_TO_ONE = 100
"""Requests that other hosts may have sent when one of them writes its last report."""

QUESTION = "CaSn=0&DeviceSn=0"
"""The device that a run of apsaramq looks up to check its credentials; it need not exist."""


@dataclass(frozen=True)
class Rules:
    """What an action consists of, in the terms of the ledger.

    Attributes:
        sends: the requests of its steps, in order.
        look: the request that settles a doubt.
        needed: the request that must have been executed for the operation to be succeeded; None for
            an action that only reads.
        decisive: once this request is executed, the operation can't be failed or pending.
        unrepeatable: the requests of `sends` that must not be repeated without a look-up, nor sent
            before one.
    """

    sends: tuple[str, ...]
    look: str
    needed: str | None
    decisive: str | None
    unrepeatable: frozenset[str] = frozenset()


def changing(send: str, look: str) -> Rules:
    return Rules((send,), look, send, send)


def reading(send: str) -> Rules:
    return Rules((send,), send, None, None)


ACTIONS = {
    ("enos", "revoke"): changing("revoke", "list"),
    ("enos", "renew"): Rules(("renew",), "list", "renew", "renew", frozenset({"renew"})),
    ("enos", "rotate"): Rules(("renew", "revoke"), "list", "renew", "revoke", frozenset({"renew"})),
    ("enos", "list"): reading("list"),
    ("apsaramq", "inactivate"): changing("InactivateDeviceCertificate", "GetDeviceCertificate"),
    ("apsaramq", "activate"): changing("ActiveDeviceCertificate", "GetDeviceCertificate"),
    ("apsaramq", "delete"): changing("DeleteDeviceCertificate", "GetDeviceCertificate"),
    ("apsaramq", "get"): reading("GetDeviceCertificate"),
}
"""By provider and action. A new action is one line here."""


IDENTIFIERS = [("CaSn", "DeviceSn"), ("assetId", "productKey", "deviceKey")]
"""The fields that identify a device, by vendor. A new vendor is one entry here."""

SERIALS = ["certSn", "DeviceSn"]
"""The fields that identify a certificate of a device."""


class Key(NamedTuple):
    """What an operation acts on, as the ledger names it."""

    device: str
    serial: str

    def __str__(self) -> str:
        return f"{self.device} {self.serial}".rstrip()


@dataclass
class History:
    """Everything that is known about one run, as plain data.

    Attributes:
        job: the job file as a document.
        targets: the rows of the target file in order, as (line, fields by the provider's names).
        ledger: its entries, in order of arrival.
        operations: rows of the checkpoint in target order, with `fields` decoded.
        sessions: the figures that each process recorded in the checkpoint, oldest first.
        events: rows of the checkpoint's history table, oldest first.
        results, summary: the reports; None if there are none.
        files: content of every file in the run directory, by name.
        held_before: operations whose wanted state held before anything was sent.
        tables: rows of the checkpoint's tables about the campaign, by `CAMPAIGN_TABLES`.
        never: what must never be touched: the identifying columns of each entry.
    """

    job: dict[str, Any]
    targets: list[tuple[int, dict[str, Any]]]
    ledger: list[Entry]
    operations: list[Entry]
    sessions: list[Entry]
    events: list[Entry]
    results: list[Entry] | None
    summary: Entry | None
    files: dict[str, bytes]
    held_before: set[Key] = field(default_factory=set)
    tables: dict[str, list[Entry]] = field(
        default_factory=lambda: {name: [] for name in CAMPAIGN_TABLES}
    )
    never: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the checker can't see for itself.

    Attributes:
        earlier: number of entries at the start of the ledger that are older than the run.
        over: the run is finished, so nothing may be left to do.
        died: a process of the run died, so its last figures are missing.
        reported: the last process ended by itself, so the reports must agree with the checkpoint.
        retried: `--retry-failed` was used, which counts attempts from 0 again.
        jitter: number of arrivals above the ceiling that are blamed on the network: requests that
            were sent evenly bunch up on their way, most of all if a side was paused for a while.
        clock_slack_s: maximum difference between the clocks of run and simulator, in seconds.
        secrets: text that no file may contain.
    """

    earlier: int = 0
    over: bool = True
    died: bool = False
    reported: bool = True
    retried: bool = False
    jitter: int = 0
    clock_slack_s: float = 0.05
    secrets: Sequence[str] = SECRETS


# ---- reading


def read(
    job: Path,
    run_dir: Path,
    ledger: Path,
    *,
    targets: Path | None = None,
    fleet: Path | None = None,
) -> History:
    """Collect the history of a run.

    Args:
        job: the job file.
        run_dir: the run directory; no process may be working in it.
        ledger: the simulator's complete ledger.
        targets: the target file, if it is not the job's.
        fleet: the simulator's fleet, if some devices were in the wanted state from the start.
    """
    document = tomllib.loads(job.read_text("utf-8-sig"))
    rows = list(read_rows(targets or job.parent / document["targets"]))
    columns = document.get("columns", {})
    operations, sessions, events, tables = _read_checkpoint(run_dir / "checkpoint.sqlite3")
    results, summary = run_dir / "results.jsonl", run_dir / "summary.json"
    return History(
        job=document,
        targets=[(line, _renamed(row, columns)) for line, row in rows],
        ledger=sorted(map(json.loads, ledger.read_bytes().splitlines()), key=lambda e: e["n"]),
        operations=operations,
        sessions=sessions,
        events=events,
        results=_json_lines(results.read_bytes()) if results.exists() else None,
        summary=json.loads(summary.read_bytes()) if summary.exists() else None,
        files={
            str(path.relative_to(run_dir)): path.read_bytes()
            for path in sorted(run_dir.rglob("*"))
            if path.is_file()
        },
        held_before=_held_before(fleet, document, rows) if fleet else set(),
        tables=tables,
        never=_never(job.parent, document),
    )


def read_shared(
    job: Path,
    store: str,
    run: str,
    run_dirs: Sequence[Path],
    ledger: Sequence[Entry],
    *,
    fleet: Path | None = None,
) -> History:
    """Collect the history of a run on several hosts.

    Args:
        job: the job file.
        store: the URL of the shared store.
        run: the name of the run there.
        run_dirs: the run directories of the hosts; the reports are those of the first.
        ledger: the simulator's complete ledger of this run.
        fleet: the simulator's fleet, if some devices were in the wanted state from the start.
    """
    document = tomllib.loads(job.read_text("utf-8-sig"))
    rows = list(read_rows(job.parent / document["targets"]))
    columns = document.get("columns", {})
    operations, sessions, events, tables = _read_store(store, run)
    results, summary = run_dirs[0] / "results.jsonl", run_dirs[0] / "summary.json"
    return History(
        job=document,
        targets=[(line, _renamed(row, columns)) for line, row in rows],
        ledger=sorted(ledger, key=lambda entry: entry["n"]),
        operations=operations,
        sessions=sessions,
        events=events,
        results=_json_lines(results.read_bytes()) if results.exists() else None,
        summary=json.loads(summary.read_bytes()) if summary.exists() else None,
        files={
            str(path.relative_to(run_dir)): path.read_bytes()
            for run_dir in run_dirs
            for path in sorted(run_dir.rglob("*"))
            if path.is_file()
        },
        held_before=_held_before(fleet, document, rows) if fleet else set(),
        tables=tables,
        never=_never(job.parent, document),
    )


def _read_store(
    store: str, run: str
) -> tuple[list[Entry], list[Entry], list[Entry], dict[str, list[Entry]]]:
    """The same as `_read_checkpoint`, from PostgreSQL: codes are JSON there."""
    import psycopg  # only where there is a shared store
    from psycopg.rows import dict_row

    def select(table: str, order: str) -> list[Entry]:
        statement = f"SELECT * FROM bulkcert.{table} WHERE run = %s ORDER BY {order}"
        rows = db.execute(statement, (number,)).fetchall()
        for row in rows:
            if row.get("code") is not None:
                row["code"] = json.loads(row["code"])
        return rows

    with psycopg.connect(store, autocommit=True, row_factory=dict_row) as db:
        found = db.execute("SELECT id FROM bulkcert.run WHERE name = %s", (run,)).fetchone()
        assert found is not None, f"the store has no run {run!r}"
        number = found["id"]
        operations = select("operation", "line, id")
        sessions = [json.loads(row["figures"]) for row in select("session", "number")]
        events = select("history", "id")
        tables = {
            name: select("settled" if name == "settled" else name.removesuffix("s"), order)
            for name, order in CAMPAIGN_TABLES.items()
        }
    for operation in operations:
        operation["fields"] = json.loads(operation["fields"])
        operation["result"] = json.loads(operation["result"] or "null")
    return operations, sessions, events, tables


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a good target file, each with the line on which it starts."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        text = file.read().decode("utf-8-sig")
    if text.lstrip().startswith("{"):
        for line, content in enumerate(text.split("\n"), 1):
            if content.strip():
                yield line, json.loads(content)
        return
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = [name.strip() for name in next(reader)]
    before = reader.line_num
    for cells in reader:
        if cells:
            named = dict(zip(header, cells, strict=True))
            yield before + 1, {name: cell for name, cell in named.items() if cell.strip()}
        before = reader.line_num


def _renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    names = {header: name for name, header in columns.items()}
    return {names.get(header, header): value for header, value in row.items()}


def _read_checkpoint(
    path: Path,
) -> tuple[list[Entry], list[Entry], list[Entry], dict[str, list[Entry]]]:
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as db:
        db.row_factory = sqlite3.Row
        operations = [dict(row) for row in db.execute("SELECT * FROM operations ORDER BY line, id")]
        sessions = [dict(row) for row in db.execute("SELECT * FROM sessions ORDER BY id")]
        events = [dict(row) for row in db.execute("SELECT * FROM history ORDER BY id")]
        tables = {
            name: [dict(row) for row in db.execute(f"SELECT * FROM {name} ORDER BY {order}")]
            for name, order in CAMPAIGN_TABLES.items()
        }
    db.close()
    for operation in operations:
        operation["fields"] = json.loads(operation["fields"])
        operation["result"] = json.loads(operation["result"] or "null")
    return operations, sessions, events, tables


def _json_lines(content: bytes) -> list[Entry]:
    return [json.loads(line) for line in content.splitlines()]


def _never(folder: Path, document: dict[str, Any]) -> list[dict[str, str]]:
    name = document.get("protect", {}).get("never")
    if name is None:
        return []
    entries = (row for _, row in read_rows(folder / name))
    return [{n: str(v) for n, v in row.items() if n in IDENTITY} for row in entries]


def is_protected(fields: dict[str, Any], never: Sequence[dict[str, str]]) -> bool:
    """Whether one of these entries is about what these fields identify."""
    return any(
        entry
        and all(
            name in fields and fnmatch.fnmatchcase(str(fields[name]).strip(), pattern)
            for name, pattern in entry.items()
        )
        for entry in never
    )


def _held_before(
    fleet: Path, document: dict[str, Any], rows: list[tuple[int, dict[str, Any]]]
) -> set[Key]:
    """The operations whose wanted state held from the start."""
    there = {key_of(row): row for _, row in read_rows(fleet)}
    if document["action"] == "delete":
        return {key_of(row) for _, row in rows} - there.keys()
    names = {"revoke": ("certStatus", "0", "1"), "inactivate": ("Status", "1", "0")}
    names["activate"] = ("Status", "1", "1")
    name, usual, wanted = names.get(document["action"], ("", "", "never"))
    return {key for key, row in there.items() if str(row.get(name, usual)) == wanted}


def key_of(fields: dict[str, Any]) -> Key:
    """The name that the ledger uses for what these fields identify."""
    names = next((way for way in IDENTIFIERS if any(name in fields for name in way)), ())
    device = "&".join(f"{name}={fields[name]}" for name in names if name in fields)
    serials = (fields[name] for name in SERIALS if name in fields)
    return Key(device, str(next(serials, "")))


# ---- checking


def check(history: History, circumstances: Circumstances = Circumstances()) -> list[str]:
    """List everything that should not have happened; empty if the run kept its promises."""
    return list(_Checker(history, circumstances).violations())


class _Checker:
    def __init__(self, history: History, circumstances: Circumstances) -> None:
        self._history = history
        self._given = circumstances
        self._rules = ACTIONS[history.job["provider"], history.job["action"]]
        self._shared = any("owner" in operation for operation in history.operations)
        self._requests = [e for e in history.ledger if e["n"] > circumstances.earlier]
        self._by_key = _grouped(self._requests, self._rules.sends)
        self._looks = _grouped(self._requests, (self._rules.look,))
        self._executed_ever = {
            (entry["action"], Key(entry["device"], _serial(entry)))
            for entry in history.ledger
            if entry["executed"]
        }
        parameters = history.job.get("parameters", {})
        self._keys = {
            operation["id"]: key_of(parameters | operation["fields"])
            for operation in history.operations
        }

    def violations(self) -> Iterator[str]:
        yield from self._targets()
        yield from self._reports()
        yield from self._figures()
        yield from self._ceiling()
        yield from self._unexpected_requests()
        yield from self._secrets()
        yield from self._recorded_requests()
        for operation in self._history.operations:
            key = self._keys[operation["id"]]
            for violation in itertools.chain(
                self._outcome(operation, key),
                self._repeats(key),
                self._late(operation, key),
                self._contradictions(operation),
                self._attempts(operation, key),
                self._certificates(operation, key),
            ):
                yield f"line {operation['line']}, {key}: {violation}"

    # -- nothing lost

    def _targets(self) -> Iterator[str]:
        """Every row is in the checkpoint once; of repeated rows, the first one."""
        first_lines: dict[tuple[str, ...], int] = {}
        for line, fields in self._history.targets:
            if is_protected(fields, self._history.never):
                continue  # left out, see --skip-protected
            first_lines.setdefault(_identity(fields), line)
        wanted = {line: identity for identity, line in first_lines.items()}
        selects = "select" in self._history.job
        found = Counter(operation["line"] for operation in self._history.operations)
        for line, identity in wanted.items():
            if not found[line]:
                yield f"line {line}, {' '.join(identity)}: is not in the checkpoint"
            elif found[line] > 1 and not selects:
                yield f"line {line}, {' '.join(identity)}: is in the checkpoint {found[line]} times"
        for operation in self._history.operations:
            identity = wanted.get(operation["line"])
            own = _identity(operation["fields"])
            if identity is None:
                yield f"line {operation['line']}, {' '.join(own)}: is not in the target file"
            elif not (set(identity) <= set(own) if selects else identity == own):
                yield (
                    f"line {operation['line']}: {' '.join(identity)} in the target file"
                    f" is {' '.join(own)} in the checkpoint"
                )
        for key, count in Counter(self._keys.values()).items():
            if count > 1:
                yield f"{key}: is in the checkpoint {count} times"

    def _reports(self) -> Iterator[str]:
        """Results, summary and checkpoint agree."""
        if not self._given.reported:
            return
        history = self._history
        expected = [_as_result(operation) for operation in history.operations]
        if history.results is None or history.summary is None:
            yield "there are no reports"
            return
        if len(history.results) != len(expected):
            yield (
                f"results.jsonl has {len(history.results)} lines,"
                f" the checkpoint {len(expected)} operations"
            )
        for reported, known in zip(history.results, expected, strict=False):
            if reported != known:
                names = [name for name in known if reported.get(name) != known[name]]
                yield (
                    f"line {known['line']}: results.jsonl and checkpoint differ in"
                    f" {', '.join(names) or 'keys'}"
                )
        outcomes = Counter(result["outcome"] for result in expected)
        figures: dict[str, Any] = {
            name: outcomes[name] for name in dict.fromkeys(OUTCOMES.values())
        }
        figures |= {
            "total": len(expected),
            "attempts": sum(operation["attempts"] for operation in history.operations),
            "exit_code": self._exit_code(outcomes),
        }
        for name in ("requests", "throttled"):
            figures[name] = sum(session[name] for session in history.sessions)
            # of several hosts, each reports what it knew when it ended
            if self._shared and 0 <= figures[name] - history.summary.get(name, 0) <= UNKNOWN_TO_ONE:
                del figures[name]
        for name, value in figures.items():
            if history.summary.get(name) != value:
                yield f"summary.json: {name} is {history.summary.get(name)}, should be {value}"

    def _exit_code(self, outcomes: Counter[str]) -> int:
        states = {operation["state"] for operation in self._history.operations}
        if any(abort["overridden_at"] is None for abort in self._history.tables["aborts"]):
            return 4
        if states & {"planned", "in_flight"}:
            return 3
        left_out = (self._history.summary or {}).get("left_out", 0)
        return 1 if outcomes["failed"] + outcomes["unknown"] + left_out else 0

    def _figures(self) -> Iterator[str]:
        """The figures that the processes recorded agree with the ledger."""
        if self._given.died:
            return
        noted = sum(session["requests"] for session in self._history.sessions)
        # a process that never got a token may record nothing
        sent = sum(not entry["action"].startswith("token.") for entry in self._requests)
        if noted < sent:
            yield f"the sessions recorded {noted} requests, the ledger has {sent}"
        throttled = sum(session["throttled"] for session in self._history.sessions)
        # a redirect slows a run down as well, and so does a 503 that says how long to wait
        slows = [
            _throttled(e) or e["code"] == 302 or e.get("status") == 503 for e in self._requests
        ]
        turned_away = sum(slows)
        if throttled > turned_away:
            yield f"the sessions recorded {throttled} throttled responses, the ledger {turned_away}"

    # -- ceiling

    def _ceiling(self) -> Iterator[str]:
        limits = self._history.job.get("limits", {})
        ceiling = max(1, int(limits.get("requests_per_second", 500)))
        arrivals = sorted(entry["at"] for entry in self._requests)
        most, when = busiest_second(arrivals)
        if most > ceiling + self._given.jitter:
            yield f"{most} requests arrived in the second from {when:.6f}; the ceiling is {ceiling}"
        for session in self._history.sessions:
            most = session["busiest_second"]
            if most > ceiling:
                yield f"{most} requests left in a second; the ceiling is {ceiling}"

    # -- only what was asked for

    def _unexpected_requests(self) -> Iterator[str]:
        keys = set(self._keys.values())
        devices = {key.device for key in keys}
        for entry in self._requests:
            key = Key(entry["device"], _serial(entry))
            if entry["action"] in self._rules.sends and self._rules.needed:
                allowed = key in keys
            elif entry["action"] in {self._rules.look, *self._rules.sends}:
                allowed = key.device in devices or key.device == QUESTION
            else:
                allowed = entry["action"] in NO_OPERATION
            if not allowed:
                yield f"request {entry['n']}: {entry['action']} of {key} belongs to no operation"

    def _secrets(self) -> Iterator[str]:
        for name, content in self._history.files.items():
            for secret in secrets_in(content, self._given.secrets):
                yield f"{name}: contains {secret!r}"

    # -- history

    def _recorded_requests(self) -> Iterator[str]:
        """The history table has each request of an operation, and no other that got a response.

        A device is looked up as a whole, so all its operations are taken together.
        """
        operations: defaultdict[str, list[int]] = defaultdict(list)
        for id_, key in self._keys.items():
            operations[key.device].append(id_)
        events: defaultdict[int, list[Entry]] = defaultdict(list)
        for event in self._history.events:
            events[event["operation"]].append(event)
        requests: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self._requests:
            kind = "attempt" if entry["action"] in self._rules.sends else "look_up"
            if kind == "attempt" or entry["action"] == self._rules.look:
                requests[kind, entry["device"]].append(entry)
        for device, ids in operations.items():
            of_device = [event for id_ in ids for event in events[id_]]
            for kind in ("attempt", "look_up"):
                sent = [e for e in of_device if e["event"] == kind and e["sent_at"] is not None]
                unrecorded, unknown = self._unmatched(requests[kind, device], sent)
                for entry in unrecorded:
                    if not self._lost_in_a_death(entry, ids, of_device):
                        yield (
                            f"{device}: {entry['action']} (request {entry['n']})"
                            " is not in the history"
                        )
                for event in unknown:  # without a response it may have been lost on its way
                    yield (
                        f"{device}: {kind} {event['attempt']} of the history got"
                        f" {event['code']}, but is not in the ledger"
                    )

    def _unmatched(
        self, entries: list[Entry], events: list[Entry]
    ) -> tuple[list[Entry], list[Entry]]:
        """The requests without an event of their own that covers their arrival, and vice versa for
        the events that got a response."""
        slack_s = self._given.clock_slack_s

        def covers(event: Entry, entry: Entry) -> bool:
            at: float = entry["at"]
            return bool(event["sent_at"] <= at + slack_s and event["ended_at"] >= at - slack_s)

        answered = [event for event in events if event["code"] is not None]
        return (
            without_partner(entries, events, lambda entry, event: covers(event, entry)),
            without_partner(answered, entries, covers),
        )

    def _lost_in_a_death(self, entry: Entry, ids: list[int], events: list[Entry]) -> bool:
        """Whether the process died before it recorded a response: then the operation is still to be
        settled, or a later process has taken it over. A look-up that comes before all attempts
        leaves nothing in doubt, so the later process just makes it again."""
        if not self._given.died:
            return False
        states = {o["state"] for o in self._history.operations if o["id"] in ids}
        if states & {"planned", "in_flight"}:
            return True
        signs = (
            {"taken_over"} if entry["action"] in self._rules.sends else {"taken_over", "look_up"}
        )
        reached_at = entry["at"] - self._given.clock_slack_s
        return any(e["event"] in signs and e["ended_at"] >= reached_at for e in events)

    # -- outcomes

    def _outcome(self, operation: Entry, key: Key) -> Iterator[str]:
        state, rules = operation["state"], self._rules
        if self._given.over and state in {"planned", "in_flight"}:
            yield f"is {state}, but the run is finished"
        if state in {"planned", "in_flight"} and operation["finished_at"] is not None:
            yield f"is {state}, but has a finishing time"
        if rules.needed is None:
            device = key.device
            answered = any(e["code"] in {0, "OK"} for e in self._looks[Key(device, "")])
            if state == "succeeded" and not (answered or self._answered(key)):
                yield "is succeeded, but no request for it got a response"
            return
        if state == "succeeded" and not self._held(key, rules.needed):
            yield "is succeeded, but was not executed"
        if state == "already_done" and key.serial:
            if any(e["executed"] for e in self._by_key[key] if e["action"] == rules.decisive):
                yield "is already_done, but was executed by this run"
            elif not self._held(key, rules.needed):
                yield "is already_done, but was never executed"
        if state in {"failed", "planned"} and any(
            e["executed"] for e in self._by_key[key] if e["action"] == rules.decisive
        ):
            yield f"was executed, but is {OUTCOMES[state]}"
        attempts = self._history.job.get("retry", {}).get("max_attempts", 8)
        if (
            state == "failed"
            and operation["attempts"] < attempts
            and (operation["code"] != PROTECTED)
        ):
            looks = [*self._looks[key], *self._looks[Key(key.device, "")]]
            refused = any(_is_refusal(entry["code"]) for entry in [*self._by_key[key], *looks])
            without_result = sum(_unsettled([look]) for look in looks)
            # A step that begins with a look-up fails if that shows nothing to act on.
            seen = bool(self._rules.unrepeatable) and any(_received(look) for look in looks)
            if not refused and not seen and without_result < attempts:
                yield "is failed, but was never refused and has attempts left"

    def _answered(self, key: Key) -> bool:
        return any(entry["code"] in {0, "OK"} for entry in self._by_key[key])

    def _held(self, key: Key, needed: str) -> bool:
        """Whether it was executed, by this run or before."""
        return key in self._history.held_before or (needed, key) in self._executed_ever

    # -- never guess, nothing repeated

    def _repeats(self, key: Key) -> Iterator[str]:
        for action in self._rules.sends:
            sent = [e for e in self._by_key[key] if e["action"] == action]
            executed = sum(entry["executed"] for entry in sent)
            unrepeatable = action in self._rules.unrepeatable
            if unrepeatable and executed > 1:
                yield f"{action} was executed {executed} times"
            if unrepeatable and sent and not self._looked_before(key, sent[0]):
                yield f"{action} was sent (request {sent[0]['n']}) before a look-up"
            if self._rules.needed is None:
                continue  # reading twice changes nothing
            for before, again in itertools.pairwise(e for e in sent if not _turned_away(e)):
                looks = self._looks_between(key, before, again)
                if unrepeatable and not looks:
                    yield f"{action} was sent again without a look-up (request {again['n']})"
                elif _received(before) and before["code"] in {0, "OK"} and not _unsettled(looks):
                    yield f"{action} was sent again (request {again['n']}) after its success"
        first, *later = self._rules.sends
        done_at = min(
            (e["at"] for e in self._by_key[key] if e["action"] == first and e["executed"]),
            default=None,
        )
        for entry in self._by_key[key]:
            if entry["action"] in later and (done_at is None or entry["at"] < done_at):
                yield f"{entry['action']} was sent (request {entry['n']}) before {first} was done"

    def _looks_between(self, key: Key, before: Entry, again: Entry) -> list[Entry]:
        looks = [*self._looks[Key(key.device, "")], *self._looks[key]]
        return [look for look in looks if before["n"] < look["n"] < again["n"]]

    def _looked_before(self, key: Key, first: Entry) -> bool:
        looks = [*self._looks[Key(key.device, "")], *self._looks[key]]
        return any(look["n"] < first["n"] for look in looks)

    def _late(self, operation: Entry, key: Key) -> Iterator[str]:
        if operation["finished_at"] is None:
            return
        recorded_at = operation["finished_at"] + self._given.clock_slack_s
        for entry in self._by_key[key]:
            if entry["at"] > recorded_at and self._rules.needed:
                late_s = entry["at"] - operation["finished_at"]
                yield f"{entry['action']} was sent {late_s:.3f} s after its response was recorded"

    # -- what was issued

    def _contradictions(self, operation: Entry) -> Iterator[str]:
        """Whatever failed says why. A code for OK may come with a response that is not usable."""
        bad = operation["state"] in {"failed", "flawed", "unknown"}
        if bad and operation["message"] in {"OK", "", None}:
            yield f"is {operation['state']}, and says {operation['message']!r}"

    def _certificates(self, operation: Entry, key: Key) -> Iterator[str]:
        """A certificate in the results is the one that was issued, and its key is there."""
        result = operation["result"]
        if operation["state"] != "succeeded" or not isinstance(result, dict):
            return
        serial, path = result.get("certSN"), result.get("certificate_file")
        issued = {str(e["issued"]) for e in self._by_key[key] if e["executed"] and e["issued"]}
        if serial is not None and serial not in issued:
            yield f"has certificate {serial}, but the ledger has {', '.join(issued) or 'none'}"
        for name in filter(None, (path, result.get("key_file"))):
            if name not in self._history.files:
                yield f"{name} is missing"
                return
        if path and "key_file" in result:
            files = self._history.files
            if not _belong_together(files[path], files[result["key_file"]]):
                yield f"{result['key_file']} is not the key of {path}"

    # -- intent first

    def _attempts(self, operation: Entry, key: Key) -> Iterator[str]:
        if self._given.retried or self._rules.needed is None:
            return
        sent = sum(
            not _turned_away(entry) and entry["code"] not in ACCOUNT_REFUSED
            for entry in self._by_key[key]
        )
        if operation["attempts"] < sent:
            yield f"has {operation['attempts']} recorded attempts, the ledger has {sent} requests"


def without_partner(
    ones: Sequence[Entry], others: Sequence[Entry], fit: Callable[[Entry, Entry], bool]
) -> list[Entry]:
    """Those that are left when as many as possible have another one for themselves that fits."""
    partners: dict[int, int] = {}  # index of the one by that of the other

    def finds_partner(one: int, asked: set[int]) -> bool:
        for other, candidate in enumerate(others):
            if other not in asked and fit(ones[one], candidate):
                asked.add(other)
                if other not in partners or finds_partner(partners[other], asked):
                    partners[other] = one
                    return True
        return False

    return [one for number, one in enumerate(ones) if not finds_partner(number, set())]


def busiest_second(arrivals: Sequence[float]) -> tuple[int, float]:
    """The most arrivals in any window [t, t + 1 s), and its start. `arrivals` must be sorted."""
    most, when, first = 0, 0.0, 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= 1.0:
            first += 1
        if last - first + 1 > most:
            most, when = last - first + 1, arrivals[first]
    return most, when


def secrets_in(content: bytes, secrets: Sequence[str] = SECRETS) -> list[str]:
    """The secrets that the content contains."""
    return [secret for secret in secrets if secret.encode() in content]


def _belong_together(certificate: bytes, private_key: bytes) -> bool:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(private_key, None).public_key()
    return x509.load_pem_x509_certificate(certificate).public_key() == key


def _grouped(entries: list[Entry], actions: Sequence[str]) -> defaultdict[Key, list[Entry]]:
    grouped: defaultdict[Key, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["action"] in actions:
            grouped[Key(entry["device"], _serial(entry))].append(entry)
    return grouped


def _serial(entry: Entry) -> str:
    return "" if entry["certSn"] is None else str(entry["certSn"])


def _identity(fields: dict[str, Any]) -> tuple[str, ...]:
    """Identify an operation in a form that is the same for text (file) and numbers (checkpoint)."""
    values = {name: str(fields[name]).strip() for name in IDENTITY if name in fields}
    if "certSn" in values:
        values["certSn"] = str(int(values["certSn"]))
    return tuple(f"{name}={value}" for name, value in values.items())


def _as_result(operation: Entry) -> Entry:
    finished_at = operation["finished_at"]
    if finished_at is not None:
        moment = datetime.fromtimestamp(finished_at, UTC).isoformat(timespec="milliseconds")
        finished_at = moment.replace("+00:00", "Z")
    return {
        "line": operation["line"],
        "target": {**json.loads(operation.get("extra") or "{}"), **operation["fields"]},
        "outcome": OUTCOMES[operation["state"]],
        "code": operation["code"],
        "message": operation["message"],
        "request_id": operation["request_id"],
        "attempts": operation["attempts"],
        "finished_at": finished_at,
        "result": operation["result"],
    }


def _throttled(entry: Entry) -> bool:
    return entry["code"] == 429 or str(entry["code"]).startswith(("Throttling", "SystemOverFlow"))


def _turned_away(entry: Entry) -> bool:
    """Refused before the request itself was considered: throttled, or its token is not valid."""
    refused = {401, 403, 404, 1202, 1203, "InvalidSecurityToken.Expired"}
    return _throttled(entry) or entry["code"] in refused or entry["fault"] == "source_blocked"


def _is_refusal(code: int | str | None) -> bool:
    if isinstance(code, str):
        return code not in {"OK", "InternalError", "ServiceUnavailable"}
    return code in {400, 413, 1004, 11404, 11833, 99400, 99403, 99404}


def _received(entry: Entry) -> bool:
    """Its response was sent in full and without a fault, so a living process can act on it."""
    return entry["answered_at"] is not None and entry["fault"] is None


def _unsettled(looks: list[Entry]) -> bool:
    """There was a look-up, and the last one got no usable response."""
    return bool(looks) and not (_received(looks[-1]) and looks[-1]["code"] in {0, "OK"})


def main(arguments: Sequence[str]) -> int:
    """Check one run, and print the violations."""
    job, run_dir = Path(arguments[0]), Path(arguments[1])
    ledger = Path(arguments[2]) if len(arguments) > 2 else run_dir / "ledger.jsonl"
    history = read(job, run_dir, ledger)
    violations = check(history, Circumstances(over=False))
    figures = (
        f"{len(history.operations)} operations, {len(history.ledger)} requests,"
        f" {len(violations)} violations"
    )
    sys.stdout.write("\n".join([*violations, figures, ""]))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
