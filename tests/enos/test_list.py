"""`list`: the inventory of a fleet, with every documented member of each certificate."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from enos_vendor import ENOS
from go_between import Forger
from harness import InProcessJob, in_this_process
from job_folder import Row
from processes import bulkcert

pytestmark = pytest.mark.system

DAY_MS = 86_400_000
NOW_MS = int(datetime.now(UTC).timestamp()) * 1000
COLUMNS = (
    *("certSN", "status", "issuer", "subject", "signDate", "effectiveDate", "expireDate"),
    *(
        "revoker",
        "revokerReason",
        "isEnosCert",
        "issueAuthority",
        "audit",
        "public_key_sha256",
        "cert",
    ),
)


def fleet() -> list[Row]:
    """A0 has a valid, a revoked and an expired certificate, A1 one by the other authority."""
    dates = {"effetiveDate": NOW_MS - 100 * DAY_MS, "expireDate": NOW_MS + 100 * DAY_MS}
    return [
        {"assetId": "A0", "certSn": 10, **dates},
        {"assetId": "A0", "certSn": 11, "certStatus": 1, **dates},
        {"assetId": "A0", "certSn": 12, **dates, "expireDate": NOW_MS - DAY_MS},
        {"assetId": "A1", "certSn": 20, "issueAuthority": "ECC", **dates},
    ]


def utc(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def certificates(result: Row) -> list[Row]:
    listed: list[Row] = result["result"]["certificates"]
    return listed


async def as_csv(job: InProcessJob) -> list[Row]:
    ended = await asyncio.to_thread(
        bulkcert, "results", job.run_dir, "--format", "csv", folder=job.folder
    )
    assert ended.code == 0, ended.err
    return list(csv.DictReader(io.StringIO(ended.out)))


def key_digest(pem: str) -> str:
    """As OpenSSL has it: openssl x509 -pubkey | openssl pkey -pubin -outform DER | sha256sum."""
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


async def test_every_certificate_is_shown_with_everything(tmp_path: Path) -> None:
    rows = [{"assetId": f"A{n}"} for n in range(3)]
    async with in_this_process(
        tmp_path, ENOS, "list", rows, fleet=fleet(), behaviour={"list_cert": "pem"}
    ) as job:
        summary = await job.run()
        assert job.outcomes() == ["succeeded", "succeeded", "failed"]
        assert (summary.total, summary.exit_code) == (3, 1)
        first, second, lost = job.results()
        assert lost["result"] is None
        valid, revoked, expired = certificates(first)
        (other,) = certificates(second)
        for certificate in (valid, revoked, expired, other):
            assert tuple(certificate) == COLUMNS
            assert certificate["cert"].startswith("-----BEGIN CERTIFICATE-----\n")
            assert certificate["public_key_sha256"] == key_digest(certificate["cert"])
        assert [each["status"] for each in certificates(first)] == ["valid", "revoked", "expired"]
        assert [each["certSN"] for each in certificates(first)] == ["10", "11", "12"]
        assert (valid["revoker"], valid["revokerReason"]) == ("", "")
        assert (revoked["revoker"], revoked["revokerReason"]) == ("IoT_Hub", "UNSPECIFIED")
        assert "CN=EnOS CA," in valid["issuer"]
        assert "CN=device-10," in valid["subject"]
        assert (valid["issueAuthority"], other["issueAuthority"]) == ("RSA", "ECC")
        assert valid["signDate"] == valid["effectiveDate"] == utc(NOW_MS - 100 * DAY_MS)
        assert expired["expireDate"] == utc(NOW_MS - DAY_MS)

        table = await as_csv(job)
        shown = [(row["line"], row["outcome"], row["certSn"], row["status"]) for row in table]
        assert shown == [
            ("1", "succeeded", "10", "valid"),
            ("1", "succeeded", "11", "revoked"),
            ("1", "succeeded", "12", "expired"),
            ("2", "succeeded", "20", "valid"),
            ("3", "failed", "", ""),
        ]
        assert table[0]["isEnosCert"] == "true"
        assert json.loads(table[0]["audit"]) == valid["audit"]
        texts = [name for name in COLUMNS if name not in ("certSN", "isEnosCert", "audit")]
        assert all(table[0][name] == valid[name] for name in texts)


async def test_a_number_in_place_of_the_certificate_is_not_shown_as_one(tmp_path: Path) -> None:
    behaviour = {"list_cert": "serial"}
    async with in_this_process(
        tmp_path, ENOS, "list", [{"assetId": "A1"}], fleet=fleet(), behaviour=behaviour
    ) as job:
        await job.run()
        [certificate, *_] = certificates(job.results()[0])
        assert (certificate["cert"], certificate["public_key_sha256"]) == ("", None)


@pytest.mark.parametrize("data", [[], None])
async def test_a_device_without_certificates(tmp_path: Path, data: Any) -> None:
    empty = Forger(list=lambda response: response | {"data": data})
    async with in_this_process(tmp_path, ENOS, "list", [{"assetId": "A0"}], between=empty) as job:
        await job.run()
        assert (job.outcomes(), job.results()[0]["result"]) == (["succeeded"], {"certificates": []})
        (row,) = await as_csv(job)
        assert (row["line"], row["assetId"], row["certSn"]) == ("1", "A0", "")


async def test_odd_items_are_shown_beside_the_others(tmp_path: Path) -> None:
    """A device may have certificates of other CAs, which have longer serial numbers."""
    foreign = 2**158 + 12345

    def add_odd(response: Row) -> Row:
        [item] = response["data"]
        odd = [{"certSN": str(foreign), "isEnosCert": False}, {"certSN": "77", "certStatus": 3}]
        return response | {"data": [item | more for more in odd] + [item, None]}

    async with in_this_process(
        tmp_path, ENOS, "list", [{"assetId": "A1"}], fleet=fleet(), between=Forger(list=add_odd)
    ) as job:
        await job.run()
        assert (job.outcomes(), len(job.entries("list"))) == (["succeeded"], 1)
        other, unknown, own, nothing = certificates(job.results()[0])
        assert (other["certSN"], other["isEnosCert"]) == (str(foreign), False)
        assert (unknown["certSN"], unknown["status"]) == ("77", "3")
        assert (own["certSN"], own["status"]) == ("20", "valid")
        assert (nothing["certSN"], nothing["as_received"]) == (None, "null")
        assert [row["certSn"] for row in await as_csv(job)] == [str(foreign), "77", "20", ""]


ODD: list[dict[str, Any]] = [
    {"signDate": None, "effetiveDate": "yesterday", "expireDate": -1},
    {"expireDate": 10**15 - 1, "signDate": 10**30},
    {"issuer": None, "subject": [], "revoker": [], "cert": {}, "issueAuthority": None},
    {"audit": {"by": {"who": {"else": [1]}}}, "isEnosCert": "yes", "more": [1]},
]


async def test_unneeded_members_may_be_anything(tmp_path: Path) -> None:
    def make_odd(response: Row) -> Row:
        for item in response["data"]:
            item |= ODD[int(item["certSN"]) - 100]
        return response

    rows: list[Row] = [{"assetId": f"A{n}"} for n in range(len(ODD))]
    existing = [row | {"certSn": 100 + n} for n, row in enumerate(rows)]
    async with in_this_process(
        tmp_path, ENOS, "list", rows, fleet=existing, between=Forger(list=make_odd)
    ) as job:
        await job.run()
        assert set(job.outcomes()) == {"succeeded"}
        dates, far, texts, more = (certificates(result)[0] for result in job.results())
        names = ("signDate", "effectiveDate", "expireDate")
        assert [dates[name] for name in names] == [None, "yesterday", "-1"]
        assert far["expireDate"] == str(10**15 - 1)
        assert [texts[name] for name in ("issuer", "subject", "revoker", "cert")] == [""] * 4
        assert (more["status"], more["audit"]) == ("valid", {"by": {"who": None}})
        table = await as_csv(job)
        assert len(table) == len(ODD)
        assert json.loads(table[3]["audit"]) == more["audit"]


WRONG: list[Any] = [
    *({}, "", 0, True, "52725", [None], [[]], ["52725"]),
    *([{"certStatus": 0}], [{"certSN": "x", "certStatus": 0}]),
    *([{"certSN": True, "certStatus": 0}], [{"certSN": "x" * 10**6}]),
]


async def test_a_malformed_list_is_requested_again_and_then_fails(
    tmp_path: Path,
) -> None:
    def make_wrong(response: Row) -> Row:
        return response | {"data": WRONG[int(response["data"][0]["certSN"]) - 100]}

    rows: list[Row] = [{"assetId": f"A{n}"} for n in range(len(WRONG))]
    existing = [row | {"certSn": 100 + n} for n, row in enumerate(rows)]
    async with in_this_process(
        tmp_path,
        ENOS,
        "list",
        rows,
        fleet=existing,
        between=Forger(list=make_wrong),
        retry={"max_attempts": 2},
    ) as job:
        await job.run()
        reported = {(r["outcome"], r["attempts"], r["result"]) for r in job.results()}
        assert reported == {("failed", 2, None)}
        assert {"something other than certificates" in r["message"] for r in job.results()} == {
            True
        }


@pytest.mark.parametrize("data", [["x"], "x", {"certificates": 5}])
async def test_data_in_a_refusal_is_not_an_inventory(tmp_path: Path, data: Any) -> None:
    def refuse(response: Row) -> Row:
        return response | {"code": 99403, "msg": "no", "data": data}

    async with in_this_process(
        tmp_path, ENOS, "list", [{"assetId": "A0"}], between=Forger(list=refuse)
    ) as job:
        await job.run()
        assert (job.outcomes(), job.results()[0]["result"]) == (["failed"], None)
        (row,) = await as_csv(job)
        assert (row["outcome"], row["code"], row["certSn"]) == ("failed", "99403", "")
