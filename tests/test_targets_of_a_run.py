"""What a run writes, `results` in CSV and JSON and `manifest.csv`, are targets of the next job."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from stores import manifest

from bulkcert.errors import TargetsError
from bulkcert.model import Outcome, Rejection, State, Target
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import Action
from bulkcert.providers.enos.actions import ENOS
from bulkcert.report.certificates import certificates_csv
from bulkcert.report.results import results_csv, results_jsonl
from bulkcert.rundir import place_of
from bulkcert.store.base import Record
from bulkcert.targets import TargetFile

LIST, REVOKE, RENEW, ROTATE = (ENOS.actions[n] for n in ("list", "revoke", "renew", "rotate"))
PAGES, INACTIVATE = APSARAMQ.actions["list"], APSARAMQ.actions["inactivate"]
OTHER_COLUMNS = {"assetId": "Asset ID", "certSn": "Serial"}

STATES = {Outcome.SUCCEEDED: State.SUCCEEDED, Outcome.FAILED: State.FAILED}


def record(
    line: int, fields: dict[str, Any], result: Any = None, outcome: Outcome = Outcome.SUCCEEDED
) -> Record:
    return Record(line, line, fields, STATES[outcome], 1, 0, "OK", "r", result, 1e9)


def certificates(*serials: int) -> dict[str, Any]:
    items = [{"certSN": str(n), "status": "valid", "issueAuthority": "ECC"} for n in serials]
    return {"certificates": items}


def written(form: str, action: Action, *records: Record) -> bytes:
    if form == "jsonl":
        return b"".join(results_jsonl(records))
    return b"".join(results_csv(records, action.fields, action.result_columns))


class Read:
    """A file of a run, read as targets."""

    def __init__(
        self, content: bytes, action: Action, columns: Mapping[str, str] | None = None
    ) -> None:
        self.file = TargetFile(None, action, {}, columns or {}, stdin=io.BytesIO(content))
        self.all = list(self.file)
        self.targets = [item.fields for item in self.all if isinstance(item, Target)]
        self.rejections = [item for item in self.all if isinstance(item, Rejection)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("columns", [{}, OTHER_COLUMNS])
def test_an_inventory_of_enos(form: str, columns: dict[str, str]) -> None:
    content = written(
        form,
        LIST,
        record(2, {"assetId": "A1"}, certificates(1001)),
        record(3, {"productKey": "P", "deviceKey": "D"}, certificates(1002, 1003)),
        record(4, {"assetId": "A4"}, certificates()),
    )
    read = Read(content, REVOKE, columns)
    assert read.targets == [
        {"assetId": "A1", "certSn": 1001},
        {"productKey": "P", "deviceKey": "D", "certSn": 1002},
        {"productKey": "P", "deviceKey": "D", "certSn": 1003},
    ]
    assert (read.rejections, read.file.without_certificates, read.file.unused_columns) == (
        [],
        1,
        (),
    )
    renewed = Read(content, RENEW, columns).targets
    assert renewed[0] == {"assetId": "A1", "certSn": 1001, "issueAuthority": "ECC"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_inventory_of_apsaramq(form: str) -> None:
    items = [{"CaSn": "0c", "DeviceSn": n, "Status": "active"} for n in ("007", "00e5")]
    content = written(
        form,
        PAGES,
        record(2, {"MqttInstanceId": "i-1", "CaSn": "0c"}, {"certificates": items[:1]}),
        record(3, {"MqttInstanceId": "i-2", "CaSn": "0c", "PageNo": 2}, {"certificates": items}),
        record(3, {"MqttInstanceId": "i-2", "CaSn": "0c", "PageNo": 3}, {"certificates": []}),
    )
    read = Read(content, INACTIVATE)
    assert read.targets == [
        {"DeviceSn": "007", "CaSn": "0c", "MqttInstanceId": "i-1"},
        {"DeviceSn": "007", "CaSn": "0c", "MqttInstanceId": "i-2"},
        {"DeviceSn": "00e5", "CaSn": "0c", "MqttInstanceId": "i-2"},
    ]
    assert (read.rejections, read.file.without_certificates) == ([], 1)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("listing", "action", "fields"),
    [(LIST, REVOKE, {"assetId": "A1"}), (PAGES, INACTIVATE, {"CaSn": "0c"})],
)
def test_a_device_that_could_not_be_listed_is_not_left_out(
    form: str, listing: Action, action: Action, fields: dict[str, str]
) -> None:
    content = written(form, listing, record(2, fields, outcome=Outcome.FAILED))
    read = Read(content, action)
    [rejection] = read.rejections
    assert rejection.reason.startswith("has the outcome failed, so it is not known which certifica")
    assert (read.targets, read.file.without_certificates) == ([], 0)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_results_of_a_revocation(form: str) -> None:
    content = written(
        form,
        REVOKE,
        record(2, {"assetId": "A1", "certSn": 1001, "reason": 1}),
        record(3, {"assetId": "A2", "certSn": 1002}, outcome=Outcome.FAILED),
        record(4, {"assetId": "A3"}),  # nothing matched its selection
    )
    read = Read(content, REVOKE, OTHER_COLUMNS)
    assert read.targets == [
        {"assetId": "A1", "certSn": 1001, "reason": 1},
        {"assetId": "A2", "certSn": 1002},
    ]
    assert (read.rejections, read.file.without_certificates) == ([], 1)
    assert Read(content, LIST).targets == [{"assetId": f"A{n}"} for n in (1, 2, 3)]


# ---- renewals: the new certificate, and the one that it replaced

RENEWED = [
    record(2, {"assetId": "A1", "certSn": 1001}, {"certSN": "5001", "replaces": "1001"}),
    record(3, {"assetId": "A2", "certSn": 1002}, None, Outcome.FAILED),
]
SUCCEEDED = RENEWED[:1]
NEW, OLD = {"certSn": "certSn"}, {"certSn": "replaces"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("columns", [{}, OTHER_COLUMNS])
@pytest.mark.parametrize("action", [RENEW, ROTATE])
def test_the_results_of_a_renewal_need_a_choice(
    form: str, columns: dict[str, str], action: Action
) -> None:
    content = written(form, action, *RENEWED)
    for next_action in (REVOKE, RENEW):
        with pytest.raises(TargetsError) as caught:
            Read(content, next_action, columns)
        assert "certSn is the certificate that a renewal issued, and replaces" in str(caught.value)
        assert '[columns] certSn = "replaces"' in caught.value.next_step
    assert Read(content, LIST, columns).targets == [{"assetId": "A1"}, {"assetId": "A2"}]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_choice_between_the_new_and_the_old_certificate(form: str) -> None:
    content = written(form, RENEW, *RENEWED)
    old = Read(content, REVOKE, OLD)
    assert old.targets == [{"assetId": f"A{n}", "certSn": 1000 + n} for n in (1, 2)]
    assert not old.rejections
    new = Read(content, REVOKE, NEW)
    assert new.targets == [{"assetId": "A1", "certSn": 5001}]
    [failed] = new.rejections  # it has no new certificate, and the old one is not meant
    assert failed.line == (3 if form == "csv" else 2)
    assert failed.reason.startswith("has the outcome failed")
    assert not Read(written(form, RENEW, *SUCCEEDED), REVOKE, NEW).rejections


def test_the_manifest_of_certificates() -> None:
    content = b"".join(certificates_csv(SUCCEEDED, ["assetId", "productKey", "deviceKey", "orgId"]))
    assert content.splitlines()[0] == (
        b"line,assetId,productKey,deviceKey,orgId,outcome,"
        b"certSn,replaces,subject,fingerprint_sha256,public_key_sha256,valid_from,expires_at,"
        b"certificate_file,leaf_file,chain_file,fullchain_file,key_file,p12_file"
    )
    with pytest.raises(TargetsError, match="which one should `revoke` act on"):
        Read(content, REVOKE)
    assert Read(content, REVOKE, NEW).targets == [{"assetId": "A1", "certSn": 5001}]
    assert Read(content, REVOKE, OLD).targets == [{"assetId": "A1", "certSn": 1001}]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_choice_may_stay_in_a_job_for_other_results(form: str) -> None:
    content = written(form, REVOKE, record(2, {"assetId": "A1", "certSn": 1001}))
    assert Read(content, REVOKE, NEW).targets == [{"assetId": "A1", "certSn": 1001}]


def test_any_file_with_both_certificates_needs_a_choice() -> None:
    content = b"assetId,certSn,replaces\nA1,5001,1001\n"
    with pytest.raises(TargetsError, match="which one should `renew` act on"):
        Read(content, RENEW)
    assert Read(content, RENEW, OLD).targets == [{"assetId": "A1", "certSn": 1001}]


# ---- where a target is


def test_csv_says_where_every_target_is() -> None:
    records = [
        record(2, {"assetId": "A1", "certSn": 1}),
        record(3, {"assetId": "A1", "certSn": 1, "orgId": "o2"}),
    ]
    content = b"".join(results_csv(records, REVOKE.fields, common={"orgId": "o1"}))
    assert Read(content, REVOKE).targets == [
        {"assetId": "A1", "certSn": 1, "orgId": "o1"},
        {"assetId": "A1", "certSn": 1, "orgId": "o2"},
    ]


@pytest.mark.parametrize(
    ("parameters", "place"), [({}, "o1"), ({"orgId": "o2", "reason": 1}, "o2")]
)
def test_the_place_of_a_run_is_that_of_its_job(parameters: dict[str, Any], place: str) -> None:
    assert place_of(manifest(parameters=parameters)) == {"orgId": place}
