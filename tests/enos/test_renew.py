"""`renew`: keys are stored first, responses are checked, refusals are distinguished."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from enos_vendor import (
    CREDENTIALS,
    ENOS,
    SUBJECT,
    devices,
    new_certificate,
    public_key,
    signing_request,
    with_requests,
)
from go_between import Crash, Forger, GoBetween, Passing
from harness import InProcessJob, in_this_process
from job_folder import Row
from processes import bulkcert

from bulkcert.errors import CredentialsError, RunDirectoryError, TargetsRejectedError

pytestmark = pytest.mark.system

KEYS = {"generate": "ecdsa-p256", "subject": SUBJECT}
FILES = ("leaf_file", "chain_file", "fullchain_file", "certificate_file", "key_file")


def key_of(job: InProcessJob, result: Row) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    key = load_pem_private_key((job.run_dir / result["result"]["key_file"]).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return key


class KeyWatch(GoBetween):
    """Checks, when a renewal passes, that its key is already on disk."""

    def __init__(self, keys: Path) -> None:
        self._keys = keys
        self.late: list[str] = []
        self.requests: dict[str, x509.CertificateSigningRequest] = {}

    async def before(self, passing: Passing) -> None:
        if passing.action != "renew":
            return
        csr = x509.load_pem_x509_csr(passing.body["csr"].encode())
        self.requests[passing.device] = csr
        (path,) = self._keys.glob(f"{passing.device}+*.key.pem")
        key = load_pem_private_key(path.read_bytes(), None)
        if path.stat().st_mode & 0o777 != 0o600 or public_key(key) != public_key(csr):
            self.late.append(passing.device)


@pytest.mark.parametrize(("kind", "authority"), [("ecdsa-p256", "ECC"), ("rsa-2048", "RSA")])
async def test_the_key_is_on_disk_before_the_request_leaves(
    tmp_path: Path, kind: str, authority: str
) -> None:
    watch = KeyWatch(tmp_path / "runs" / "job" / "keys")
    behaviour = {"seed": 1, "error_after": 0.3, "error_before": 0.2, "faults_on": "renew"}
    keys = KEYS | {"generate": kind}
    async with in_this_process(
        tmp_path, ENOS, "renew", devices(6), behaviour=behaviour, between=watch, keys=keys
    ) as job:
        await job.run()
        assert watch.late == []
        assert job.outcomes() == ["succeeded"] * 6
        assert job.violations() == []
        keys_made = set()
        for result in job.results():
            made, key = new_certificate(job, result), key_of(job, result)
            keys_made.add(public_key(key))
            assert public_key(made) == public_key(key)
            assert str(made.serial_number) == result["result"]["certSN"]
            assert made.subject == watch.requests[result["target"]["assetId"]].subject
            assert made.subject.rfc4514_string() == (
                f"CN={result['target']['assetId']},OU=Meters,O=EnOS,L=Shanghai,ST=Shanghai,C=CN"
            )
            assert authority == "RSA" or "EnOS ECC CA" in made.issuer.rfc4514_string()
        assert len(keys_made) == 6


async def test_the_new_certificate_has_the_subject_of_the_old_one(tmp_path: Path) -> None:
    keys = {"generate": "ecdsa-p256"}
    async with in_this_process(tmp_path, ENOS, "renew", devices(3), keys=keys) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        assert job.violations() == []
        for result in job.results():
            name = new_certificate(job, result).subject.rfc4514_string()
            assert f"CN=device-{result['target']['certSn']}," in name
            assert "1.2.840.113549.1.9.1=device@example.com" in name


async def test_keys_made_before_a_crash_are_used_again(tmp_path: Path) -> None:
    """The crash comes just before the second renewal arrives, when there are keys already."""
    arrived: list[str] = []

    def second(passing: Passing, response: bytes | None) -> bool:
        if passing.action == "renew" and response is None:
            arrived.append(passing.device)
        return len(arrived) == 2

    crash = Crash(second)
    async with in_this_process(
        tmp_path, ENOS, "renew", devices(4), keys=KEYS, between=crash
    ) as job:
        await crash.crash(job)
        before = {path.name: path.read_bytes() for path in (job.run_dir / "keys").iterdir()}
        assert {f"{device}+100{device[1]}.key.pem" for device in arrived} <= set(before)
        await job.run()
        after = {path.name: path.read_bytes() for path in (job.run_dir / "keys").iterdir()}
        assert set(before.values()) <= set(after.values())
        named = {Path(result["result"]["key_file"]).name for result in job.results()}
        assert set(after) == named
        assert job.outcomes() == ["succeeded"] * 4
        assert job.violations(died=True) == []
        for result in job.results():
            assert public_key(new_certificate(job, result)) == public_key(key_of(job, result))


async def test_an_incomplete_subject_fails_only_its_own_target(tmp_path: Path) -> None:
    rows = [*devices(1), {"productKey": "p", "deviceKey": "d", "certSn": 7}]
    keys = {"generate": "ecdsa-p256", "subject": f"{SUBJECT.replace('assetId', 'deviceKey')}"}
    async with in_this_process(tmp_path, ENOS, "renew", rows, keys=keys) as job:
        await job.run()
        assert job.outcomes() == ["failed", "succeeded"]
        assert "the subject needs deviceKey" in job.results()[0]["message"]
        assert len(job.entries("renew")) == 1


async def test_an_odd_old_subject_fails_only_its_own_target(tmp_path: Path) -> None:
    odd = ["", "CN=x, O=Acme, Inc.", "CN=#0c0161", "CN=x, C=China", "no name at all"]

    def change(response: Row) -> Row:
        for item in response["data"]:
            if item["certSN"] != "1000":
                item["subject"] = odd[int(item["certSN"]) - 1001]
        return response

    keys = {"generate": "ecdsa-p256"}
    async with in_this_process(
        tmp_path, ENOS, "renew", devices(6), keys=keys, between=Forger(list=change)
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] + ["failed"] * 5
        for result in job.results()[1:]:
            assert "no signing request can be made: the subject" in result["message"]
            assert job.certificates(result["target"]) == {result["target"]["certSn"]: "valid"}
        assert len(job.entries("renew")) == 1


# ---- signing requests of the target file


async def test_signing_requests_may_be_text_or_files_next_to_the_target_file(
    tmp_path: Path,
) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]
    pems = [signing_request(f"A{n}", key) for n, key in enumerate(keys)]
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "A1.csr").write_text(
        pems[1].replace("BEGIN CERT", "BEGIN NEW CERT").replace("END CERT", "END NEW CERT")
    )
    rows = devices(2)
    rows[0]["csr"], rows[1]["csr"] = pems[0], "requests/A1.csr"
    async with in_this_process(tmp_path, ENOS, "renew", rows) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 2
        assert job.violations() == []
        for key, result in zip(keys, job.results(), strict=True):
            assert public_key(new_certificate(job, result)) == public_key(key)
            assert "key_file" not in result["result"]


async def test_signing_requests_may_be_in_csv(tmp_path: Path) -> None:
    rows = with_requests(devices(2))
    async with in_this_process(tmp_path, ENOS, "renew", rows, targets="targets.csv") as job:
        with (tmp_path / "targets.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        await job.run()
        assert job.outcomes() == ["succeeded"] * 2
        assert [result["line"] for result in job.results()] == [2, 11]


def broken(pem: str) -> str:
    """Change the last bytes of a signing request, so that its signature does not match."""
    lines = pem.splitlines()
    lines[-2] = lines[-2][:-8] + ("AAAA" if lines[-2][-8:-4] != "AAAA" else "BBBB") + lines[-2][-4:]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n",
            "is not a readable certificate signing request",
        ),
        (broken(signing_request("A1")), "signature does not match"),
        ("no-such-file.csr", "cannot be read: No such file"),
        ("/etc", "cannot be read: Is a directory"),
        (5, "must be PEM text, or the path"),
    ],
)
async def test_a_bad_signing_request_is_reported_with_its_line_and_nothing_is_sent(
    tmp_path: Path, csr: Any, reason: str
) -> None:
    rows = with_requests(devices(3))
    rows[1]["csr"] = csr
    async with in_this_process(tmp_path, ENOS, "renew", rows, fleet=devices(3)) as job:
        with pytest.raises(TargetsRejectedError) as caught:
            await job.run()
        (rejection,) = caught.value.first
        assert (rejection.line, rejection.field, caught.value.exit_code) == (2, "csr", 2)
        assert reason in rejection.reason
        assert job.entries("token.get", "renew", "list") == []


async def test_without_a_signing_request_the_key_is_kept(tmp_path: Path) -> None:
    behaviour = {"list_cert": "pem", "seed": 3, "error_after": 0.5, "faults_on": "renew"}
    async with in_this_process(tmp_path, ENOS, "renew", devices(4), behaviour=behaviour) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 4
        assert job.violations() == []
        job.run_dir = tmp_path / "inventory"
        job.write(action="list")
        await job.run()
        for result in job.results():
            old, new = (
                x509.load_pem_x509_certificate(item["cert"].encode())
                for item in result["result"]["certificates"]
            )
            assert public_key(old) == public_key(new)
            assert old.subject == new.subject


# ---- what the provider decides


@pytest.mark.parametrize(
    ("behaviour", "parameters", "refusal"),
    [
        ({"product_max_valid_day": 365}, {"validDay": 366}, "period_too_long"),
        ({"product_max_valid_day": 365}, {}, "period_too_long"),  # the default is 730 days
        ({"bi_directional_auth": False}, {}, "no_two_way_authentication"),
        ({}, {"certStatus": 1}, "original_revoked"),
        ({}, {"effetiveDate": 1000, "expireDate": 2000}, "original_expired"),
        ({"bound": True}, {}, "bound_elsewhere"),
    ],
)
async def test_refusals_are_distinguished(
    tmp_path: Path, behaviour: dict[str, Any], parameters: dict[str, Any], refusal: str
) -> None:
    rows = with_requests(devices(2))
    fleet = [row | parameters for row in devices(2)]
    if behaviour.pop("bound", False):  # the key of another device is refused with 11833
        rows[1]["csr"] = rows[0]["csr"]
    days = {name: value for name, value in parameters.items() if name == "validDay"}
    async with in_this_process(
        tmp_path, ENOS, "renew", rows, fleet=fleet, behaviour=behaviour, parameters=days
    ) as job:
        await job.run()
        refused = [result for result in job.results() if result["outcome"] == "failed"]
        assert refused
        for result in refused:
            assert result["result"] == {"refusal": refusal}
            assert result["code"] in (99400, 11833)
            assert result["attempts"] == 1
        assert job.violations() == []
        assert len(job.executed("renew")) == 2 - len(refused)


async def test_a_clamp_to_what_the_ca_has_left_is_reported(tmp_path: Path) -> None:
    rows = with_requests(devices(2))
    rows[0]["validDay"] = 30
    async with in_this_process(
        tmp_path, ENOS, "renew", rows, behaviour={"ca_life": 40}, parameters={"validDay": 365}
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 2
        exact, clamped = job.results()
        assert exact["result"]["valid_days"] == 30
        assert "asked_days" not in exact["result"]
        assert clamped["message"] == ("OK; valid for 40 days instead of 365: the CA expires then")
        assert (clamped["result"]["valid_days"], clamped["result"]["asked_days"]) == (40, 365)
        assert job.summary()["remarks"] == []
        made = new_certificate(job, clamped)
        assert made.not_valid_after_utc - made.not_valid_before_utc > timedelta(days=39.9)
        assert clamped["result"]["expires_at"].startswith(f"{made.not_valid_after_utc:%Y-%m-%dT}")


async def test_another_validity_than_requested_is_counted(tmp_path: Path) -> None:
    """EnOS documents 730 days for renewals that ask for none, and only its CA may shorten that."""
    rows = with_requests(devices(3))
    rows[0]["validDay"] = 300
    behaviour = {"product_default_valid_day": 365}
    async with in_this_process(tmp_path, ENOS, "renew", rows, behaviour=behaviour) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        asked, *others = job.results()
        assert "remarks" not in asked["result"]
        for other in others:
            assert other["message"] == "OK; valid for 365 days instead of 730"
            assert other["result"]["remarks"] == ["other_validity"]
            assert other["result"]["asked_days"] == 730
        (remark,) = job.summary()["remarks"]
        assert (remark["name"], remark["count"]) == ("other_validity", 2)


# ---- the CA of a new certificate


def without_ca(response: Row) -> Row:
    del response["data"]["caCert"]
    return response


async def test_a_missing_ca_is_fetched_once_from_where_the_response_says(tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path, ENOS, "renew", with_requests(devices(3)), between=Forger(renew=without_ca)
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        for result in job.results():
            chain = (job.run_dir / result["result"]["certificate_file"]).read_bytes()
            certificate, ca = x509.load_pem_x509_certificates(chain)
            certificate.verify_directly_issued_by(ca)
            assert result["message"] == "OK"
            assert result["result"]["certChainURL"].endswith("/enos/CA/cacert/ECC")
        assert len(job.entries("cacert")) == 1
        assert job.violations() == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "the response has neither caCert nor certChainURL"),
        ("ftp://127.0.0.1/ca", "certChainURL is not an https URL"),
        ("{portal}/nothing", "certChainURL could not be fetched: HTTP 404"),
        ("http://127.0.0.1:9/ca", "certChainURL could not be fetched: no connection: "),
    ],
)
async def test_a_ca_that_can_t_be_obtained_is_reported_and_counted(
    tmp_path: Path, url: str | None, reason: str
) -> None:
    def elsewhere(response: Row) -> Row:
        portal = response["data"]["certChainURL"].partition("/enos")[0]
        response["data"]["certChainURL"] = url and url.format(portal=portal)
        return without_ca(response)

    async with in_this_process(
        tmp_path, ENOS, "renew", with_requests(devices(1)), between=Forger(renew=elsewhere)
    ) as job:
        await job.run()
        (result,) = job.results()
        assert result["outcome"] == "succeeded"
        assert "not checked against its CA: the response has" in result["message"]
        assert reason in result["message"]
        assert result["result"]["remarks"] == ["no_ca"]
        assert [remark["name"] for remark in job.summary()["remarks"]] == ["no_ca"]


async def test_a_fetched_ca_must_be_that_of_the_certificate(tmp_path: Path) -> None:
    def another(response: Row) -> Row:
        url = response["data"]["certChainURL"]
        response["data"]["certChainURL"] = url.replace("/ECC", "/RSA")
        return without_ca(response)

    async with in_this_process(
        tmp_path, ENOS, "renew", with_requests(devices(1)), between=Forger(renew=another)
    ) as job:
        await job.run()
        (result,) = job.results()
        assert result["outcome"] == "failed"
        assert "it is not signed by caCert" in result["message"]


# ---- new certificates are checked


Change = Callable[[Row, Row], None]


def other_certificate(data: Row, other: Row) -> None:
    data["cert"] = other["cert"]


def other_serial(data: Row, other: Row) -> None:
    data["certSN"] = other["certSN"]


def other_ca(data: Row, other: Row) -> None:
    data["caCert"] = data["cert"]


def no_certificate_at_all(data: Row, other: Row) -> None:
    data["cert"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (other_certificate, ["serial number is", "public key is not that of the request"]),
        (other_serial, ["its serial number is"]),
        (other_ca, ["it is not signed by caCert"]),
        (no_certificate_at_all, ["it can't be read"]),
    ],
)
async def test_a_certificate_that_is_not_as_requested_fails_and_is_kept(
    tmp_path: Path, change: Change, problems: list[str]
) -> None:
    others: list[Row] = []

    def forge(response: Row) -> Row:
        if others:
            change(response["data"], others[0])
        others.append(dict(response["data"]))  # the first response is left as it is
        return response

    rows, between = with_requests(devices(2)), Forger(renew=forge)
    limits = {"requests_per_second": 5000, "in_flight": 1}
    async with in_this_process(
        tmp_path, ENOS, "renew", rows, between=between, limits=limits
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded", "failed"]
        flawed = job.results()[1]
        assert "is not as requested" in flawed["message"]
        for problem in problems:
            assert problem in flawed["message"]
        kept = job.run_dir / flawed["result"]["certificate_file"]
        assert kept.name == f"A1+1001.{flawed['result']['certSN']}.failed.fullchain.pem"
        assert kept.read_text().startswith("-----BEGIN CERTIFICATE-----\n")
        assert len(job.entries("renew")) == 2


# ---- nothing is lost


@pytest.mark.parametrize("action", ["renew", "rotate"])
async def test_a_certificate_received_before_a_crash_is_used(tmp_path: Path, action: str) -> None:
    """`list` does not show the certificates, so only the files on disk contain them."""
    seen: list[str] = []

    def second_response(passing: Passing, response: bytes | None) -> bool:
        if passing.action == "renew" and response is not None:
            seen.append(passing.device)
        return len(seen) == 2

    crash = Crash(second_response)
    limits = {"requests_per_second": 5000, "in_flight": 1}
    async with in_this_process(
        tmp_path,
        ENOS,
        action,
        with_requests(devices(2)),
        behaviour={"list_cert": "serial"},
        between=crash,
        limits=limits,
    ) as job:
        await crash.crash(job)
        forget_responses(job)
        await job.run()
        first, second = job.results()
        assert first["outcome"] == "succeeded"
        serial = first["result"]["certSN"]
        assert first["result"]["certificate_file"] == f"certificates/A0+1000.{serial}.fullchain.pem"
        assert str(new_certificate(job, first).serial_number) == first["result"]["certSN"]
        assert second["outcome"] == ("succeeded" if action == "renew" else "unknown")
        assert job.violations(died=True) == []


def forget_responses(job: InProcessJob) -> None:
    """Set the checkpoint back to the moment before the responses were recorded."""
    with sqlite3.connect(job.run_dir / "checkpoint.sqlite3") as db:
        db.execute(
            "UPDATE operations SET state = 'in_flight', finished_at = NULL, result = NULL,"
            " step = 0, step_data = ? WHERE state != 'planned'",
            (json.dumps({"taken_at": time.time(), "known": [1000, 1001], "subject": ""}),),
        )
    db.close()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_clock_of_the_provider_may_be_wrong(tmp_path: Path, hours: int) -> None:
    """What was issued at another time, by the provider's own word, may be another's."""

    def shift(response: Row) -> Row:
        for item in response["data"]:
            item["signDate"] += hours * 3_600_000
        return response

    behaviour = {"list_cert": "serial", "renew_revokes_old": False}
    behaviour |= {"seed": 1, "cut_after": 0.5, "faults_on": "renew"}
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        devices(4),
        behaviour=behaviour,
        between=Forger(list=shift),
        keys={"generate": "ecdsa-p256"},
    ) as job:
        await job.run()
        lost = {entry["device"] for entry in job.entries("renew") if entry["fault"]}
        assert 0 < len(lost) < 4
        assert job.outcome_counts() == {"succeeded": 4 - len(lost), "unknown": len(lost)}
        assert set(job.executed("renew").values()) == {1}


@pytest.mark.parametrize("supersedes", [True, False])
async def test_a_certificate_that_cannot_be_written_stops_the_run_and_is_not_lost(
    tmp_path: Path, supersedes: bool
) -> None:
    behaviour = {"renew_revokes_old": supersedes}
    async with in_this_process(
        tmp_path, ENOS, "renew", with_requests(devices(3)), behaviour=behaviour
    ) as job:
        job.plan()
        folder = job.run_dir / "certificates"
        in_the_way = [folder / f"A1+1001.100000000{n}.leaf.pem" for n in (1, 2, 3)]
        for name in in_the_way:
            name.mkdir(parents=True)
        with pytest.raises(RunDirectoryError, match="can't be written") as caught:
            await job.run()
        assert caught.value.exit_code == 3
        assert job.results()[1]["outcome"] == "unknown"
        for name in in_the_way:
            name.rmdir()
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        assert set(job.executed("renew").values()) == {1}
        assert len(job.entries("renew")) == 3


async def test_a_missing_folder_for_certificates_stops_the_run(
    tmp_path: Path,
) -> None:
    async with in_this_process(tmp_path, ENOS, "renew", with_requests(devices(1))) as job:
        job.plan()
        (job.run_dir / "certificates").write_text("in the way")
        with pytest.raises(RunDirectoryError, match="can't be written"):
            await job.run()
        assert job.entries("renew") == []


# ---- the run directory


async def test_the_manifest_says_which_certificate_belongs_to_which_device(tmp_path: Path) -> None:
    fleet = devices(2)
    async with in_this_process(tmp_path, ENOS, "renew", devices(3), fleet=fleet, keys=KEYS) as job:
        await job.run()
        with (job.run_dir / "certificates" / "manifest.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["assetId"], row["replaces"]) for row in rows] == [
            (device["assetId"], str(device["certSn"])) for device in fleet
        ]
        for row, result in zip(rows, job.results(), strict=False):
            assert (row["line"], row["outcome"]) == (str(result["line"]), "succeeded")
            assert row["certSn"] == result["result"]["certSN"]
            for name in (*FILES, "replaces", "valid_from", "expires_at", "subject"):
                assert row[name] == result["result"][name]
            assert f".{row['certSn']}." in row["key_file"]
            new = new_certificate(job, result)
            assert row["fingerprint_sha256"] == new.fingerprint(SHA256()).hex()
            assert row["public_key_sha256"] == hashlib.sha256(public_key(new)).hexdigest()
            contents = [(job.run_dir / row[name]).read_bytes() for name in FILES[:3]]
            leaf, chain, fullchain = map(x509.load_pem_x509_certificates, contents)
            assert (leaf, [*leaf, *chain]) == ([new], fullchain)
            new.verify_directly_issued_by(chain[0])
            assert public_key(new_certificate(job, result)) == public_key(key_of(job, result))
        files = {path.name for path in (job.run_dir / "certificates").iterdir()}
        named = {Path(row[name]).name for row in rows for name in FILES[:3]}
        assert files == named | {"manifest.csv"}


async def test_keys_and_certificates_are_in_their_own_files_only(tmp_path: Path) -> None:
    behaviour = {"seed": 1, "error_after": 0.3, "cut_after": 0.2, "faults_on": "renew,list"}
    async with in_this_process(
        tmp_path, ENOS, "renew", devices(8), behaviour=behaviour, keys=KEYS
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 8
        keys = [path.read_bytes() for path in (job.run_dir / "keys").iterdir()]
        certificates = [path.read_bytes() for path in job.run_dir.glob("certificates/*.leaf.pem")]
        assert (len(keys), len(certificates)) == (8, 8)
        lines = {line for pem in keys + certificates for line in pem.splitlines() if len(line) > 60}
        for path in job.run_dir.iterdir():
            if path.is_file():
                content = path.read_bytes()
                assert b"PRIVATE KEY" not in content
                assert b"BEGIN CERTIFICATE" not in content
                assert not any(line in content for line in lines)
        for path in job.run_dir.rglob("*"):
            wanted = 0o700 if path.is_dir() else 0o600
            if path.parent != job.run_dir or path.is_dir():
                assert path.name == "manifest.csv" or path.stat().st_mode & 0o777 == wanted


def names_of_keys(job: InProcessJob) -> set[str]:
    return {path.name for path in (job.run_dir / "keys").iterdir()}


async def test_a_refused_renewal_leaves_no_key_and_a_retry_makes_a_new_one(tmp_path: Path) -> None:
    behaviour = {"product_max_valid_day": 100}
    rows = [device | {"validDay": days} for device, days in zip(devices(2), (90, 365), strict=True)]
    async with in_this_process(
        tmp_path, ENOS, "renew", rows, behaviour=behaviour, keys=KEYS
    ) as job:
        for retry in (False, True):
            await job.run(retry_failed=retry)
            good, refused = job.results()
            assert refused["result"] == {"refusal": "period_too_long"}
            assert names_of_keys(job) == {Path(good["result"]["key_file"]).name}
        sent = [entry["certSn"] for entry in job.entries("renew")]
        assert sorted(sent) == [1000, 1001, 1001]
        # the operator raises the limit of the product
        object.__setattr__(job.simulator.behaviour, "product_max_valid_day", 1000)
        await job.run(retry_failed=True)
        assert job.outcomes() == ["succeeded"] * 2
        assert names_of_keys(job) == {Path(r["result"]["key_file"]).name for r in job.results()}


async def test_a_key_that_may_have_a_certificate_is_kept(tmp_path: Path) -> None:
    behaviour = {"cut_before": 1.0, "faults_on": "renew"}
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        devices(2),
        behaviour=behaviour,
        keys=KEYS,
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        assert job.outcomes() == ["failed"] * 2
        assert names_of_keys(job) == {"A0+1000.key.pem", "A1+1001.key.pem"}


# ---- PKCS#12

PASSWORD = "correct horse, battery staple"
PKCS12 = {"pkcs12_password_env": "P12_PASSWORD"}


async def test_keys_and_certificates_are_kept_as_pkcs12_on_request(tmp_path: Path) -> None:
    behaviour = {"seed": 1, "error_after": 0.3, "cut_after": 0.2, "faults_on": "renew"}
    async with in_this_process(
        tmp_path,
        ENOS,
        "rotate",
        devices(3),
        behaviour=behaviour,
        keys=KEYS,
        certificates=PKCS12,
        credentials=CREDENTIALS | {"P12_PASSWORD": PASSWORD},
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded"] * 3
        for result in job.results():
            path = job.run_dir / result["result"]["p12_file"]
            assert path.name.endswith(
                f"+{result['target']['certSn']}.{result['result']['certSN']}.p12"
            )
            assert path.stat().st_mode & 0o777 == 0o600
            read = load_pkcs12(path.read_bytes(), PASSWORD.encode())
            assert public_key(read.key) == public_key(key_of(job, result))
            assert read.cert is not None
            assert read.cert.certificate == new_certificate(job, result)
            assert read.cert.friendly_name == result["target"]["assetId"].encode()
            chain = (job.run_dir / result["result"]["chain_file"]).read_bytes()
            authorities = [each.certificate for each in read.additional_certs]
            assert authorities == x509.load_pem_x509_certificates(chain)
        for path in job.run_dir.rglob("*"):
            assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


async def test_a_flawed_certificate_is_not_kept_as_pkcs12(tmp_path: Path) -> None:
    def with_other_ca(response: Row) -> Row:
        other_ca(response["data"], {})
        return response

    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        devices(1),
        between=Forger(renew=with_other_ca),
        keys=KEYS,
        certificates=PKCS12,
        credentials=CREDENTIALS | {"P12_PASSWORD": PASSWORD},
    ) as job:
        await job.run()
        (flawed,) = job.results()
        assert flawed["outcome"] == "failed"
        assert (job.run_dir / flawed["result"]["key_file"]).exists()
        assert "p12_file" not in flawed["result"]
        assert not list(job.run_dir.rglob("*.p12"))


@pytest.mark.parametrize("password", [None, "", "\n", "pass\tword", "p\u00e4ssword"])
async def test_without_its_password_nothing_is_sent(tmp_path: Path, password: str | None) -> None:
    given = {} if password is None else {"P12_PASSWORD": password}
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        devices(1),
        keys=KEYS,
        certificates=PKCS12,
        credentials=CREDENTIALS | given,
    ) as job:
        with pytest.raises(CredentialsError, match="P12_PASSWORD") as caught:
            await job.run()
        assert caught.value.exit_code == 2
        assert not (password or "").strip() or password not in str(caught.value)
        assert job.simulator.requests == 0


# ---- a compromise


def warned(folder: Path, job: Path) -> bool:
    ended = bulkcert("plan", job, folder=folder)
    assert ended.code == 0, ended.err
    return "keeps the old key" in ended.out


@pytest.mark.parametrize(
    ("name", "keys", "requests", "warns"),
    [
        ("key-compromise-2026-11", {}, 0, True),
        ("Compromised pumps", {}, 0, True),
        ("key-compromise-2026-11", KEYS, 0, False),
        ("key-compromise-2026-11", {}, 2, False),
        ("yearly", {}, 0, False),
        ("key-compromise-2026-11", {}, 1, True),
    ],
)
async def test_a_renewal_after_a_compromise_needs_a_new_key(
    tmp_path: Path, name: str, keys: Row, requests: int, warns: bool
) -> None:
    rows = [*with_requests(devices(requests)), *devices(2)[requests:]]
    sections = {"keys": keys} if keys else {}
    async with in_this_process(tmp_path, ENOS, "renew", rows, name=name, **sections) as job:
        assert await asyncio.to_thread(warned, tmp_path, job.job_file) is warns


async def test_a_run_also_warns_about_a_kept_key(tmp_path: Path) -> None:
    async with in_this_process(tmp_path, ENOS, "renew", devices(1), name="key-compromise") as job:
        run = ["run", job.job_file, "--yes", "--run-dir", job.run_dir]
        ended = await asyncio.to_thread(bulkcert, *run, folder=tmp_path, environment=CREDENTIALS)
        assert ended.code == 0
        assert "keeps the old key" in ended.err
