"""From the rows of a target file to operations: each of them once, or none if a row is bad."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from job_folder import toml, write_csv

from bulkcert import load_job
from bulkcert.cli.outlook import outlook
from bulkcert.cli.plan_screen import describe
from bulkcert.errors import TargetsError, TargetsRejectedError
from bulkcert.job import Job
from bulkcert.model import Rejection, State
from bulkcert.plan import Plan, build, manifest_of
from bulkcert.rejections import FIRST_SHOWN, RowFile
from bulkcert.report.results import results_jsonl
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Record
from bulkcert.store.sqlite import SqliteReader
from bulkcert.targets import TargetFile
from bulkcert.targets.row import Row

REQUEST = "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n"


class Planner:
    """Plans one job for several target files, each in the same run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = RunDirectory(folder / "run")

    def job(self, action: str = "revoke", **sections: Mapping[str, Any]) -> Job:
        document = {
            "provider": "enos",
            "action": action,
            "targets": "targets.csv",
            "connection": {"endpoint": "https://example.com", "org_id": "o1"},
        }
        (self.folder / "job.toml").write_text(toml(document | sections))
        return load_job(self.folder / "job.toml")

    def plan(
        self,
        rows: Iterable[Sequence[object]],
        header: str = "assetId,certSn",
        job: Job | None = None,
    ) -> Plan:
        write_csv(self.folder / "targets.csv", rows, header)
        job = job or self.job()
        targets = TargetFile.of(job)
        self.directory.path.mkdir(exist_ok=True)
        return build(job, targets, self.directory.checkpoint, self.directory)

    def refused(self, *rows: Sequence[object], **how: Any) -> TargetsRejectedError:
        with pytest.raises(TargetsRejectedError) as caught:
            self.plan(rows, **how)
        assert not self.directory.checkpoint.exists()
        return caught.value

    @property
    def operations(self) -> list[tuple[int, dict[str, Any]]]:
        """The line and the fields of each operation."""
        with closing(SqliteReader(self.directory.checkpoint)) as reader:
            return [(record.line, record.fields) for record in reader.records()]


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(tmp_path)


def test_each_row_becomes_an_operation_in_the_order_of_the_file(planner: Planner) -> None:
    plan = planner.plan([("B", 2, "x"), ("A", 1, "")], "assetId,certSn,note")
    assert planner.operations == [
        (2, {"assetId": "B", "certSn": 2}),
        (3, {"assetId": "A", "certSn": 1}),
    ]
    assert (plan.operations, plan.rows) == (2, 2)
    assert (plan.repeated, plan.repeated_total) == ([], 0)
    assert plan.unused_columns == ("note",)
    assert plan.sample.fields == {"assetId": "B", "certSn": 2}
    assert plan.warnings == ()
    assert not planner.directory.rejected.exists()


def test_a_repeated_row_is_done_once_and_counted(planner: Planner) -> None:
    plan = planner.plan([("A", 1), ("A", 2), ("A", 1), ("B", 1), ("A", 1)])
    assert [line for line, _ in planner.operations] == [2, 3, 5]
    assert (plan.operations, plan.rows, plan.repeated_total) == (3, 5, 2)
    assert [(row.line, row.reason) for row in plan.repeated] == [
        (4, "the same operation as line 2; it is done once"),
        (6, "the same operation as line 2; it is done once"),
    ]
    with closing(SqliteReader(planner.directory.checkpoint)) as reader:
        manifest = reader.manifest()
    assert (manifest.repeated, manifest.targets_sha256) == (2, plan.sha256)
    assert manifest.rehearsal is False


def test_different_operations_with_the_same_hash_are_both_kept(planner: Planner) -> None:
    """Python's hash of -1 is that of -2."""
    job = planner.job()
    [asset_id, serial] = [job.action.fields[name] for name in ("assetId", "certSn")]
    signed = replace(serial, parse=lambda value: int(str(value)))
    job = replace(job, action=replace(job.action, identifiers=((asset_id,),), required=(signed,)))
    plan = planner.plan([("A", -1), ("A", -2)], job=job)
    assert (plan.operations, plan.repeated_total) == (2, 0)


def test_one_certificate_with_different_parameters_is_refused(planner: Planner) -> None:
    refusal = planner.refused(("A", 1, 1), ("A", 1, 4), header="assetId,certSn,reason")
    assert [(row.line, row.reason) for row in refusal.first] == [
        (2, "the same certificate as line 3, with other parameters"),
        (3, "the same certificate as line 2, with other parameters"),
    ]
    assert refusal.total == 2
    assert "has 2 errors; nothing was sent" in refusal.problem


def test_a_signing_request_does_not_say_which_certificate_is_meant(planner: Planner) -> None:
    job = planner.job("renew")
    csr = replace(job.action.fields["csr"], parse=str, public_key=None)
    others = tuple(field for field in job.action.optional if field.name != "csr")
    job = replace(
        job, action=replace(job.action, required=(*job.action.required, csr), optional=others)
    )
    rows = [(f"A,1,{name}.csr",) for name in ("one", "two")]
    for name in ("one", "two"):
        (planner.folder / f"{name}.csr").write_text(REQUEST.format(name))
    refusal = planner.refused(*rows, header="assetId,certSn,csr", job=job)
    assert refusal.first[1].reason == "the same certificate as line 2, with other parameters"


def test_bad_rows_are_all_counted_and_the_first_are_kept(planner: Planner) -> None:
    bad = [("A", -1)] * (FIRST_SHOWN + 5)
    refusal = planner.refused(("A", 1), ("A", 1), *bad)
    assert len(refusal.first) == FIRST_SHOWN == 20
    assert refusal.total == FIRST_SHOWN + 5  # the repeated row is no error
    assert [row.line for row in refusal.first] == list(range(4, 4 + FIRST_SHOWN))
    assert f"has {FIRST_SHOWN + 5} errors" in refusal.problem
    assert f"{planner.directory.rejected} lists all of them." in refusal.next_step
    listed = planner.directory.rejected.read_text().splitlines()
    assert len(listed) == 1 + FIRST_SHOWN + 5
    [_, repeated] = planner.directory.repeated.read_text().splitlines()
    assert repeated == "3,,the same operation as line 2; it is done once,,A,1"


def test_a_single_bad_row_is_listed_in_the_singular(planner: Planner) -> None:
    refusal = planner.refused(("A", 1), ("A", -1))
    assert "has 1 error; nothing was sent" in refusal.problem
    assert f"{planner.directory.rejected} lists it." in refusal.next_step


def test_the_list_of_an_earlier_check_is_removed(planner: Planner) -> None:
    planner.refused(("A", -1))
    assert planner.directory.rejected.exists()
    planner.plan([("A", 1)])
    assert not planner.directory.rejected.exists()


def test_a_list_that_cannot_be_written_does_not_hide_the_bad_rows(planner: Planner) -> None:
    planner.directory.rejected.mkdir(parents=True)
    refusal = planner.refused(("A", -1), ("A", -2))
    assert [row.line for row in refusal.first] == [2, 3]
    assert f"{planner.directory.rejected} can't be written: File exists." in refusal.next_step


def test_a_file_without_targets_is_refused(planner: Planner) -> None:
    with pytest.raises(TargetsError, match="no targets"):
        planner.plan([])
    assert not planner.directory.checkpoint.exists()


def test_an_inventory_of_devices_without_certificates_is_refused(planner: Planner) -> None:
    inventory = planner.folder / "results.jsonl"
    listed = Record(2, 2, {"assetId": "A"}, State.SUCCEEDED, 1, 0, "OK", "r", None, 1e9)
    found: dict[str, list[object]] = {"certificates": []}
    inventory.write_bytes(b"".join(results_jsonl([listed._replace(result=found)])))
    with pytest.raises(TargetsError, match="contains only devices without certificates"):
        planner.plan([], job=replace(planner.job(), targets=inventory))
    assert not planner.directory.checkpoint.exists()


def test_a_renewal_that_keeps_its_key_is_fine_unless_that_is_compromised(planner: Planner) -> None:
    assert planner.plan([("A", 1)], job=planner.job("renew")).warnings == ()


def test_an_error_without_a_text_of_its_own_is_shown_as_it_is(tmp_path: Path) -> None:
    def create() -> None:
        raise OSError("odd")

    directory: Any = SimpleNamespace(create=create)
    rejected = RowFile(directory, tmp_path / "rejected.csv")
    rejection = Rejection(2, "", "is bad")
    rejected.add(Row([rejection], ["A"]), [rejection], ["assetId"])
    assert (rejected.write_error, rejected.total) == ("odd", 1)


# ---- signing requests


def request_for(key: ec.EllipticCurvePrivateKey, name: str = "A") -> str:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return f'"{pem}"'


ONE, TWO = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def test_one_key_cannot_be_for_two_certificates_of_a_device(planner: Planner) -> None:
    rows = [
        ("A", "1", request_for(ONE)),
        ("B", "2", request_for(ONE)),  # another device
        ("A", "3", request_for(TWO)),
        ("A", "4", request_for(TWO, "other")),  # another request for the same key
        ("A", "5", request_for(ONE)),
        ("A", "6", ""),
        ("A", "7", ""),
    ]
    counts = [1 + request.count("\n") for *_, request in rows]
    lines = [2 + sum(counts[:n]) for n in range(len(rows))]
    refusal = planner.refused(*rows, header="assetId,certSn,csr", job=planner.job("renew"))
    assert [(r.line, r.reason) for r in refusal.first] == [
        (
            lines[later],
            f"the same signing request as line {lines[first]}, or one for the same key; "
            "each certificate needs its own",
        )
        for first, later in ((2, 3), (0, 4))
    ]


def test_a_repeated_row_with_a_signing_request_is_done_once(planner: Planner) -> None:
    row = ("A", "1", request_for(ONE))
    plan = planner.plan([row, row], "assetId,certSn,csr", planner.job("renew"))
    assert (plan.operations, plan.repeated_total) == (1, 1)


def test_a_request_of_all_targets_cannot_be_for_two_certificates_of_a_device(
    planner: Planner,
) -> None:
    job = planner.job("renew", parameters={"csr": request_for(ONE).strip('"')})
    assert planner.plan([("A", 1), ("B", 2)], job=job).operations == 2
    planner.directory.remove_run()
    refusal = planner.refused(("A", 1), ("A", 2), job=job)
    assert refusal.first[0].reason.startswith("the same signing request as line 2, or one for the")


# ---- organizations and instances


def test_an_organization_of_its_own_makes_another_operation(planner: Planner) -> None:
    rows = [("A", 1, ""), ("A", 1, "o2"), ("A", 1, "o1"), ("A", 1, "o2")]
    plan = planner.plan(rows, "assetId,certSn,orgId")
    assert [line for line, _ in planner.operations] == [2, 3]
    assert [(r.line, r.reason) for r in plan.repeated] == [
        (4, "the same operation as line 2; it is done once"),
        (5, "the same operation as line 3; it is done once"),
    ]
    assert planner.operations[1][1] == {"assetId": "A", "certSn": 1, "orgId": "o2"}


def test_without_an_organization_of_the_job_every_target_needs_its_own(planner: Planner) -> None:
    job = planner.job(connection={"endpoint": "https://example.com"})
    plan = planner.plan([("A", 1, "o2")], "assetId,certSn,orgId", job)
    assert plan.operations == 1
    planner.directory.remove_run()
    refusal = planner.refused(("A", 1, "o2"), ("A", 2, ""), header="assetId,certSn,orgId", job=job)
    assert refusal.first == [
        Rejection(3, "orgId", "is empty or missing, and the job has no connection.org_id")
    ]
    with pytest.raises(TargetsError, match="column orgId is missing, and the job has no connectio"):
        planner.plan([("A", 1)], job=job)
    with_parameter = planner.job(
        connection={"endpoint": "https://example.com"}, parameters={"orgId": "o3"}
    )
    assert planner.plan([("A", 1)], job=with_parameter).operations == 1


def test_a_device_that_is_named_in_two_ways_is_known_by_what_is_sent(planner: Planner) -> None:
    rows = [("A", "", "", 1), ("A", "P", "D", 1), ("", "P", "D", 1)]
    plan = planner.plan(rows, "assetId,productKey,deviceKey,certSn")
    assert [line for line, _ in planner.operations] == [2, 4]
    assert plan.warnings == (
        "1 row names its device in more than one way. assetId is sent; whether productKey+deviceKey"
        " names the same device is not checked.",
    )


def test_numbers_that_may_have_lost_their_last_digits_are_reported(planner: Planner) -> None:
    plan = planner.plan([("A", 356217374433000000), ("B", 356217374433000001)])
    assert plan.warnings == (
        "1 row has a number of more than 15 digits whose last ones are zeros. A spreadsheet leaves"
        " such numbers when it has lost the digits: compare them with their source.",
    )


def test_an_inventory_of_devices_without_certificates_has_nothing_to_do(planner: Planner) -> None:
    header = "line,assetId,outcome,finished_at,certSn"
    with pytest.raises(TargetsError, match="contains only devices without certificates"):
        planner.plan([(2, "A", "succeeded", "2026-11-26", "")], header)
    plan = planner.plan(
        [(2, "A", "succeeded", "2026-11-26", ""), (3, "B", "succeeded", "2026-11-26", 1)], header
    )
    assert (plan.operations, plan.without_certificates) == (1, 1)
    job = planner.job()
    assert "1 from 2 rows, 1 device without certificates left out" in describe(
        job, plan, outlook(job, plan, 0.0), planner.directory.path
    )


def test_a_list_without_an_instance_of_the_job_needs_it_in_every_row(planner: Planner) -> None:
    job = planner.job(
        "list", provider="apsaramq", connection={"endpoint": "https://onsmqtt.example.com"}
    )
    plan = planner.plan([("0c", "i-1"), ("", "i-2")], "CaSn,MqttInstanceId", job)
    assert plan.operations == 2
    planner.directory.remove_run()
    refusal = planner.refused(("0c", ""), header="CaSn,MqttInstanceId", job=job)
    assert refusal.first[0].field == "MqttInstanceId"


def test_what_is_stored_of_a_job_has_the_format_only_where_it_is_given(planner: Planner) -> None:
    assert manifest_of(planner.job()).reading == {}
    given = manifest_of(planner.job(format={"delimiter": ";"})).reading
    assert given == {"format.delimiter": ";"}


def test_a_selection_may_add_operations(planner: Planner) -> None:
    assert not manifest_of(planner.job()).adds_operations
    selecting = planner.job(select={"issued_before": "2026-01-01T00:00:00Z"})
    assert manifest_of(selecting).adds_operations
