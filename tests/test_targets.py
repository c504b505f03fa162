"""Target files: good rows become targets, bad rows are rejected by line, unusable files refused."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkcert import targets
from bulkcert.errors import BulkcertError, TargetsError
from bulkcert.model import FieldValue, Rejection, Target
from bulkcert.providers.base import Action, Field
from bulkcert.providers.enos.actions import ASSET_ID, REASON, REVOKE, REVOKE_REASONS
from bulkcert.targets import TargetFile, digest
from bulkcert.values import INT64_MAX, identifier

HEADER = b"assetId,certSn,reason\n"
BOM = b"\xef\xbb\xbf"


class Read:
    """The result of reading a target file with the given bytes."""

    def __init__(
        self,
        content: bytes,
        columns: Mapping[str, str] | None = None,
        parameters: Mapping[str, FieldValue] | None = None,
        action: Action = REVOKE,
    ) -> None:
        self.file = TargetFile(
            None, action, parameters or {}, columns or {}, stdin=io.BytesIO(content)
        )
        self.all = list(self.file)
        self.targets = [item for item in self.all if isinstance(item, Target)]
        self.rejections = [item for item in self.all if isinstance(item, Rejection)]


def refused(content: bytes, columns: Mapping[str, str] | None = None) -> TargetsError:
    with pytest.raises(TargetsError) as caught:
        Read(content, columns)
    return caught.value


def row(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


# ---- good files

GOOD = [
    Target(2, {"assetId": "A1", "certSn": 52739, "reason": 1}),
    Target(3, {"assetId": "A2", "certSn": 52740}),
]


@pytest.mark.parametrize(
    "content",
    [
        b"assetId,certSn,reason\nA1,52739,KEY_COMPROMISE\nA2,52740,\n",
        b"assetId,certSn,reason\nA1,52739,KEY_COMPROMISE\nA2,52740,",
        b"assetId,certSn,reason\r\nA1,52739,1\r\nA2,52740,\r\n",
        BOM + b"assetId,certSn,reason\nA1,52739,1\nA2,52740,\n",
        BOM + b'"assetId","certSn","reason"\n"A1","52739","1"\n"A2","52740",""\n',
        b" assetId , certSn\t,reason\n A1 , 52739 , 1 \nA2, 52740 ,  \n",
        b'"assetId", "certSn","reason "\n"A1", "52739", " 1"\n" A2", "52740"," "\n',
    ],
)
def test_csv_in_all_its_spellings(content: bytes) -> None:
    assert Read(content).all == GOOD


def test_jsonl_in_any_key_order() -> None:
    content = BOM + b'{"assetId": "A1", "certSn": 52739}\r\n{"certSn": "52740", "assetId": "A2"}'
    assert Read(content).all == [
        Target(1, {"assetId": "A1", "certSn": 52739}),
        Target(2, {"assetId": "A2", "certSn": 52740}),
    ]


def test_null_and_empty_text_in_jsonl_count_as_not_given() -> None:
    content = row(assetId="A1", certSn=5, reason=None) + row(assetId="A1", certSn=6, reason=" ")
    assert [target.fields for target in Read(content).targets] == [
        {"assetId": "A1", "certSn": 5},
        {"assetId": "A1", "certSn": 6},
    ]


def test_fields_have_the_same_order_whatever_the_order_in_the_file() -> None:
    in_csv = Read(b"reason,certSn,deviceKey,productKey\n1,5,D,P\n").targets[0]
    in_json = Read(row(reason=1, certSn=5, deviceKey="D", productKey="P")).targets[0]
    assert list(in_csv.fields.items()) == list(in_json.fields.items())
    assert list(in_csv.fields) == ["productKey", "deviceKey", "certSn", "reason"]


def test_blank_lines_are_skipped_but_count_in_line_numbers() -> None:
    read = Read(b"\n  \n" + HEADER + b"\r\nA1,5,\n\n   \nA2,6,\n\n")
    assert [target.line for target in read.targets] == [5, 8]
    assert read.file.lines == 2
    read = Read(b"\n" + row(assetId="A", certSn=1) + b"\r\n \n" + row(assetId="A", certSn=2))
    assert [target.line for target in read.targets] == [2, 5]


def test_rows_of_one_file_may_name_devices_in_different_ways() -> None:
    read = Read(b"assetId,productKey,deviceKey,certSn\nA,,,1\n,P,D,2\n")
    assert [target.fields for target in read.targets] == [
        {"assetId": "A", "certSn": 1},
        {"productKey": "P", "deviceKey": "D", "certSn": 2},
    ]


# ---- parameters and [columns] of the job


def test_parameters_supply_the_fields_that_a_row_does_not_give() -> None:
    read = Read(
        b"deviceKey,reason\nD1,\nD2,4\n", parameters={"productKey": "P", "certSn": 5, "reason": 1}
    )
    assert read.all == [
        Target(2, {"deviceKey": "D1"}),
        Target(3, {"deviceKey": "D2", "reason": 4}),
    ]


def test_parameters_can_name_one_device_for_all_rows() -> None:
    assert Read(b"certSn\n5\n", parameters={"assetId": "A"}).all == [Target(2, {"certSn": 5})]


def test_columns_map_other_headers_to_fields() -> None:
    columns = {"assetId": "Asset ID", "certSn": "reason"}
    read = Read(b"reason,Asset ID\n5,A1\n", columns)
    assert read.all == [Target(2, {"assetId": "A1", "certSn": 5})]
    read = Read(row(**{"reason": 5, "Asset ID": "A1"}), columns)
    assert read.all == [Target(1, {"assetId": "A1", "certSn": 5})]


def test_columns_can_swap_two_fields() -> None:
    columns = {"productKey": "deviceKey", "deviceKey": "productKey"}
    read = Read(b"productKey,deviceKey,certSn\nD,P,5\n", columns)
    assert read.targets[0].fields == {"productKey": "P", "deviceKey": "D", "certSn": 5}


def test_unused_columns_are_listed() -> None:
    read = Read(b"assetId,site,certSn,,site,a\x1bb\nA,x,5,,y,\n")
    extra = {"site": "x", r"a\x1bb": ""}  # of two columns with one name, the first counts
    assert read.targets == [Target(2, {"assetId": "A", "certSn": 5}, extra)]
    assert read.file.unused_columns == ("site", r"a\x1bb")
    read = Read(row(assetId="A", certSn=5, site=1) + row(assetId="A", certSn=6, note={"a": [1]}))
    assert len(read.targets) == 2
    assert read.file.unused_columns == ("site", "note")


def test_the_list_of_unused_columns_is_bounded() -> None:
    content = b"".join(row(assetId="A", certSn=n, **{f"{n}-" + "x" * 999: 1}) for n in range(200))
    unused = Read(content).file.unused_columns
    assert len(unused) == 50
    assert max(map(len, unused)) == 100
    headers = ",".join(f"h{n}" for n in range(200)).encode()
    assert len(Read(b"assetId,certSn," + headers + b"\nA,5" + b"," * 200).file.unused_columns) == 50


# ---- bad rows


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"A,,1", "certSn", "is empty or missing"),
        (b"A,  ,1", "certSn", "is empty or missing"),
        (b"A,-5,1", "certSn", "must not be negative"),
        (b"A,abc,1", "certSn", "must be a whole number, not 'abc'"),
        (b"A,5.0,1", "certSn", "must be a whole number, not '5.0'"),
        (b"A,9223372036854775808,1", "certSn", "is beyond 64 bits"),
        (b"A,5,STOLEN", "reason", "is not a revocation reason: 'STOLEN'"),
        (b"A,5,2", "reason", "is not a revocation reason: 2"),
        (b",5,1", "", "does not name the device: give assetId, or productKey and deviceKey"),
        (b"A\tB,5,1", "assetId", r"contains the unprintable character '\t'"),
        (b"A\0,5,1", "", "contains a NUL byte"),
        (b"A\xff,5,1", "", "is not valid UTF-8 at byte 2"),
        (b"A,5", "", "has 2 cells, but the header has 3"),
        (b"A,5,1,", "", "has 4 cells, but the header has 3"),
        (b"A", "", "has 1 cell, but the header has 3"),
        (b'"A"B,5,1', "", 'has text after a closing quote (")'),
        (b"A,5\r6,1", "", "contains a lone carriage return (CR)"),
        (b"A" * 2**20 + b",5,1", "", "is longer than 1 MiB"),
        (b"A" * 200_000 + b",5,1", "", "has a cell of more than 131072 characters"),
    ],
)
def test_a_bad_csv_row_is_rejected_with_the_reason(line: bytes, field: str, reason: str) -> None:
    read = Read(HEADER + b"A1,1,\n" + line + b"\nA2,2,\n")
    assert [target.line for target in read.targets] == [2, 4]
    [rejection] = read.rejections
    assert (rejection.line, rejection.field) == (3, field)
    assert rejection.reason.startswith(reason)
    assert read.file.lines == 3


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b'{"assetId": "A"}', "certSn", "is empty or missing"),
        (b'{"assetId": "A", "certSn": null}', "certSn", "is empty or missing"),
        (b'{"assetId": "A", "certSn": ""}', "certSn", "is empty or missing"),
        (b'{"assetId": "A", "certSn": true}', "certSn", "must be a whole number, not true"),
        (b'{"assetId": "A", "certSn": 5.0}', "certSn", "must be a whole number, not the number"),
        (b'{"assetId": "A", "certSn": [5]}', "certSn", "must be a whole number, not a list"),
        (b'{"assetId": "A", "certSn": 9223372036854775808}', "certSn", "is beyond 64 bits"),
        (b'{"assetId": "A", "certSn": 18446744073709551616}', "certSn", "is beyond 64 bits"),
        (b'{"assetId": "A", "certSn": %s}' % (b"9" * 400), "", "is not valid JSON"),
        (b'{"assetId": 7, "certSn": 5}', "assetId", "must be text, not the number 7"),
        (b'{"assetId": "A\\u0000", "certSn": 5}', "assetId", "contains the unprintable"),
        (b'{"certSn": 5}', "", "does not name the device"),
        (b'{"assetId": "A", "certSn": 5', "", "is not valid JSON: "),
        (b'{"assetId": "A", "certSn": NaN}', "", "is not valid JSON: "),
        (b'{"assetId": "\\ud800", "certSn": 5}', "", "is not valid JSON: "),
        (b'{"a": 1}{"a": 1}', "", "is not valid JSON: "),
        (b'["A", 5]', "", "is not a JSON object"),
        (b"5", "", "is not a JSON object"),
        (b"[" * 5000, "", "is not valid JSON: "),
        (b'{"assetId": "A", "certSn": 5, "certSn": 6}', "certSn", "is given more than once"),
        (b'{"assetId": "A", "certSn": 5, "cert\\u0053n": 5}', "certSn", "is given more than once"),
        (b'{"assetId": "A\xff", "certSn": 5}', "", "is not valid UTF-8 at byte 15"),
        (b'{"assetId": "A\0", "certSn": 5}', "", "contains a NUL byte"),
        (b'{"assetId": "%s"}' % (b"A" * 2**20), "", "is longer than 1 MiB"),
        (
            b'{"assetId": "A", "certSn": 5, "Reason": 1}',
            "reason",
            "is missing, but the key 'Reason' looks like it",
        ),
    ],
)
def test_a_bad_jsonl_row_is_rejected_with_the_reason(line: bytes, field: str, reason: str) -> None:
    good = b'{"assetId": "A:1", "certSn": 1}\n'
    read = Read(good + line + b"\n" + good)
    assert [target.line for target in read.targets] == [1, 3]
    rejection = read.rejections[0]
    assert (rejection.line, rejection.field) == (2, field)
    assert rejection.reason.startswith(reason)
    assert read.file.lines == 3


def test_all_faults_of_a_row_are_reported() -> None:
    read = Read(b"assetId,productKey,deviceKey,certSn,reason\n,,,-1,x\n")
    assert [rejection.field for rejection in read.rejections] == ["certSn", "reason", ""]
    assert [rejection.field for rejection in Read(b"{}").rejections] == ["certSn", ""]


@pytest.mark.parametrize(
    ("cells", "parameters", "field", "reason"),
    [
        (b",,", {}, "", "does not name the device"),
        (b",P,", {}, "deviceKey", "is empty or missing, but is required together with productKey"),
        (b",,D", {}, "productKey", "is empty or missing, but is required together with deviceKey"),
        (
            b",P,D",
            {"assetId": "A"},
            "",
            "names the device in more than one way, by assetId, productKey and deviceKey "
            "(assetId from [parameters]): give either assetId, or productKey and deviceKey, not",
        ),
        (b",P,", {"assetId": "A"}, "", "names the device in more than one way, by assetId and pr"),
        (b",,", {"productKey": "P"}, "deviceKey", "is empty or missing"),
    ],
)
def test_a_row_must_name_the_device_by_itself_and_in_full(
    cells: bytes, parameters: dict[str, FieldValue], field: str, reason: str
) -> None:
    read = Read(b"assetId,productKey,deviceKey,certSn\n" + cells + b",5\n", parameters=parameters)
    [rejection] = read.rejections
    assert (rejection.line, rejection.field) == (2, field)
    assert rejection.reason.startswith(reason)


@pytest.mark.parametrize("parameters", [{}, {"productKey": "Q"}])
@pytest.mark.parametrize("cells", [b"A,P,D", b"A,P,", b"A,,D", b"A,,"])
def test_a_row_may_name_the_device_in_both_ways(
    cells: bytes, parameters: dict[str, FieldValue]
) -> None:
    read = Read(b"assetId,productKey,deviceKey,certSn\n" + cells + b",5\n", parameters=parameters)
    [target] = read.targets
    assert target.fields["assetId"] == "A"
    assert not read.rejections


def test_repeated_keys_in_unused_values_are_ignored() -> None:
    read = Read(b'{"assetId": "A", "certSn": 5, "x": {"assetId": 1, "assetId": 2}, "y": 1, "y": 2}')
    [target] = read.targets
    assert target.fields == {"assetId": "A", "certSn": 5}


def test_deeply_nested_unused_values_do_not_crash() -> None:
    for depth in (10, 900, 1000, 1020):
        nested = b'{"assetId": "A:", "certSn": 5, "x": ' + b"[" * depth + b"]" * depth + b"}"
        read = Read(nested)
        assert len(read.all) == 1


def test_an_oversized_line_is_not_kept_in_memory() -> None:
    content = HEADER + b"A1,1,\n" + b"x" * 30_000_000 + b"\nA2,2,\n"
    tracemalloc.start()
    try:
        read = Read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.all == [
        Target(2, {"assetId": "A1", "certSn": 1}),
        Rejection(3, "", "is longer than 1 MiB"),
        Target(4, {"assetId": "A2", "certSn": 2}),
    ]
    assert peak < 8_000_000


@pytest.mark.parametrize("length", [2**20 - 1, 2**20, 2**20 + 1, 2**21 + 1, 2**21 + 2])
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_the_limit_on_the_length_of_a_line_is_exact(length: int, ending: bytes) -> None:
    good = b'{"assetId": "A", "certSn": 5}'
    content = good + b" " * (length - len(good) - len(ending)) + ending
    read = Read(content + (good if ending else b""))
    assert (read.rejections == []) == (length <= 2**20)
    assert read.all[-1].line == (2 if ending else 1)


# ---- signing requests beside [keys]


@pytest.mark.parametrize("header", ["csr", "CSR"])
@pytest.mark.parametrize(
    "content",
    [
        b"assetId,certSn,%s\nA1,1,x.pem\n",
        b"line,assetId,certSn,outcome,certificate_file,%s\n1,A1,1,succeeded,,\n",
        b'{"assetId": "A1", "certSn": 1, "%s": "x.pem"}\n',
        b'{"line": 1, "target": {"assetId": "A1", "certSn": 1, "%s": "x"}, "outcome": "failed",'
        b' "finished_at": null, "result": null}\n',
    ],
)
def test_signing_requests_are_refused_where_keys_are_made(content: bytes, header: str) -> None:
    with pytest.raises(TargetsError) as caught:
        Read(content % header.encode(), action=replace(REVOKE, excluded=("csr",)))
    assert f"'{header}' can't be used together with [keys]" in caught.value.problem
    assert "remove [keys]" in caught.value.next_step


# ---- quoted cells over several lines

PEM = "-----BEGIN X-----\nabc\r\n\n-----END X-----\n"


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


WITH_PEM = Action(
    name="renew",
    changes=True,
    identifiers=((ASSET_ID,),),
    required=(Field("csr", _any_text),),
    optional=(REASON,),
)


def test_a_cell_with_line_breaks_survives() -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([["assetId", "csr", "reason"], ["A", PEM, "1"], ["B", "x", "1"]])
    read = Read(file.getvalue().encode(), action=WITH_PEM)
    assert read.all == [
        Target(2, {"assetId": "A", "csr": PEM, "reason": 1}),
        Target(7, {"assetId": "B", "csr": "x", "reason": 1}),
    ]


def test_a_fault_in_a_row_of_several_lines_names_the_first_and_the_last_line() -> None:
    read = Read(b'assetId,csr\n"A\n","x\ny"\nB,\xff\nC,"x\n\xff\ny"\nD,z\n', action=WITH_PEM)
    hint = 'the row continues to line {}: is a quote (") missing?'
    assert read.all == [
        Rejection(2, "assetId", r"contains the unprintable character '\n'; " + hint.format(4)),
        Rejection(5, "", "is not valid UTF-8 at byte 3"),
        Rejection(6, "", "is not valid UTF-8 at byte 1 on line 7; " + hint.format(8)),
        Target(9, {"assetId": "D", "csr": "z"}),
    ]


def test_a_quote_that_is_never_closed_is_reported_where_it_opens() -> None:
    read = Read(HEADER + b'A1,1,\n"A2,2,\nA3,3,\nA4,4,\n')
    assert read.targets == [Target(2, {"assetId": "A1", "certSn": 1})]
    [rejection] = read.rejections
    assert rejection.line == 3
    assert rejection.reason.startswith('has a quote (") that is opened but never closed; ')
    assert "the row continues to line 5" in rejection.reason


def test_a_stray_quote_that_meets_another_is_reported_where_it_opens() -> None:
    read = Read(HEADER + b'A1,1,\n"A2,2,\nA3,3,\n"A4,4,\nA5,5,\n')
    assert [target.line for target in read.targets] == [2, 6]
    [rejection] = read.rejections
    assert rejection.line == 3
    assert "the row continues to line 5" in rejection.reason


@pytest.mark.parametrize("field_limit", [None, 10**9])
def test_a_quote_that_is_never_closed_does_not_fill_memory(field_limit: int | None) -> None:
    rows = b"".join(b"asset-%07d,%d,KEY_COMPROMISE\n" % (n, n) for n in range(200_000))
    content = HEADER + b'"' + rows
    before = csv.field_size_limit()
    if field_limit:
        csv.field_size_limit(field_limit)  # as a program that uses this library may do
    tracemalloc.start()
    try:
        stream = TargetFile(None, REVOKE, {}, {}, stdin=io.BytesIO(content))
        first = next(iter(stream))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        csv.field_size_limit(before)
    assert isinstance(first, Rejection)
    assert first.line == 2
    assert 'a quote (") that is opened but never closed' in first.reason
    assert peak < 12_000_000


# ---- files that are unusable as a whole


@pytest.mark.parametrize("content", [b"", b"\n \r\n", BOM, HEADER, BOM + HEADER + b"\n \n"])
def test_a_file_without_targets_is_refused(content: bytes) -> None:
    error = refused(content)
    assert (
        error.problem == "standard input: no targets found: the file is empty or has only a header"
    )
    assert error.next_step
    assert error.exit_code == 2


def test_the_message_about_a_missing_column_lists_the_headers() -> None:
    error = refused(b"assetId,site\nA,x\n")
    assert "the column certSn is missing" in error.problem
    assert "The headers are: 'assetId', 'site'" in error.problem
    assert "[columns]" in error.next_step


@pytest.mark.parametrize(
    ("headers", "mapping"),
    [
        (b"assetId,certSN", 'certSn = "certSN"'),
        (b"assetId,certsn", 'certSn = "certsn"'),
        (b"assetId,cert_sn", 'certSn = "cert_sn"'),
        (b"Asset ID,certSn", 'assetId = "Asset ID"'),
        (b"asset-id,certSn", 'assetId = "asset-id"'),
        (b"assetId,certSn,Reason", 'reason = "Reason"'),
        (b"product key,DeviceKey,certSn", 'deviceKey = "DeviceKey"\nproductKey = "product key"'),
        (b"assetId,certSerial", 'certSn = "certSerial"'),
        ("assetId,CERT\u00a0SN\u00e9".encode(), 'certSn = "CERT\u00a0SN\u00e9"'),
    ],
)
def test_a_header_that_looks_like_a_field_is_refused_with_the_mapping_to_add(
    headers: bytes, mapping: str
) -> None:
    error = refused(headers + b"\nA,5,1\n")
    assert error.next_step.endswith(f"[columns]\n{mapping}")


def test_a_header_that_looks_like_a_field_is_unused_when_the_field_has_its_column() -> None:
    read = Read(b"assetId,asset_id,certSn\nA,B,5\n")
    assert read.targets == [Target(2, {"assetId": "A", "certSn": 5}, {"asset_id": "B"})]
    assert read.file.unused_columns == ("asset_id",)
    assert Read(b"Asset ID,certSn\nA,5\n", {"assetId": "Asset ID"}).targets


@pytest.mark.parametrize("headers", [b"certSn,site", b"certSn,productKey", b"certSn,deviceKey"])
def test_a_header_without_a_column_for_the_device_is_refused(headers: bytes) -> None:
    error = refused(headers + b"\n5,x\n")
    assert "no column names the device: add assetId, or productKey and deviceKey" in error.problem


def test_a_repeated_header_is_refused() -> None:
    assert (
        "the header 'certSn' appears more than once" in refused(b"assetId,certSn, certSn\n").problem
    )


def test_a_mapping_to_a_missing_header_is_refused() -> None:
    error = refused(HEADER + b"A,5,1\n", columns={"reason": "Why"})
    assert (
        "[columns] maps reason to the header 'Why', but the file has no such header"
        in error.problem
    )
    error = refused(row(assetId="A", certSn=5), columns={"reason": "Why", "certSn": "certSn"})
    assert "[columns] in the job file names 'Why', but no line has that key" in error.problem
    assert Read(row(Why=1, certSn=5, assetId="A") + row(certSn=5, assetId="A"), {"reason": "Why"})


def test_a_mapping_is_not_blamed_when_no_line_could_be_read() -> None:
    assert len(Read(b'{"a', {"reason": "Why"}).rejections) == 1


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        (b"assetId;certSn;reason", "this file seems to use ';'"),
        (b"assetId\tcertSn\treason", "this file seems to use tabs"),
        (b'[{"assetId": "A"}', "This looks like JSON"),
    ],
)
def test_the_next_step_recognizes_other_formats(headers: bytes, hint: str) -> None:
    assert hint in refused(headers + b"\n").next_step


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (b"asset\xe9Id,certSn\n", "is not valid UTF-8 at byte 6"),
        (b"assetId,\0certSn\n", "contains a NUL byte"),
        (b"assetId\rcertSn\r", "contains a lone carriage return"),
        (b"x" * 2_000_000, "is longer than 1 MiB"),
        (b'"assetId,certSn', "opened but never closed"),
    ],
)
def test_an_unreadable_header_is_refused(header: bytes, fault: str) -> None:
    error = refused(header)
    assert "line 1, which should be the header, " in error.problem
    assert fault in error.problem


def test_messages_stay_short_whatever_the_header() -> None:
    error = refused(b",".join(b"h%d" % n for n in range(100_000)) + b"\n")
    assert len(str(error)) < 1000
    assert "and 99980 more" in error.problem


# ---- files on disk

ROWS = HEADER + b"A1,5,\nA2,6,\n"


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, bytes], TargetFile]:
    def make(name: str, content: bytes) -> TargetFile:
        path = tmp_path / name
        path.write_bytes(content)
        return TargetFile(path, REVOKE, {}, {})

    return make


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", ROWS),
        ("F.CSV", ROWS),
        ("f.csv.gz", gzip.compress(ROWS)),
        ("f.csv.GZ", gzip.compress(ROWS[:30]) + gzip.compress(ROWS[30:])),
        ("f.csv.gz", gzip.compress(ROWS) + bytes(100)),
        ("f.jsonl", row(assetId="A1", certSn=5) + row(assetId="A2", certSn=6)),
        ("f.jsonl.gz", gzip.compress(row(assetId="A1", certSn=5) + row(assetId="A2", certSn=6))),
    ],
)
def test_the_file_name_shows_the_format(
    make: Callable[[str, bytes], TargetFile], name: str, content: bytes
) -> None:
    file = make(name, content)
    first = list(file)
    assert [item.fields["certSn"] for item in first if isinstance(item, Target)] == [5, 6]
    assert file.lines == 2
    assert file.sha256 == hashlib.sha256(unpacked(content)).hexdigest() == digest(file.source)
    assert list(file) == first, "a file can be read again"
    # the same from standard input, where the format must be detected from the content
    stdin = TargetFile(None, REVOKE, {}, {}, stdin=io.BytesIO(content))
    assert list(stdin) == first
    assert stdin.sha256 == file.sha256 == digest(None, io.BytesIO(content))


def test_the_same_targets_compressed_anew_are_the_same_targets(
    make: Callable[[str, bytes], TargetFile],
) -> None:
    files = [make("f.csv", ROWS)]
    for level, mtime in ((1, 5), (9, 6)):
        packed = gzip.compress(ROWS, level, mtime=mtime)
        files.append(make(f"f{level}.csv.gz", packed))
        files.append(
            make(f"parts{level}.csv.gz", gzip.compress(ROWS[:9]) + gzip.compress(ROWS[9:]))
        )
    assert len({digest(file.source) for file in files}) == 1


def unpacked(content: bytes) -> bytes:
    """The content of a file as it is stored."""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def test_standard_input_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, ROWS)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert len(list(TargetFile(None, REVOKE, {}, {}))) == 2
    closed = TargetFile(None, REVOKE, {}, {})
    with pytest.raises(TargetsError, match="standard input is closed"):
        list(closed)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(TargetsError, match="standard input is closed"):
        digest(None)


def test_input_without_data_yet_is_not_mistaken_for_its_end() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    stdin = os.fdopen(read_end, "rb", buffering=0)
    with stdin, pytest.raises(TargetsError, match="non-blocking"):
        list(TargetFile(None, REVOKE, {}, {}, stdin=stdin))
    os.close(write_end)


def test_the_format_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "fleet.dat"
    for content in (ROWS, gzip.compress(ROWS)):
        path.write_bytes(content)
        assert len(list(TargetFile(path, REVOKE, {}, {}, format="csv"))) == 2


@pytest.mark.parametrize("name", ["f.txt", "f", "f.csv.bz2", "f.gz", "csv"])
def test_a_file_name_that_does_not_show_the_format_is_refused(
    make: Callable[[str, bytes], TargetFile], name: str
) -> None:
    with pytest.raises(TargetsError, match="the file name does not show the format") as caught:
        list(make(name, ROWS))
    assert ".csv, .csv.gz, .jsonl, .jsonl.gz" in caught.value.next_step


@pytest.mark.parametrize("cut", [1, 5, 12, 100, 2000, -9, -8, -1])
def test_a_gzip_file_that_is_cut_short_is_refused(
    make: Callable[[str, bytes], TargetFile], cut: int
) -> None:
    rows = b"".join(b"A%d,%d,\n" % (n, n * n * 7919) for n in range(1000))
    file = make("f.csv.gz", gzip.compress(HEADER + rows)[:cut])
    with pytest.raises(TargetsError, match=r"cut short or damaged after line \d+") as caught:
        list(file)
    assert str(file.source) in caught.value.problem


def test_a_damaged_gzip_file_is_refused(make: Callable[[str, bytes], TargetFile]) -> None:
    good = bytearray(gzip.compress(ROWS))
    for damaged in (
        b"no gzip",
        good[:-8] + b"\0" * 8,
        bytes(good) + b"junk",
        good[:10] + b"\xff" * 9,
    ):
        with pytest.raises(TargetsError, match="cut short or damaged"):
            list(make("f.csv.gz", bytes(damaged)))
    with pytest.raises(TargetsError, match="line 1, which should be the header") as caught:
        list(make("f.csv", bytes(good)))
    assert "if it is compressed, its name must end in .gz" in caught.value.next_step


@pytest.mark.parametrize("read", [lambda file: list(file), lambda file: digest(file.source)])
def test_a_file_that_cannot_be_opened_is_refused(
    tmp_path: Path, read: Callable[[TargetFile], object]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    locked = tmp_path / "locked.csv"
    locked.touch(mode=0)
    problems = {
        "folder.csv": "Is a directory",
        "none.csv": "No such file or directory",
        "a\0b.csv": "embedded null byte",
        "x" * 300 + ".csv": "File name too long",
    }
    if os.geteuid():  # root can read everything
        problems["locked.csv"] = "Permission denied"
    for name, problem in problems.items():
        with pytest.raises(TargetsError, match=f"cannot read the targets: {problem}") as caught:
            read(TargetFile(tmp_path / name, REVOKE, {}, {}))
        assert str(tmp_path / name) in caught.value.problem
        assert caught.value.next_step


def test_a_disk_error_while_reading_is_reported() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(TargetsError, match="Input/output error"):
        list(TargetFile(None, REVOKE, {}, {}, stdin=Broken()))
    with pytest.raises(TargetsError, match="Input/output error"):
        digest(None, Broken())


def test_the_digest_is_known_only_after_the_whole_file_was_read() -> None:
    file = TargetFile(None, REVOKE, {}, {}, stdin=io.BytesIO(ROWS))
    items = iter(file)
    next(items)
    assert file.sha256 == ""
    assert len(list(items)) == 1
    assert file.sha256 == hashlib.sha256(ROWS).hexdigest()


def test_a_half_read_file_is_closed(make: Callable[[str, bytes], TargetFile]) -> None:
    items = iter(make("f.csv.gz", gzip.compress(ROWS)))
    next(items)
    del items  # an unclosed file causes a ResourceWarning, which is an error in these tests


# ---- properties


def _is_undamaged(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(identifier(name))
    return False


_names = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(' ",;'), min_size=1
).filter(_is_undamaged)
_rows = st.lists(
    st.tuples(
        _names,
        st.integers(0, INT64_MAX),
        st.none() | st.sampled_from([*REVOKE_REASONS, *map(str, REVOKE_REASONS.values())]),
        st.text("\n \u00e9x", max_size=5),
    ),
    min_size=1,
)


def _expected(rows: list[tuple[str, int, str | None, str]]) -> list[dict[str, FieldValue]]:
    by_name = REVOKE_REASONS | {str(number): number for number in REVOKE_REASONS.values()}
    expected = []
    for name, serial, reason, _ in rows:
        fields: dict[str, FieldValue] = {"assetId": name.strip(" "), "certSn": serial}
        expected.append(fields | ({} if reason is None else {"reason": by_name[reason]}))
    return expected


@given(_rows, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_rows_written_as_csv_are_read_back(
    rows: list[tuple[str, int, str | None, str]], ending: str, bom: bool, quoted: bool
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(
        file, lineterminator=ending, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    )
    starts = []
    writer.writerow(["assetId", "certSn", "reason", "note"])
    for cells in rows:
        starts.append(file.getvalue().count("\n") + 1)
        writer.writerow(cells)
    read = Read(BOM * bom + file.getvalue().encode())
    found = [(target.line, target.fields) for target in read.targets]
    assert found == list(zip(starts, _expected(rows), strict=True))
    assert not read.rejections


@given(_rows)
def test_rows_written_as_jsonl_are_read_back(rows: list[tuple[str, int, str | None, str]]) -> None:
    content = b"".join(
        row(assetId=name, certSn=serial, reason=reason, note=note)
        for name, serial, reason, note in rows
    )
    assert Read(content).all == [
        Target(line, fields, {"note": note})
        for line, (fields, (*_, note)) in enumerate(zip(_expected(rows), rows, strict=True), 1)
    ]


# bytes with a meaning in the formats, more often than they would occur by chance
_pieces = st.sampled_from(
    [
        *(b'"', b",", b"\n", b"\r", b"\0", b"\xff", b" ", b"{", b"}", b":", b"[", b"5", b"-1"),
        *(b"assetId", b"certSn", b"reason", b"A", b'"assetId":"A"', b'"certSn":5', HEADER, BOM),
    ]
)
_bytes = st.binary() | st.lists(_pieces | st.binary(max_size=3)).map(b"".join)


@settings(max_examples=200)
@given(
    st.sampled_from(["csv", "jsonl"]),
    st.sampled_from([b"", HEADER, b"\xef\xbb\xbf\n" + HEADER]),
    _bytes,
    st.sampled_from([lambda content: content, gzip.compress]),
    st.integers(-20, 0) | st.none(),
)
def test_no_bytes_cause_a_crash_or_lose_rows(
    form: targets.Format,
    start: bytes,
    rest: bytes,
    pack: Callable[[bytes], bytes],
    cut: int | None,
) -> None:
    content = pack(start + rest)[:cut]
    file = TargetFile(None, REVOKE, {}, {}, stdin=io.BytesIO(content), format=form)
    try:
        items = list(file)
    except BulkcertError as error:
        assert error.next_step  # noqa: PT017 - both endings are valid
    else:
        assert file.sha256 == hashlib.sha256(unpacked(content)).hexdigest()
        assert len({item.line for item in items}) == file.lines
        assert [item.line for item in items] == sorted(item.line for item in items)


@given(_bytes, _bytes)
def test_no_gzip_data_causes_a_crash(start: bytes, rest: bytes) -> None:
    content = b"\x1f\x8b" + start + gzip.compress(HEADER + rest) + rest
    with pytest.raises(TargetsError):
        list(TargetFile(None, REVOKE, {}, {}, stdin=io.BytesIO(content)))
    with pytest.raises(TargetsError, match="cut short or damaged"):
        digest(None, io.BytesIO(content))
