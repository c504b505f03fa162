"""`bulkcert verify`: does the provider's state agree with what the results say?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import sqlite3
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from campaign_run import TARGETS, planned_run, settle, store_of
from click.testing import CliRunner
from enos_vendor import CREDENTIALS, ENOS, devices, signed_certificate, with_requests
from go_between import Forger, GoBetween, Passing
from harness import InProcessJob, in_this_process
from job_folder import Row
from processes import Ended, bulkcert

from bulkcert import Run, load_job
from bulkcert.cli import main
from bulkcert.cli.verify import MOST_ON_TERMINAL, _print_for_people
from bulkcert.control import Verb
from bulkcert.errors import (
    BulkcertError,
    EndpointError,
    ProviderUnusableError,
    RunDirectoryError,
    StoreError,
)
from bulkcert.event_log import chain_fault
from bulkcert.json_lines import as_json
from bulkcert.model import Outcome
from bulkcert.providers.base import RecordedResult, Revoked
from bulkcert.providers.enos.verification import ca_of_list, difference, remarks_on, revoked
from bulkcert.rundir import open_reader
from bulkcert.verify import compare, reading_run

pytestmark = pytest.mark.system

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def differences(job: InProcessJob) -> list[tuple[int, str]]:
    """Return the lines whose state differs from the results, and how."""
    scratch = job.folder / "scratch"
    with (
        contextlib.closing(open_reader(job.run_dir)) as reader,
        reading_run(reader, scratch) as reading,
    ):
        await reading.execute(CREDENTIALS)
        return [
            (found.record.line, found.difference)
            for found in compare(reader, reading)
            if found.difference
        ]


async def as_command(job: InProcessJob, *options: object, **environment: str) -> Ended:
    return await asyncio.to_thread(
        bulkcert,
        *("verify", job.run_dir, *options),
        folder=job.folder,
        environment=environment or CREDENTIALS,
    )


RUNS: dict[str, dict[str, Any]] = {
    "revoke": {},
    "renew": {},
    "rotate": {},
    "revoke by selection": {
        "select": {"status": "valid", "issued_before": f"{datetime.now(UTC):%Y-%m-%d}"}
    },
    "renew by selection": {"select": {"status": "valid"}},
}


@pytest.mark.parametrize("what", RUNS)
@pytest.mark.parametrize("supersedes", [True, False])
async def test_a_good_run_agrees(tmp_path: Path, what: str, supersedes: bool) -> None:
    """One certificate was already revoked before the run."""
    action, sections = what.partition(" ")[0], RUNS[what]
    fleet = [*devices(4), {"assetId": "A0", "certSn": 7}]
    fleet[3]["certStatus"] = 1
    rows = devices(4) if action == "revoke" else with_requests(devices(4))
    behaviour = {"renew_revokes_old": supersedes, "list_cert": "pem"}
    async with in_this_process(
        tmp_path, ENOS, action, rows, fleet=fleet, behaviour=behaviour, **sections
    ) as job:
        await job.run()
        before = {path: path.read_bytes() for path in job.run_dir.rglob("*") if path.is_file()}
        sent = len(job.entries("revoke", "renew"))
        assert await differences(job) == []
        assert len(job.entries("revoke", "renew")) == sent
        after = {path: path.read_bytes() for path in job.run_dir.rglob("*") if path.is_file()}
        assert {path: content for path, content in before.items() if "sqlite" not in path.name} == {
            path: content for path, content in after.items() if "sqlite" not in path.name
        }


class Later(Forger):
    """Changes responses to `list` once the run is over."""

    def __init__(self, change: Callable[[Row], Any]) -> None:
        super().__init__(list=lambda response: self._change_later(response))
        self._change = change
        self.over = False

    def _change_later(self, response: Row) -> Any:
        if self.over:
            for item in response["data"]:
                self._change(item)
        return response


def as_valid(item: Row) -> None:
    item["certStatus"] = 0


def as_revoked(item: Row) -> None:
    item["certStatus"] = 1


def as_another(item: Row) -> None:
    item["certSN"] += "0"


@pytest.mark.parametrize(
    ("action", "change", "reported"),
    [
        ("revoke", as_valid, "the certificate is valid, not revoked"),
        ("revoke", as_another, "the certificate is not there, not revoked"),
        ("renew", as_revoked, "the new certificate 1000000001 is revoked"),
        ("renew", as_another, "the new certificate 1000000001 is not there"),
        ("rotate", as_valid, "the old certificate is still valid"),
        ("rotate", as_revoked, "the new certificate 1000000001 is revoked"),
    ],
)
async def test_changes_since_the_run_are_reported(
    tmp_path: Path, action: str, change: Callable[[Row], None], reported: str
) -> None:
    rows, later = devices(1) if action == "revoke" else with_requests(devices(1)), Later(change)
    async with in_this_process(tmp_path, ENOS, action, rows, between=later) as job:
        await job.run()
        later.over = True
        assert await differences(job) == [(1, reported)]


@pytest.mark.parametrize(
    ("action", "outcome", "result", "states", "reported"),
    [
        ("revoke", "failed", None, {"5": "revoked"}, "the certificate is revoked"),
        ("revoke", "failed", None, {"5": "valid"}, ""),
        ("revoke", "unknown", None, {"5": "revoked"}, "the certificate is revoked"),
        ("revoke", "unknown", None, {"5": "valid"}, "was unknown; the certificate is valid"),
        ("revoke", "already_done", None, {"5": "valid"}, "the certificate is valid, not revoked"),
        ("renew", "unknown", None, {"5": "valid"}, "was unknown; the certificates are"),
        ("renew", "failed", None, {"5": "valid"}, ""),
        ("renew", "failed", None, {"5": "revoked"}, "the old certificate is revoked"),
        ("renew", "failed", {"refusal": "original_revoked"}, {"5": "revoked"}, ""),
        ("renew", "succeeded", {"certSN": "6"}, {"5": "valid", "6": "valid"}, ""),
        ("rotate", "failed", {"certSN": "6"}, {"5": "valid", "6": "valid"}, ""),
        ("rotate", "succeeded", {"certSN": "6"}, {"5": "expired", "6": "valid"}, "still expired"),
        ("rotate", "succeeded", {"certSN": "6"}, {"6": "valid"}, "still not there"),
    ],
)
def test_differences_are_named(
    action: str, outcome: str, result: Any, states: dict[str, str], reported: str
) -> None:
    listed = {"certificates": [{"certSN": s, "status": states[s]} for s in states]}
    found = difference(RecordedResult(action, {"certSn": 5}, Outcome(outcome), result), listed)
    assert reported in found
    assert bool(reported) == bool(found)


def test_a_certificate_that_is_listed_with_two_statuses_differs() -> None:
    twice = [{"certSN": "5", "status": status} for status in ("valid", "revoked", "revoked")]
    recorded = RecordedResult("revoke", {"certSn": 5}, Outcome.SUCCEEDED, None)
    assert difference(recorded, {"certificates": twice}).startswith(
        "the certificate is valid and revoked"
    )
    assert difference(recorded, {"certificates": twice[1:]}) == ""


OUR_KEY, OTHER_KEY = (signed_certificate() for _ in range(2))
MADE = {"key_file": "keys/A0+5.key.pem"}


@pytest.mark.parametrize(
    ("listed", "result", "reported"),
    [
        ({"6": OUR_KEY, "7": OUR_KEY}, MADE, "surplus, and still valid: 7"),
        ({"6": OUR_KEY, "7": OUR_KEY}, {}, ""),  # a renewal without a request keeps the key
        ({"6": OUR_KEY, "7": OTHER_KEY}, MADE, ""),
        ({"6": OUR_KEY, "7": ""}, MADE, ""),
        ({"6": "", "7": ""}, MADE, ""),
        ({"6": "", "7": ""}, {"surplus": ["7", "8"]}, "surplus, and still valid: 7"),
        ({"6": ""}, {"surplus": ["7"]}, ""),  # it was revoked in the meantime
    ],
)
def test_certificates_of_repeated_renewals_are_named(
    listed: dict[str, str], result: dict[str, Any], reported: str
) -> None:
    items = [{"certSN": s, "status": "valid", "cert": listed[s]} for s in listed]
    recorded = RecordedResult("renew", {"certSn": 5}, Outcome.SUCCEEDED, {"certSN": "6"} | result)
    assert difference(recorded, {"certificates": items}) == reported


async def test_a_device_that_cannot_be_read_differs(tmp_path: Path) -> None:
    class Gone(Forger):
        over = False

        def __init__(self) -> None:
            super().__init__(list=self._answer)

        def _answer(self, response: Row) -> Row:
            return (
                response | {"code": 11404, "msg": "gone", "data": None} if self.over else response
            )

    gone = Gone()
    async with in_this_process(tmp_path, ENOS, "revoke", devices(2), between=gone) as job:
        await job.run()
        gone.over = True
        reported = await differences(job)
        assert reported == [(line, "could not be read back: 11404 gone") for line in (1, 2)]


# ---- the command


async def test_the_command_says_what_differs(tmp_path: Path) -> None:
    def one_is_valid(item: Row) -> None:
        item["certStatus"] = 0 if item["certSN"] == "1001" else item["certStatus"]

    later = Later(one_is_valid)
    async with in_this_process(tmp_path, ENOS, "revoke", devices(3), between=later) as job:
        await job.run()
        agrees, kept = await as_command(job), job.run_dir / "verify.jsonl"
        assert (agrees.code, agrees.out) == (0, "")
        assert len(kept.read_text().splitlines()) == 3
        assert kept.stat().st_mode & 0o777 == 0o600
        assert "Compared 3 operations: 3 agree, 0 differ." in agrees.err
        later.over = True
        differs = await as_command(job)
        assert differs.code == 1
        assert "Compared 3 operations: 2 agree, 1 differs." in differs.err
        found = [json.loads(line) for line in kept.read_text().splitlines()]
        assert [json.loads(line) for line in differs.out.splitlines()] == [found[1]]
        assert [each["verdict"] for each in found] == ["agrees", "differs", "agrees"]
        sha256 = hashlib.sha256(kept.read_bytes()).hexdigest()
        figures = {"agrees": 2, "differs": 1, "not_read": 0, "sha256": sha256}
        before, last = logged(job)[-2:]
        assert last == {**last, "type": "verification", **figures}
        assert before == {**before, "type": "verification", "agrees": 3, "differs": 0}
        assert UTC_TIME.fullmatch(found[1].pop("read_at"))
        assert found[1].pop("request_id")
        assert found[1] == {
            "line": 2,
            "target": {"assetId": "A1", "certSn": 1001},
            "outcome": "succeeded",
            "verdict": "differs",
            "difference": "the certificate is valid, not revoked",
            "seen": [{"certSN": "1001", "status": "valid"}],
        }
        refused = await as_command(job, ENOS_APP_KEY="simulator-key")
        assert (refused.code, "ENOS_APP_SECRET" in refused.err) == (2, True)


def logged(job: InProcessJob) -> list[dict[str, Any]]:
    """The events of the run, in the file; they are the same in the store."""
    lines = (job.run_dir / "events.jsonl").read_bytes().splitlines()
    assert chain_fault(lines) == ""
    with contextlib.closing(open_reader(job.run_dir)) as reader:
        assert [event.line for event in reader.events()] == lines
    return [json.loads(line) for line in lines]


async def test_an_event_that_can_not_be_stored_is_only_a_warning(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "revoke", devices(2)) as job:
        await job.run()
        before = logged(job)
        with contextlib.closing(sqlite3.connect(job.run_dir / "checkpoint.sqlite3")) as db, db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON events BEGIN"
                " SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
        ended = await as_command(job)
        assert ended.code == 0
        assert "The event log does not say what was found. The checkpoint can't be" in ended.err
        assert logged(job) == before


async def test_one_object_has_the_counts_and_the_differences(tmp_path: Path) -> None:
    def two_are_odd(item: Row) -> None:
        item["certStatus"] = 0 if item["certSN"] in ("1000", "1002") else item["certStatus"]

    later = Later(two_are_odd)
    async with in_this_process(tmp_path, ENOS, "revoke", devices(3), between=later) as job:
        await job.run()
        later.over = True
        ended = await as_command(job, "--json")
        found = json.loads(ended.out)
        assert ended.code == found["exit_code"] == 1
        counts = [found[name] for name in ("total", "agree", "differ", "not_read", "not_settled")]
        assert counts == [3, 1, 2, 0, 0]
        assert [each["line"] for each in found["differences"]] == [1, 3]
        assert (found["differences_left_out"], found["crl"]) == (0, [])
        assert found["ceiling"] == job.summary()["ceiling"]
        assert found["started_at"] <= found["finished_at"]
        assert Path(found["file"]) == job.run_dir / "verify.jsonl"


async def test_a_run_is_verified_while_it_goes_on(tmp_path: Path) -> None:
    """What is settled is compared; the run is neither disturbed nor waited for."""

    class Stopper(GoBetween):
        async def before(self, passing: Passing) -> None:
            if (passing.action, passing.device) == ("revoke", "A2"):
                run.stop()

    async with in_this_process(
        tmp_path, ENOS, "revoke", devices(6), limits={"in_flight": 1}, between=Stopper()
    ) as job:
        with Run(load_job(job.job_file), job.run_dir) as run:
            await run.execute(CREDENTIALS)
            ended = await as_command(job, "--json")  # the run directory is still in use
            found = json.loads(ended.out)
            counts = [found[name] for name in ("total", "agree", "differ", "not_settled")]
            assert (ended.code, counts) == (0, [6, 3, 0, 3])
            assert "3 operations are not settled yet." in ended.err
            lines = (job.run_dir / "verify.jsonl").read_text().splitlines()
            assert [json.loads(line)["line"] for line in lines] == [1, 2, 3]
        await job.run()
        assert job.outcomes() == ["succeeded"] * 6


def test_a_run_that_is_not_over_is_read_back_no_faster_than_somebody_has_set(
    tmp_path: Path,
) -> None:
    directory = planned_run(tmp_path)
    with store_of(directory) as store:
        store.add_control(1e9, "ann@ops1", "help desk", Verb.RATE, "50")
    for last, ceiling in ((3, 50), (TARGETS, 500)):
        settle(directory, 1, last)
        with contextlib.closing(directory.reader()) as reader:
            assert reading_run(reader, tmp_path / f"{last}").job.ceiling == ceiling


async def test_where_nothing_can_be_written_the_differences_are_printed_all_the_same(
    tmp_path: Path,
) -> None:
    later = Later(as_valid)
    async with in_this_process(tmp_path, ENOS, "revoke", devices(2), between=later) as job:
        await job.run()
        later.over = True
        (job.run_dir / "verify.jsonl").mkdir()
        ended = await as_command(job)
        assert ended.code == 1
        assert len(ended.out.splitlines()) == 2
        assert "verify.jsonl can't be written, and is left out: Is a directory" in ended.err


def test_a_person_sees_the_first_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found"
    lines = [
        {"line": n, "target": {"assetId": f"A{n}"}, "difference": "\x1b[2Jgone" if n % 2 else ""}
        for n in range(2 * MOST_ON_TERMINAL + 5)
    ]
    found.write_bytes(b"".join(as_json(line) + b"\n" for line in lines))
    _print_for_people(found, Path("runs/x/verify.jsonl"))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == MOST_ON_TERMINAL + 1
    assert shown[0] == r"assetId=A1 (line 1): \x1b[2Jgone"
    assert shown[-1] == "... and 2 more in runs/x/verify.jsonl"


@pytest.mark.parametrize(
    ("outcome", "item", "expected"),
    [
        ("succeeded", {}, Revoked(5, "CN=EnOS CA", "PEM", expires_at_s=86_400.0)),
        ("already_done", {"expireDate": "never"}, Revoked(5, "CN=EnOS CA", "PEM")),
        ("succeeded", {"certSN": "6"}, Revoked(5)),
        ("failed", {}, None),
        ("unknown", {}, None),
    ],
)
def test_what_a_run_has_revoked_is_named_as_its_ca_knows_it(
    outcome: str, item: Row, expected: Revoked | None
) -> None:
    shown = {"certSN": "5", "issuer": "CN=EnOS CA", "cert": "PEM"}
    listed = {"certificates": [shown | {"expireDate": "1970-01-02T00:00:00Z"} | item]}
    recorded = RecordedResult("revoke", {"certSn": 5}, Outcome(outcome), None)
    assert revoked(recorded, listed) == expected


def test_a_device_of_which_nothing_was_selected_has_nothing_to_say() -> None:
    nothing_selected = RecordedResult("revoke", {"assetId": "A1"}, Outcome.ALREADY_DONE, None)
    listed = {"certificates": [{"certSN": "5", "status": "valid"}]}
    assert difference(nothing_selected, listed) == ""
    assert revoked(nothing_selected, listed) is None
    assert remarks_on(nothing_selected, listed) == []
    one_selected = RecordedResult("revoke", {"certSn": 4}, Outcome.ALREADY_DONE, None)
    assert remarks_on(one_selected, listed) == ["other_valid"]


@pytest.mark.parametrize(
    ("url", "ca"),
    [
        ("https://ca.example.com/enos/CA/crl", "https://ca.example.com/enos/CA/cacert"),
        ("https://ca.example.com/x/enos/CA/crl/ECC", "https://ca.example.com/x/enos/CA/cacert/ECC"),
        ("https://ca.example.com/devices.crl", ""),
        ("/enos/CA/crl", ""),
    ],
)
def test_enos_has_its_cas_beside_their_lists(url: str, ca: str) -> None:
    assert ca_of_list(url) == ca


async def test_revoked_certificates_are_looked_for_in_the_list_of_their_ca(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "revoke", devices(3)) as job:
        portal = f"{job.simulator.endpoint}/enos/CA"

        def save(what: str, name: str) -> Path:
            path = job.folder / name
            path.write_bytes(urllib.request.urlopen(f"{portal}/{what}").read())
            return path

        before = await asyncio.to_thread(save, "crl", "before.crl")
        await asyncio.sleep(1.1)  # lists have whole seconds
        await job.run()
        ended = await as_command(job, "--crl", f"{portal}/crl")  # the CA is beside it
        assert (ended.code, ended.out) == (0, ""), ended.err
        said = "Looked for 3 revoked certificates in the revocation list: "
        assert f"{said}3 listed." in ended.err

        # a file does not say where its CA is
        after = await asyncio.to_thread(save, "crl", "after.crl")
        ended = await as_command(job, "--crl", after, "--json")
        found = json.loads(ended.out)
        assert (ended.code, found["listed"], found["not_listed"]) == (2, 3, 0)
        assert [each["signature"] for each in found["crl"]] == ["not_checked"]
        assert "Warning: the signature of " in ended.err
        ca = await asyncio.to_thread(save, "cacert", "ca.pem")
        ended = await as_command(job, "--crl", after, "--crl-issuer", ca)
        assert ended.code == 0, ended.err

        ended = await as_command(job, "--crl", before, "--crl-issuer", ca)
        assert ended.code == 1
        assert f"{said}0 listed, 3 not listed yet." in ended.err
        lines = [json.loads(line) for line in ended.out.splitlines()]
        assert [(each["verdict"], each["crl"]) for each in lines] == [("agrees", "not_listed")] * 3
        assert "not in the revocation list of its CA yet" in lines[0]["difference"]

        ended = await as_command(job, "--crl", f"{portal}/crl/ECC")  # of another CA
        assert (ended.code, len(ended.out.splitlines())) == (2, 3)
        assert f"{said}0 listed, 3 could not be compared." in ended.err


BAD_LISTS = {
    ("--crl", "x.crl"): "x.crl can't be read: No such file or directory",
    ("--crl", "ldap://ca.example.com"): "it must begin with http:// or https://",
    ("--crl", "http://127.0.0.1:1/crl"): "http://127.0.0.1:1/crl can't be fetched: ",
    ("--crl", "job.toml"): "it is not a certificate revocation list",
    ("--crl", "x.crl", "--crl-issuer", "job.toml"): "does not contain a certificate",
}


async def test_a_list_that_can_not_be_used_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkcert.cli.verify.interrupt_on_signals", lambda: None)

    def verified(job: InProcessJob, *options: str) -> str:
        sent = len(job.entries())
        ended = CliRunner().invoke(main, ["verify", str(job.run_dir), *options])
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert len(job.entries()) == sent
        return ended.stderr

    async with in_this_process(tmp_path, ENOS, "revoke", devices(1)) as job:
        monkeypatch.chdir(job.folder)
        await job.run()
        for options, problem in BAD_LISTS.items():
            assert problem in verified(job, *options)
        job.write(action="renew", name="renewal")
        job.run_dir = tmp_path / "renewal"
        await job.run()
        assert "The run has revoked nothing: its action is renew." in verified(job, "--crl", "x")


async def test_devices_that_can_still_connect_are_counted(tmp_path: Path) -> None:
    """With two certificates of a device revoked, a third one is still valid."""
    rows: list[Row] = [{"assetId": "A1", "certSn": serial} for serial in (1, 2)]
    rows.append({"assetId": "A2", "certSn": 3})
    fleet = [*rows, {"assetId": "A1", "certSn": 4}]
    async with in_this_process(tmp_path, ENOS, "revoke", rows, fleet=fleet) as job:
        await job.run()
        ended = await as_command(job)
        assert (ended.code, ended.out) == (0, "")
        assert "1 x note: device still has another valid certificate" in ended.err


@pytest.mark.parametrize("error", [ProviderUnusableError, StoreError, EndpointError])
def test_whatever_stops_the_reading_means_that_nothing_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BulkcertError]
) -> None:
    def fail(*_: object) -> int:
        raise error("It broke.")

    monkeypatch.setattr("bulkcert.cli.verify._verify", fail)
    monkeypatch.setattr("bulkcert.cli.verify.interrupt_on_signals", lambda: None)
    ended = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "It broke." in ended.stderr


def test_a_signal_before_the_reading_begins_means_that_nothing_was_compared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("bulkcert.cli.verify._verify", interrupted)
    monkeypatch.setattr("bulkcert.cli.verify.interrupt_on_signals", lambda: None)
    ended = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert (ended.exit_code, ended.stdout) == (3, "")
    assert "nothing was compared" in ended.stderr


async def test_only_a_run_that_has_changed_something_is_verified(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "revoke", devices(3)) as job:
        with pytest.raises(RunDirectoryError, match="does not contain a run"):
            await differences(job)
        job.run_dir = tmp_path / "stopped"
        await stop_at_once(job)
        with pytest.raises(RunDirectoryError, match="no operation of the run is settled"):
            await differences(job)
        job.run_dir = tmp_path / "rehearsal"
        await job.run(rehearsal=True)
        with pytest.raises(RunDirectoryError, match="was a rehearsal"):
            await differences(job)
        job.run_dir = tmp_path / "inventory"
        job.write(action="list")
        await job.run()
        with pytest.raises(RunDirectoryError, match="only read") as caught:
            await differences(job)
        assert caught.value.exit_code == 2
        assert not (tmp_path / "scratch").exists()


async def stop_at_once(job: InProcessJob) -> None:
    """Run the job, but stop it before anything is sent."""
    with Run(load_job(job.job_file), job.run_dir) as run:
        run.stop()
        await run.execute(CREDENTIALS)
