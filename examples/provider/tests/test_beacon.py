"""The provider as its users meet it: the installed `bulkcert` command against a stand-in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bulkcert_beacon.requests import suspend_request
from bulkcert_beacon.responses import KINDS, judge
from bulkcert_beacon.signature import signature
from stand_in import ACCOUNT, KEY, SECRET, Fault, StandIn

import bulkcert
from bulkcert import testing
from bulkcert.providers.call import CallKind, Response

BULKCERT = Path(sys.executable).with_name("bulkcert")
CREDENTIALS = {"BEACON_KEY": KEY, "BEACON_SECRET": SECRET}
SERIALS = [f"{number:08x}" for number in range(60)]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Scene:
    """A folder with a job for a stand-in."""

    def __init__(self, folder: Path, stand_in: StandIn, **job: str) -> None:
        self.folder = folder
        self.write(stand_in, **job)
        (folder / "fleet.csv").write_text("serial\n" + "\n".join(stand_in.status) + "\n")

    def write(self, stand_in: StandIn, action: str = "suspend", account: str = ACCOUNT) -> None:
        (self.folder / "job.toml").write_text(
            f'provider = "beacon"\naction = "{action}"\ntargets = "fleet.csv"\n'
            f'[connection]\nendpoint = "{stand_in.endpoint}"\naccount = "{account}"\n'
            + "[limits]\nin_flight = 5\n"
            + ('[parameters]\nreason = "lost"\n' if action == "suspend" else "")
        )

    def start(self, *words: str, **credentials: str) -> subprocess.Popen[str]:
        """Start `bulkcert`."""
        return subprocess.Popen(
            [BULKCERT, *words],
            cwd=self.folder,
            env=os.environ | CREDENTIALS | credentials,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def bulkcert(self, *words: str, **credentials: str) -> Ended:
        """Run `bulkcert` to its end."""
        with self.start(*words, **credentials) as process:
            out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        assert SECRET not in out + err
        return Ended(process.returncode, out, err)

    def outcomes(self) -> Counter[str]:
        """The outcomes in `results.jsonl`."""
        return Counter(result["outcome"] for result in self.results())

    def results(self) -> list[dict[str, Any]]:
        lines = (self.folder / "runs/job/results.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


FAULTS_TO_RETRY = (Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.CUT_AFTER)


def test_a_plan_shows_the_request_with_masked_credentials_and_sends_nothing(
    tmp_path: Path,
) -> None:
    with StandIn(SERIALS) as beacon:
        ended = Scene(tmp_path, beacon).bulkcert("plan", "job.toml")
        assert (ended.code, beacon.ledger) == (0, [])
    assert "suspend on beacon" in ended.out
    assert "account a-1" in ended.out
    assert "100 requests in any second" in ended.out
    assert f"POST {beacon.endpoint}/v1/accounts/a-1/certificates/00000000/suspend" in ended.out
    assert "Beacon-Signature: ********" in ended.out
    assert '{"reason": "lost"}' in ended.out


def test_a_run_with_faults_that_is_stopped_and_killed_is_finished_by_the_same_command(
    tmp_path: Path,
) -> None:
    """Every certificate is suspended exactly once, and no outcome is a guess."""
    faults = dict(zip(range(3, 60, 4), cycle(FAULTS_TO_RETRY), strict=False))
    with StandIn(SERIALS, faults | {10: Fault.THROTTLED}) as beacon:
        scene = Scene(tmp_path, beacon)
        for number, requests in ((signal.SIGINT, 15), (signal.SIGKILL, 35)):
            beacon.hold_after(requests)
            with scene.start("run", "job.toml", "--yes") as process:
                beacon.await_requests(requests)
                process.send_signal(number)
                beacon.release()
                process.communicate(timeout=60)
            assert process.returncode == (3 if number == signal.SIGINT else -signal.SIGKILL)
        assert len(beacon.suspensions()) < len(SERIALS)
        ended = scene.bulkcert("run", "job.toml", "--yes")
        assert ended.code == 0, ended.err
        assert scene.outcomes() == {"succeeded": len(SERIALS)}
        assert sorted(beacon.suspensions()) == SERIALS
        assert {entry.fault for entry in beacon.ledger} == {None, *Fault}
        verified = scene.bulkcert("verify", "runs/job")
        assert (verified.code, verified.out) == (0, "")


def test_verify_finds_a_certificate_that_was_activated_again(tmp_path: Path) -> None:
    with StandIn(SERIALS[:3]) as beacon:
        scene = Scene(tmp_path, beacon)
        assert scene.bulkcert("run", "job.toml", "--yes").code == 0
        beacon.status[SERIALS[1]] = "active"
        verified = scene.bulkcert("verify", "runs/job")
    assert verified.code == 1
    assert json.loads(verified.out)["difference"] == "the certificate is active"


def test_what_was_done_before_and_what_does_not_exist_have_outcomes_of_their_own(
    tmp_path: Path,
) -> None:
    with StandIn(SERIALS[:3]) as beacon:
        scene = Scene(tmp_path, beacon)
        beacon.status[SERIALS[0]] = "suspended"
        del beacon.status[SERIALS[2]]
        assert scene.bulkcert("run", "job.toml", "--yes").code == 1
    assert [(result["outcome"], result["code"]) for result in scene.results()] == [
        ("already_done", "ok"),
        ("succeeded", "ok"),
        ("failed", "not_found"),
    ]


def test_get_lists_the_certificates_as_csv(tmp_path: Path) -> None:
    with StandIn(SERIALS[:2]) as beacon:
        scene = Scene(tmp_path, beacon, action="get")
        assert scene.bulkcert("run", "job.toml").code == 0
        assert beacon.suspensions() == []
    lines = scene.bulkcert("results", "runs/job", "--format", "csv").out.splitlines()
    assert "serial,device,status" in lines[0]
    assert [line.split(",")[-3:] for line in lines[1:]] == [
        [serial, f"d-{serial}", "active"] for serial in SERIALS[:2]
    ]


@pytest.mark.parametrize(
    ("account", "secret", "problem"),
    [
        (ACCOUNT, "wrong", "Beacon does not accept the credentials: bad_signature"),
        ("a-2", SECRET, "The account can't be used: unknown_account"),
    ],
)
def test_bad_credentials_and_a_bad_account_change_nothing(
    tmp_path: Path, account: str, secret: str, problem: str
) -> None:
    with StandIn(SERIALS[:2]) as beacon:
        scene = Scene(tmp_path, beacon, account=account)
        ended = scene.bulkcert("run", "job.toml", "--yes", BEACON_SECRET=secret)
        assert len(beacon.ledger) == 1
        assert beacon.suspensions() == []
    assert ended.code == 2
    assert problem in ended.err


def test_a_single_case_needs_no_server(tmp_path: Path) -> None:
    def respond(request: testing.Request) -> testing.Response:
        assert request.headers["Beacon-Key"] == KEY
        _, _, serial = request.path.removesuffix("/suspend").partition("/certificates/")
        if serial == SERIALS[1]:
            error = {"code": "not_found", "message": "no such certificate"}
            return testing.Response(status=404, json={"request_id": "r-2", "error": error})
        suspended = {"serial": serial, "device": "d", "status": "suspended"}
        return testing.Response(json={"request_id": "r-1", **suspended})

    (tmp_path / "fleet.csv").write_text("serial\n" + "\n".join(SERIALS[:3]) + "\n")
    (tmp_path / "job.toml").write_text(
        'provider = "beacon"\naction = "suspend"\ntargets = "fleet.csv"\n'
        '[connection]\nendpoint = "https://beacon.example.com"\naccount = "a-1"\n'
        '[parameters]\nreason = "lost"\n'
    )
    fake = testing.FakeTransport(respond)
    with bulkcert.Run(bulkcert.load_job(tmp_path / "job.toml"), transport=fake) as run:
        summary = asyncio.run(run.execute(CREDENTIALS))
    assert (summary.succeeded, summary.failed) == (2, 1)
    [failed] = bulkcert.results(run.directory, "failed")
    assert (failed.code, failed.request_id) == ("not_found", "r-2")


# ---- the pure parts


def response(body: bytes, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, body, 0.0)


@pytest.mark.parametrize(("code", "kind"), KINDS.items())
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_code_means_the_same_with_every_http_status(
    code: str, kind: CallKind, status: int
) -> None:
    body = json.dumps({"request_id": "r", "error": {"code": code, "message": "why"}}).encode()
    result = judge(response(body, status))
    assert (result.kind, result.code, result.message, result.request_id) == (kind, code, "why", "r")


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"request_id": "r", "error": {"code": "new_code"}}', 400, CallKind.DISPUTED),
        (b'{"request_id": "r", "serial": "1"}', 200, CallKind.OK),
        (b'{"request_id": "r"}', 500, CallKind.IN_DOUBT),
        (b'{"serial": "1"}', 200, CallKind.IN_DOUBT),
        (b'{"request_id": "r", "error": 5}', 200, CallKind.IN_DOUBT),
        (b"<html>", 200, CallKind.IN_DOUBT),
        (b"slow down", 429, CallKind.THROTTLED),
        (b"", 200, CallKind.IN_DOUBT),
    ],
)
def test_what_fits_nothing_is_in_doubt(body: bytes, status: int, kind: CallKind) -> None:
    assert judge(response(body, status)).kind is kind


@pytest.mark.parametrize(
    ("header", "wait_s"), [({"Retry_After": "7"}, 7.0), ({"Retry_After": "x"}, None), ({}, None)]
)
def test_the_wait_of_a_throttled_response(header: dict[str, str], wait_s: float | None) -> None:
    body = b'{"request_id": "r", "error": {"code": "rate_limited"}}'
    assert judge(response(body, 429, **header)).retry_after_s == wait_s


def test_the_signature() -> None:
    """Checked with: printf '...' | openssl dgst -sha256 -hmac secret"""
    request = suspend_request("a-1", {"serial": "00c0ffee", "reason": "lost"})
    assert (
        signature(request, 1_800_000_000, "secret")
        == "6f11ca2894b7f5018a97959bf4260f8b8b86d5c3fcf1f6a53874161366e993b7"
    )
