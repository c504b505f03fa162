"""`[select]`: which certificates of a device are selected, and that each is acted on once."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from enos_vendor import ENOS, devices, signed_certificate, signing_request
from go_between import Crash, CutError, Forger, GoBetween, Passing
from harness import InProcessJob, as_a_process, in_this_process
from job_folder import Row

import bulkcert
from bulkcert.cli import main
from bulkcert.cli.outlook import outlook
from bulkcert.cli.plan_screen import describe
from bulkcert.errors import JobError
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.enos.inventory import NO_SERIAL, Certificate, Status
from bulkcert.providers.enos.query import Selection
from bulkcert.providers.enos.selection import (
    DAY_MS,
    issue_authority,
    matches,
    moment,
    public_key,
    selected,
    status,
)

pytestmark = pytest.mark.system

TODAY = datetime.now(UTC).date().isoformat()
OLD = {"issued_before": TODAY}
"""A revocation must not be able to hit what replaces its certificates."""
NOW_S = 1_795_000_000.0
NOW_MS = int(NOW_S * 1000)

CERTIFICATE = Certificate(
    serial=5,
    status=Status.VALID,
    issuer="CN=EnOS CA, O=EnOS, C=CN",
    subject="CN=Pump 7, OU=Straße, C=CN",
    issued_ms=NOW_MS - 100 * DAY_MS,
    effective_ms=None,
    expires_ms=NOW_MS + 30 * DAY_MS,
    revoker="",
    revoker_reason="",
    issue_authority="RSA",
    pem="",
)


def changed(**values: Any) -> Certificate:
    names = Certificate.__slots__
    return Certificate(**{name: getattr(CERTIFICATE, name) for name in names} | values)


# ---- one condition


@pytest.mark.parametrize(
    ("selection", "met"),
    [
        ({}, True),
        ({"status": "valid"}, True),
        ({"status": "revoked"}, False),
        ({"status": "expired"}, False),
        ({"issued_before": NOW_MS - 100 * DAY_MS}, False),
        ({"issued_before": NOW_MS - 100 * DAY_MS + 1}, True),
        ({"issued_after": NOW_MS - 100 * DAY_MS}, True),
        ({"issued_after": NOW_MS - 100 * DAY_MS + 1}, False),
        ({"expires_within_days": 30}, False),
        ({"expires_within_days": 31}, True),
        ({"issue_authority": "RSA"}, True),
        ({"issue_authority": "ECC"}, False),
        ({"issuer": "CN=EnOS CA, O=EnOS, C=CN"}, True),
        ({"issuer": "CN=EnOS CA"}, False),
        ({"subject_contains": "pump 7"}, True),
        ({"subject_contains": "STRASSE"}, True),
        ({"subject_contains": "pump 8"}, False),
        ({"status": "valid", "issue_authority": "RSA"}, True),
        ({"status": "valid", "issue_authority": "ECC"}, False),
        ({"status": "revoked", "issue_authority": "RSA"}, False),
    ],
)
def test_all_conditions_must_hold(selection: dict[str, Any], met: bool) -> None:
    assert matches(CERTIFICATE, selection, NOW_S) is met


def test_an_expired_certificate_expires_within_any_number_of_days() -> None:
    expired = changed(expires_ms=NOW_MS - 1, status=Status.EXPIRED)
    assert matches(expired, {"expires_within_days": 0}, NOW_S)


@pytest.mark.parametrize(
    ("selection", "lacking", "member"),
    [
        *(({"issued_before": at}, "issued_ms", "signDate") for at in (0, NOW_MS, 10**15)),
        *(({"issued_after": at}, "issued_ms", "signDate") for at in (-1, 0, NOW_MS)),
        ({"expires_within_days": 0}, "expires_ms", "expireDate"),
        ({"expires_within_days": 10**6}, "expires_ms", "expireDate"),
        ({"issue_authority": "RSA"}, "issue_authority", "issueAuthority"),
        ({"issuer": "CN=EnOS CA"}, "issuer", "issuer"),
        ({"subject_contains": "pump"}, "subject", "subject"),
    ],
)
def test_a_condition_about_something_that_is_not_shown_can_not_be_judged(
    selection: dict[str, Any], lacking: str, member: str
) -> None:
    odd = changed(**{lacking: None if lacking.endswith("_ms") else ""})
    [condition] = selection
    with pytest.raises(
        ValueError,
        match=rf"^select\.{condition} can't be judged: certificate 5 has no readable {member}",
    ):
        selected([changed(serial=4), odd], selection, NOW_S)
    # it does not matter if another condition excludes the certificate anyway
    assert selected([odd], selection | {"status": "revoked"}, NOW_S) == []
    assert not matches(odd, {"status": "expired"} | selection, NOW_S)


def test_an_unclear_status_can_not_be_judged() -> None:
    odd = changed(status=Status.UNCLEAR, doubt="has the unknown status 3")
    with pytest.raises(ValueError, match="certificate 5 has the unknown status 3"):
        matches(odd, {"status": "valid"}, NOW_S)
    assert matches(odd, {"issue_authority": "RSA"}, NOW_S)


def test_a_certificate_without_a_number_matters_unless_it_is_excluded() -> None:
    odd = changed(serial=NO_SERIAL)
    assert not matches(odd, {"issue_authority": "ECC"}, NOW_S)
    with pytest.raises(ValueError, match=r"^a certificate without a readable serial number may"):
        matches(odd, {"issue_authority": "RSA"}, NOW_S)
    with pytest.raises(ValueError, match=rf"^certificate {2**63} may match"):
        matches(changed(serial=2**63), {"issue_authority": "RSA"}, NOW_S)
    with pytest.raises(ValueError, match=r"^select\.issuer can't be judged: a certificate without"):
        matches(changed(serial=NO_SERIAL, issuer=""), {"issuer": "x"}, NOW_S)


@pytest.mark.parametrize(
    ("key", "authority"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ECC"),
        (rsa.generate_private_key(65537, 2048), "RSA"),
    ],
    ids=["ecdsa", "rsa"],
)
def test_what_the_list_leaves_out_is_read_from_the_certificate(key: Any, authority: str) -> None:
    """An authority signs with a key of its own kind."""
    certificate = changed(issue_authority="", expires_ms=None, pem=signed_certificate(key))
    assert matches(certificate, {"issue_authority": authority}, NOW_S)
    assert not matches(certificate, {"issue_authority": "RSA ECC".replace(authority, "")}, NOW_S)
    days_left = (datetime(2027, 1, 1, tzinfo=UTC).timestamp() - NOW_S) / 86_400
    assert matches(certificate, {"expires_within_days": days_left + 0.1}, NOW_S)
    assert not matches(certificate, {"expires_within_days": days_left - 0.1}, NOW_S)


def test_a_public_key_is_found_in_the_certificate_itself() -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = sha256(der).hexdigest()
    colons = ":".join(digest[n : n + 2] for n in range(0, 64, 2)).upper()
    for written in (pem, digest, f" {digest.upper()}\n", colons):
        assert public_key(written) == digest
    conditions = {"public_key": digest}
    assert matches(changed(pem=signed_certificate(key)), conditions, NOW_S)
    assert not matches(changed(pem=signed_certificate(other)), conditions, NOW_S)
    with pytest.raises(ValueError, match="certificate 5 has no readable cert"):
        matches(CERTIFICATE, conditions, NOW_S)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ValueError, match="must be the SHA-256 of a public key"):
        public_key(secret)


async def test_the_certificates_of_a_compromised_key_are_revoked(tmp_path: Path) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    keys = {"20": key, "31": other, "32": key, "33": other, "30": other, "10": other, "40": other}

    def with_certificates(response: dict[str, Any]) -> dict[str, Any]:
        for item in response["data"]:
            item["cert"] = signed_certificate(keys[item["certSN"]])
        return response

    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        NAMES,
        fleet=fleet(),
        select={"public_key": pem},
        between=Forger(list=with_certificates),
    ) as job:
        await job.run()
        assert sorted(int(key.serial) for key in job.executed("revoke")) == [20, 32]


async def test_the_key_may_be_in_a_file_beside_the_job(tmp_path: Path) -> None:
    """A run is about the key, not about the file: the stored settings have its digest only."""
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = sha256(der).hexdigest()
    async with in_this_process(
        tmp_path, ENOS, "revoke", NAMES, select={"public_key": "leaked.pem"}
    ) as job:
        (job.folder / "leaked.pem").write_bytes(secret)
        assert bulkcert.load_job(job.job_file).select == {"public_key": digest}
        planned = CliRunner().invoke(main, ["plan", str(job.job_file)])
        assert planned.exit_code == 0, planned.output
        assert f"have the public key with the SHA-256 {digest}" in planned.output
        with bulkcert.Run(bulkcert.load_job(job.job_file), job.run_dir):
            pass
        (job.folder / "leaked.pem").unlink()
        (job.folder / "leaked.der").write_bytes(der)
        job.write(select={"public_key": "leaked.der"})
        with bulkcert.Run(bulkcert.load_job(job.job_file), job.run_dir) as run:
            assert run.plan is None  # goes on
        kept = b"".join(path.read_bytes() for path in job.run_dir.rglob("*") if path.is_file())
        assert digest.encode() in kept
        assert all(line not in kept for line in secret.splitlines()[1:-1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "in 64 hexadecimal digits, or the path of a file with the key; "),
        (b"", "which can't be read; it must be a certificate"),
        (b"x" * 2**21, "which is larger than 1 MiB"),
    ],
)
async def test_a_file_without_a_key_is_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    async with in_this_process(
        tmp_path, ENOS, "revoke", NAMES, select={"public_key": "leaked.pem"}
    ) as job:
        if content is not None:
            (job.folder / "leaked.pem").write_bytes(content)
        with pytest.raises(JobError) as caught:
            bulkcert.load_job(job.job_file)
        assert reason in str(caught.value)
        assert "leaked.pem" in str(caught.value)


async def test_a_device_with_a_certificate_that_can_not_be_compared_is_reported(
    tmp_path: Path,
) -> None:
    """Nothing of it is revoked: but what is known to have the key is named."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def with_certificates(response: dict[str, Any]) -> dict[str, Any]:
        for item in response["data"]:
            item["cert"] = item["certSN"] if item["certSN"] == "31" else signed_certificate(key)
        return response

    rows: list[dict[str, Any]] = [{"assetId": "A1"}, {"assetId": "A2"}]
    devices = [{"assetId": "A1", "certSn": n} for n in (30, 31, 32)] + [
        {"assetId": "A2", "certSn": 40}
    ]
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        rows,
        fleet=devices,
        select={"public_key": sha256(der).hexdigest()},
        between=Forger(list=with_certificates),
    ) as job:
        await job.run()
        assert job.outcomes() == ["failed", "succeeded"]
        assert sorted(int(key.serial) for key in job.executed("revoke")) == [40]
        [failed, _] = job.results()
        assert failed["message"] == (
            "select.public_key can't be judged: certificate 31 has no readable cert. Nothing was"
            " done for this device; these match: 30, 32"
        )


def test_a_certificate_that_can_not_be_read_says_nothing() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match="has no readable issueAuthority"):
        matches(changed(issue_authority="", pem=pem), {"issue_authority": "RSA"}, NOW_S)


def test_a_certificate_that_is_listed_twice_is_selected_once() -> None:
    assert selected([changed(serial=9), CERTIFICATE, CERTIFICATE], {}, NOW_S) == [5, 9]


def test_a_certificate_that_is_listed_twice_must_match_twice() -> None:
    twice = [CERTIFICATE, changed(issue_authority="ECC")]
    with pytest.raises(ValueError, match="certificate 5 is listed twice, and only one of them"):
        selected(twice, {"issue_authority": "RSA"}, NOW_S)


# ---- the values of a job file


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (date(2026, 11, 21), datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        (" 2026-11-21 12:30 ", datetime(2026, 11, 21, 12, 30, tzinfo=UTC)),
        (datetime(2026, 11, 21, 12, 30), datetime(2026, 11, 21, 12, 30, tzinfo=UTC)),  # noqa: DTZ001
        (
            datetime(2026, 11, 21, 12, 30, tzinfo=timezone(timedelta(hours=8))),
            datetime(2026, 11, 21, 4, 30, tzinfo=UTC),
        ),
        ("2026-11-21T12:30:00+08:00", datetime(2026, 11, 21, 4, 30, tzinfo=UTC)),
        (date(1, 1, 1), datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_dates_are_in_utc_unless_they_say_so(value: object, at: datetime) -> None:
    assert moment(value) == int(at.timestamp() * 1000)


@pytest.mark.parametrize("value", ["", "tomorrow", "21.11.2026", "2026-13-01", 20261121, None, []])
def test_other_values_are_not_dates(value: object) -> None:
    with pytest.raises(ValueError, match="must be a date such as 2026-11-21"):
        moment(value)


def test_names_may_have_any_letter_case() -> None:
    assert (status(" Valid "), issue_authority("ecc")) == ("valid", "ECC")
    with pytest.raises(ValueError, match="one of valid, revoked, expired, not 'good'"):
        status("good")
    with pytest.raises(ValueError, match="must be RSA or ECC, not 'RAS'"):
        issue_authority("RAS")


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        ({"stauts": "valid"}, "select.stauts is not known; the nearest is status"),
        ({"status": "good"}, "select.status must be one of valid, revoked, expired"),
        ({"issued_before": "soon"}, "select.issued_before must be a date"),
        ({"issued_after": 5}, "select.issued_after must be a date"),
        ({"expires_within_days": -1}, "select.expires_within_days must not be negative"),
        ({"expires_within_days": "many"}, "select.expires_within_days must be a whole number"),
        ({"issue_authority": "DSA"}, "select.issue_authority must be RSA or ECC"),
        ({"subject_contains": ""}, "select.subject_contains is empty"),
        ({"public_key": "9f86"}, "select.public_key must be the SHA-256 of a public key"),
        ({"public_key": 5}, "select.public_key must be the SHA-256 of a public key"),
        ({"certSn": 5}, "select.certSn"),
        ({}, "select names no condition"),
    ],
)
async def test_a_bad_selection_is_reported_before_anything_is_sent(
    tmp_path: Path, select: dict[str, Any], reason: str
) -> None:
    async with in_this_process(tmp_path, ENOS, "revoke", [{"assetId": "A0"}], select=select) as job:
        with pytest.raises(JobError) as caught:
            bulkcert.load_job(job.job_file)
        assert reason in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        (
            {"status": "valid"},
            "select needs issued_before or public_key for the action revoke: repeated without it",
        ),
        (
            {"issued_before": "2100-01-01"},
            "select.issued_before is in the future (2100-01-01 00:00 UTC): it would select every",
        ),
        (
            {"issued_after": "2100-01-01", "issued_before": "2020-01-01"},
            "select.issued_after is in the future (2100-01-01 00:",
        ),
    ],
)
async def test_a_selection_that_could_hit_the_replacements_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: dict[str, Any], reason: str
) -> None:
    async with in_this_process(tmp_path, ENOS, "revoke", NAMES, select=select) as job:
        monkeypatch.chdir(tmp_path)
        planned = CliRunner().invoke(main, ["plan", str(job.job_file)])
        assert isinstance(planned.exception, JobError | SystemExit)
        assert planned.exit_code
        [unsafe] = bulkcert.load_job(job.job_file).unsafe
        assert unsafe.startswith(reason)
        assert job.entries() == []


@pytest.mark.parametrize(
    ("select", "before_ms"),
    [
        ({"status": "valid"}, 5_000),
        ({"issued_before": "2100-01-01"}, 5_000),
        ({"issued_before": "1970-01-01T00:00:04Z"}, 4_000),
        ({"public_key": "0" * 64}, None),
        ({}, None),
    ],
)
async def test_a_run_never_hits_what_was_issued_after_it_began(
    tmp_path: Path, select: dict[str, Any], before_ms: int | None
) -> None:
    sections = {"select": select} if select else {}
    async with in_this_process(tmp_path, ENOS, "revoke", devices(1), **sections) as job:
        selection = bulkcert.load_job(job.job_file).selection(planned_at_s=5.0)
        assert selection.get("issued_before") == before_ms
        assert selection.keys() - {"issued_before"} == select.keys() - {"issued_before"}


async def test_replacements_issued_while_a_run_is_stopped_are_not_hit(tmp_path: Path) -> None:
    """The operator overruled the refusal; the date of the job has not come yet."""
    select = {"status": "valid", "issued_before": "2100-01-01"}
    replaced = {"certSN": "999", "signDate": int(datetime.now(UTC).timestamp() * 1000) + 60_000}

    def replace(response: dict[str, Any]) -> dict[str, Any]:
        return response | {"data": [response["data"][0], response["data"][0] | replaced]}

    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        NAMES[1:2],
        fleet=fleet(),
        select=select,
        between=Forger(list=replace),
    ) as job:
        await job.run()
        assert [int(key.serial) for key in job.executed("revoke")] == [20]
        assert job.outcomes() == ["succeeded"]


@pytest.mark.parametrize("action", ["renew", "rotate"])
async def test_other_actions_may_select_without_a_date(tmp_path: Path, action: str) -> None:
    select, keys = {"status": "valid"}, {"generate": "ecdsa-p256"}
    async with in_this_process(
        tmp_path, ENOS, action, [{"assetId": "A0"}], select=select, keys=keys
    ) as job:
        assert bulkcert.load_job(job.job_file).select == select


async def test_the_plan_shows_in_words_what_can_be_selected(tmp_path: Path) -> None:
    select = {
        "status": "valid",
        "issued_before": "2026-01-01T12:00:00+08:00",
        "expires_within_days": 30,
        "issue_authority": "ECC",
    }
    async with in_this_process(tmp_path, ENOS, "revoke", [{"assetId": "A0"}], select=select) as job:
        plan = job.plan()
        assert plan
        loaded = bulkcert.load_job(job.job_file)
        assert (
            "  select         certificates that are valid, and were issued before 2026-01-01 04:00"
            " UTC, and expire within 30 days or have expired, and were issued by the ECC authority;"
            " a target may be several operations"
        ) in describe(loaded, plan, outlook(loaded, plan, 0.0), job.run_dir)


async def test_reading_takes_no_selection(tmp_path: Path) -> None:
    async with in_this_process(
        tmp_path, ENOS, "list", [{"assetId": "A0"}], select={"status": "valid"}
    ) as job:
        with pytest.raises(JobError, match=r"select\.status"):
            bulkcert.load_job(job.job_file)


# ---- runs

DAY = 86_400_000


def fleet() -> list[Row]:
    """A0 has no valid certificate, A1 one, A2 three and a revoked one, A3 an expired one."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    valid = {"effetiveDate": now - 100 * DAY, "expireDate": now + 10 * DAY}
    expired = {"effetiveDate": now - 100 * DAY, "expireDate": now - DAY}
    return [
        {"assetId": "A0", "certSn": 10, "certStatus": 1, **valid},
        {"assetId": "A1", "certSn": 20, **valid},
        {"assetId": "A2", "certSn": 33, **valid},
        {"assetId": "A2", "certSn": 31, **valid, "expireDate": now + 300 * DAY},
        {"assetId": "A2", "certSn": 32, **valid, "issueAuthority": "ECC"},
        {"assetId": "A2", "certSn": 30, "certStatus": 1, **valid},
        {"assetId": "A3", "certSn": 40, **expired},
    ]


NAMES = [{"assetId": f"A{n}"} for n in range(4)]


@pytest.mark.parametrize(
    ("select", "wanted"),
    [
        ({"status": "valid"}, [20, 31, 32, 33]),
        ({"status": "valid", "issue_authority": "ecc"}, [32]),
        ({"status": "valid", "expires_within_days": 30}, [20, 32, 33]),
        ({"expires_within_days": 0}, [40]),
        (
            {"status": "valid", "issued_after": "2020-01-01", "subject_contains": "device-3"},
            [31, 32, 33],
        ),
        ({"issued_before": "2020-01-01"}, []),
    ],
)
async def test_exactly_the_matching_certificates_are_acted_on(
    tmp_path: Path, select: dict[str, Any], wanted: list[int]
) -> None:
    behaviour = {"revoke_expired": "ok"}
    async with in_this_process(
        tmp_path, ENOS, "revoke", NAMES, fleet=fleet(), select=OLD | select, behaviour=behaviour
    ) as job:
        summary = await job.run()
        assert sorted(int(key.serial) for key in job.executed("revoke")) == wanted
        assert not_as_promised(job, wanted) == []
        assert summary.exit_code == 0


def not_as_promised(job: InProcessJob, wanted: list[int], **circumstances: Any) -> list[str]:
    """List what is wrong with a run that should have acted on these certificates."""
    wrong = job.violations(**circumstances)
    lines = {row["assetId"]: line for line, row in enumerate(job.rows, 1)}
    reported = [
        (result["line"], result["target"].get("certSn"), result["outcome"])
        for result in job.results()
    ]
    expected = [(lines[f"A{serial // 10 - 1}"], serial, "succeeded") for serial in wanted]
    found = {line for line, _, _ in expected}
    expected += [(line, None, "already_done") for line in lines.values() if line not in found]
    if sorted(reported, key=str) != sorted(expected, key=str):
        wrong.append(f"reported: {reported}, expected: {expected}")
    if [line for line, _, _ in reported] != sorted(line for line, _, _ in reported):
        wrong.append(f"not in order: {reported}")
    summary = json.loads((job.run_dir / "summary.json").read_text())
    outcomes = ("succeeded", "already_done", "failed", "unknown", "pending")
    if not summary["total"] == len(reported) == sum(summary[name] for name in outcomes):
        wrong.append(f"does not add up: {summary}")
    return wrong


async def test_a_device_without_a_match_says_so(tmp_path: Path) -> None:
    select = OLD | {"status": "revoked"}
    rows, existing = [{"assetId": "A2"}, {"assetId": "A3"}], fleet()[2:]
    async with in_this_process(
        tmp_path, ENOS, "revoke", rows, fleet=existing, select=select
    ) as job:
        await job.run()
        assert job.outcomes() == ["already_done", "already_done"]
        one, none = job.results()
        assert one["target"] == {"assetId": "A2", "certSn": 30}
        assert none["target"] == {"assetId": "A3"}
        assert none["message"] == "none of its 1 certificates matches [select]"
        assert (none["attempts"], none["result"]) == (0, None)


@pytest.mark.parametrize("action", ["revoke", "renew", "rotate"])
async def test_every_action_can_select_despite_faults(tmp_path: Path, action: str) -> None:
    faults = ("error_after", "cut_after", "error_before", "page_before", "json_cut_short")
    behaviour = {"seed": 2, "list_cert": "pem", **dict.fromkeys(faults, 0.07)}
    behaviour["faults_on"] = "list,revoke,renew"
    keys = {"keys": {"generate": "ecdsa-p256"}} if action != "revoke" else {}
    select = {"status": "valid", "issued_before": TODAY}
    async with in_this_process(
        tmp_path, ENOS, action, NAMES, fleet=fleet(), select=select, behaviour=behaviour, **keys
    ) as job:
        await job.run()
        assert not_as_promised(job, [20, 31, 32, 33]) == []
        first = "revoke" if action == "revoke" else "renew"
        assert set(job.executed(first).values()) == {1}
        assert len(job.executed(first)) == 4


async def test_with_a_selection_the_column_of_serial_numbers_is_not_used(tmp_path: Path) -> None:
    rows = [row | {"certSn": 999} for row in NAMES]
    async with in_this_process(
        tmp_path, ENOS, "revoke", rows, fleet=fleet(), select=OLD | {"status": "valid"}
    ) as job:
        plan = job.plan()
        assert plan
        assert plan.unused_columns == ("certSn",)
        await job.run()
        assert sorted(int(key.serial) for key in job.executed("revoke")) == [20, 31, 32, 33]


async def test_a_key_shared_by_several_renewals_identifies_none_of_them(tmp_path: Path) -> None:
    """The signing request of a row is used for each selected certificate; one renewal is lost."""

    class LosesOne(GoBetween):
        async def before(self, passing: Passing) -> None:
            if passing.action == "renew" and passing.body["certSn"] == 32:
                raise CutError

    rows = [{"assetId": "A2", "csr": signing_request("A2")}]
    select = {"status": "valid", "expires_within_days": 30}
    behaviour = {"renew_revokes_old": False}
    async with in_this_process(
        tmp_path,
        ENOS,
        "renew",
        rows,
        fleet=fleet(),
        select=select,
        behaviour=behaviour,
        between=LosesOne(),
    ) as job:
        await job.run()
        assert job.outcomes() == ["unknown", "succeeded"]
        assert job.violations() == []


@pytest.mark.parametrize(("code", "outcomes"), [("99403", 4), ("99400", 4), ("", 1)])
async def test_a_list_that_is_refused_fails_its_target(
    tmp_path: Path, code: str, outcomes: int
) -> None:
    existing = [row for row in fleet() if row["assetId"] != "A3"]
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        NAMES,
        fleet=existing,
        select=OLD | {"status": "valid"},
        behaviour={"refuse_all": code},
    ) as job:
        await job.run()
        failed = [result for result in job.results() if result["outcome"] == "failed"]
        assert len(failed) == outcomes
        assert {result["code"] for result in failed} == {int(code or 11404)}
        assert {(result["attempts"], result["result"]) for result in failed} == {(0, None)}
        assert failed[-1]["target"] == {"assetId": "A3"}
        assert job.violations() == []


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"signDate": None}, "select.issued_before can't be judged: certificate 20 has no"),
        ({"signDate": 0}, "select.issued_before can't be judged: certificate 20 has no readable"),
        ({"certStatus": 7}, "select.status can't be judged: certificate 20 has the unknown status"),
        ({"certSN": "4A:3F"}, "a certificate without a readable serial number may match [select]"),
    ],
)
async def test_what_can_not_be_judged_fails_its_target(
    tmp_path: Path, odd: dict[str, Any], reason: str
) -> None:
    def make_odd(response: dict[str, Any]) -> dict[str, Any]:
        more = {"certSN": "21", "certStatus": 1}
        return response | {"data": [response["data"][0] | odd, response["data"][0] | more]}

    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        NAMES[1:2],
        fleet=fleet(),
        select={"status": "valid", "issued_before": TODAY},
        between=Forger(list=make_odd),
    ) as job:
        summary = await job.run()
        assert (job.outcomes(), summary.exit_code) == (["failed"], 1)
        assert reason in job.results()[0]["message"]
        assert job.entries("revoke") == []
        assert len(job.entries("list")) == 1


async def test_dates_as_digits_in_text_are_read(tmp_path: Path) -> None:
    def as_text(response: dict[str, Any]) -> dict[str, Any]:
        for item in response["data"]:
            item |= {name: str(item[name]) for name in ("signDate", "effetiveDate", "expireDate")}
            item["certStatus"] = str(item["certStatus"])
        return response

    select = {"status": "valid", "issued_before": TODAY, "expires_within_days": 30}
    between = Forger(list=as_text)
    async with in_this_process(
        tmp_path, ENOS, "revoke", NAMES, fleet=fleet(), select=select, between=between
    ) as job:
        await job.run()
        assert sorted(int(key.serial) for key in job.executed("revoke")) == [20, 32, 33]


@pytest.mark.parametrize("data", [{}, "", [None], [{"certStatus": "0"}], 0])
async def test_an_unreadable_list_selects_nothing(tmp_path: Path, data: Any) -> None:
    between = Forger(list=lambda response: response | {"data": data})
    retry = {"max_attempts": 2}
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        NAMES[1:2],
        fleet=fleet(),
        select=OLD | {"status": "valid"},
        between=between,
        retry=retry,
    ) as job:
        summary = await job.run()
        assert (job.outcomes(), summary.exit_code) == (["failed"], 1)
        assert job.entries("revoke") == []


@pytest.mark.parametrize("after_answer", [False, True])
@pytest.mark.parametrize("action", ["list", "revoke"])
async def test_a_crash_between_look_up_and_action_is_safe(
    tmp_path: Path, action: str, after_answer: bool
) -> None:
    seen: list[str] = []

    def third(passing: Passing, response: bytes | None) -> bool:
        if passing.action == action and (response is not None) == after_answer:
            seen.append(passing.device)
        return len(seen) == 3

    crash = Crash(third)
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        NAMES,
        fleet=fleet(),
        select=OLD | {"status": "valid"},
        between=crash,
    ) as job:
        await crash.crash(job)
        await job.run()
        assert not_as_promised(job, [20, 31, 32, 33], died=True) == []
        assert set(job.executed("revoke").values()) == {1}


async def test_look_ups_that_find_nothing_do_not_count_as_failures(tmp_path: Path) -> None:
    rows = [{"assetId": f"A{n}"} for n in range(400)]
    async with in_this_process(
        tmp_path,
        ENOS,
        "revoke",
        rows,
        fleet=devices(400),
        select=OLD | {"status": "revoked"},
        limits={"requests_per_second": 300},
        circuit_breaker={"stop_after_seconds": 0.5},
    ) as job:
        await job.run()
        assert set(job.outcomes()) == {"already_done"}


def test_a_run_with_a_selection_survives_kill_9(tmp_path: Path) -> None:
    """The process is killed twice while look-ups and actions are mixed."""
    rows = [{"assetId": f"A{number:04}"} for number in range(30)]
    existing = [{"assetId": f"A{n % 30:04}", "certSn": 1000 + n} for n in range(60)]
    faults = {"error_after": 0.1, "cut_after": 0.1, "faults_on": "list,revoke", "seed": 4}
    with as_a_process(tmp_path, ENOS, "revoke", rows, fleet=existing, **faults) as job:
        job.write(select=OLD | {"status": "valid"}, limits={"requests_per_second": 100})
        for requests in (20, 50):
            with job.start("--yes") as command:
                assert job.await_requests(requests, command)
                command.kill()
        ended = job.run()
        assert ended.code == 0, ended.err
        assert len(job.results()) == 60
        assert job.violations(died=True, jitter=100) == []
        executed = [e["certSn"] for e in job.entries() if e["executed"]]
        assert sorted(executed) == list(range(1000, 1060))


def test_what_expires_soon_does_not_depend_on_how_long_a_run_takes() -> None:
    """A run that waits for its window for two days must not do more than what was planned."""
    elapsed_s = 1_000.0
    clock = ProviderClock(lambda: elapsed_s)
    clock.learn({"Date": "Thu, 01 Jan 1970 00:20:00 GMT"})  # 1,200 s
    setup = SimpleNamespace(selection={}, clock=clock, planned_s=elapsed_s - 100)
    selection = Selection(cast(Any, None), cast(Any, setup))
    assert selection.now_s() == 1_100
    elapsed_s += 2 * 86_400
    assert selection.now_s() == 1_100
