"""Names and serial numbers that a spreadsheet or a report has damaged are refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.errors import JobError
from bulkcert.jobfile import load_job
from bulkcert.model import Rejection, Target
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import Action
from bulkcert.providers.enos.actions import ENOS
from bulkcert.spreadsheet import may_be_cut
from bulkcert.targets import TargetFile
from bulkcert.values import identifier, serial_text, whole_number

DAMAGED = {
    "3.56217E+17": "is in scientific notation, so digits are missing",
    "3.56217e+17": "is in scientific notation",
    "3,56217E+17": "is in scientific notation",
    "7.27E15": "is in scientific notation",
    "1E+17": "is in scientific notation",
    "-1.5e-07": "is in scientific notation",
    '="007269"': "is a formula of a spreadsheet",
    "=007269": "is a formula of a spreadsheet",
    "'007269": "begins with a quote or an apostrophe",
    "\u2019007269": "begins with a quote or an apostrophe",
    '"007269"': "begins with a quote or an apostrophe",
    "52,739": "has thousands separators",
    "356,217,374,433": "has thousands separators",
    "12,34,567": "has thousands separators",
    "356,217,374.00": "has thousands separators",
    "356 217 374": "has thousands separators",
    "356'217'374": "has thousands separators",
    "3562\u2026****": "is masked",
    "007269004887******": "is masked",
    "3562\u20224433": "",  # one dot may be a part of a name
    "3562\u2022\u2022\u20224433": "is masked",
    "3562...4433": "is masked",
    "########": "is an error value of a spreadsheet",
    "#N/A": "is an error value of a spreadsheet",
    "007269\u00a0": r"contains the unprintable character '\xa0', NO-BREAK SPACE",
    "007269\u202f004887": r"contains the unprintable character '\u202f', NARROW NO-BREAK SPACE",
    "\u200b007269": r"contains the unprintable character '\u200b', ZERO WIDTH SPACE",
    "007269\ufeff": r"contains the unprintable character '\ufeff', ZERO WIDTH NO-BREAK SPACE",
    "007269\t": r"contains the unprintable character '\t'",
    "007269\u3164": r"contains the invisible character '\u3164', HANGUL FILLER",
    "007269\ufe0f": r"contains the invisible character '\ufe0f', VARIATION SELECTOR-16",
}

DAMAGED_NUMBERS = {
    "52739.0": "has become a decimal number",
    "52739,00": "has become a decimal number",
    "356.217.374": "has thousands separators",
    "35 621737 443300": "has blanks between its digits",
    "3562*": "is masked",
    "26-Mar": "has become a date",
    "mar-26": "has become a date",
    "2026-03-26 00:00:00": "has become a date",
    "3/26/2026": "has become a date",
    "nan": "stands for a missing value",
    "NULL": "stands for a missing value",
}

UNDAMAGED = [
    *("12E34567", "1e5", "00f26900ba870000a7", "007269004887000001", "AB:cd/1+~", "7E-12"),
    *("1.0.3", "pump-0007", "O'Neill", "a,b", "设备", "#7", "E+", "N", "Ger\u00e4t 7", "35:62:17"),
]


@pytest.mark.parametrize(("value", "reason"), DAMAGED.items())
def test_damaged_identifiers_are_refused(value: str, reason: str) -> None:
    for parse in (identifier, serial_text):
        if not reason:
            assert parse(value) == value
            continue
        with pytest.raises(ValueError) as caught:
            parse(value)
        assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(("value", "reason"), DAMAGED_NUMBERS.items())
def test_some_damage_shows_only_in_numbers(value: str, reason: str) -> None:
    assert identifier(value) == value
    with pytest.raises(ValueError) as caught:
        serial_text(value)
    assert str(caught.value).startswith(reason)
    with pytest.raises(ValueError) as caught:
        whole_number(value)
    assert f": it {reason}" in str(caught.value)


@pytest.mark.parametrize("value", UNDAMAGED)
def test_whatever_a_provider_may_have_issued_is_kept(value: str) -> None:
    assert identifier(value) == value
    assert serial_text(value) == value


@pytest.mark.parametrize("value", ["192.168.100.200", "1,2", "1.5", "Null", "12 34"])
def test_a_device_may_have_a_name_that_no_serial_number_has(value: str) -> None:
    assert identifier(value) == value


@given(st.text(alphabet="0123456789abcdefABCDEF", min_size=1))
def test_no_hexadecimal_number_is_refused(value: str) -> None:
    assert serial_text(value) == value


@given(st.integers(min_value=10**15, max_value=10**40))
def test_every_long_number_is_refused_in_scientific_notation(number: int) -> None:
    for written in (f"{number:.5e}", f"{number:E}", f"{number:g}"):
        with pytest.raises(ValueError, match=r"^is in scientific notation"):
            serial_text(written)


IDENTIFYING = {
    *("assetId", "productKey", "deviceKey", "certSn", "orgId"),
    *("DeviceSn", "CaSn", "MqttInstanceId"),
}
"""The fields that say which device, certificate, organization or instance is meant."""


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        ("356217374433000000", True),
        ("356217374433001000", True),
        ("1000000000000000", True),
        (356217374433000000, True),
        ("356217374433000001", False),
        ("356217374433001", False),
        ("356217374433000", False),  # 15 digits survive
        ("056217374433000000", False),  # a spreadsheet would have removed the leading zero
        ("35621737443300f000", False),
        ("pump-00000000000000000", False),
        (52730, False),
        (None, False),
        ("", False),
    ],
)
def test_numbers_that_may_have_lost_their_last_digits(value: object, cut: bool) -> None:
    assert may_be_cut(value) is cut


FIELDS = [
    pytest.param(action, name, id=f"{provider.name}-{action.name}-{name}")
    for provider in (ENOS, APSARAMQ)
    for action in provider.actions.values()
    for name in action.fields
    if name in IDENTIFYING
]


@pytest.mark.parametrize(("action", "name"), FIELDS)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_every_identifying_field_is_checked_in_every_format(
    action: Action, name: str, form: str
) -> None:
    row = {other: "12" for other in action.fields if other in IDENTIFYING}
    row[name] = "3.56217E+17"
    header = ",".join(row) + "\n" if form == "csv" else ""
    content = header + (",".join(row.values()) if form == "csv" else json.dumps(row))
    rows = TargetFile(None, action, {}, {}, stdin=io.BytesIO(content.encode()))
    [found] = [item for item in rows if isinstance(item, Rejection) and item.field == name]
    assert found.line == (2 if form == "csv" else 1)
    assert "in scientific notation" in found.reason
    assert "'3.56217E+17'" in found.reason


@pytest.mark.parametrize(
    ("provider", "key", "value"),
    [
        ("enos", "parameters.assetId", "3.56217E+17"),
        ("enos", "parameters.certSn", "52,739"),
        ("enos", "parameters.orgId", "o1544\u2026****"),
        ("enos", "connection.org_id", "'o15444172373271"),
        ("apsaramq", "parameters.CaSn", '="007269"'),
        ("apsaramq", "parameters.DeviceSn", "0072\u200b69"),
        ("apsaramq", "connection.instance_id", "post-cn-7mz2d******"),
    ],
)
def test_a_job_file_is_checked_in_the_same_way(
    tmp_path: Path, provider: str, key: str, value: str
) -> None:
    action = "revoke" if provider == "enos" else "delete"
    (tmp_path / "job.toml").write_text(
        f'provider = "{provider}"\naction = "{action}"\ntargets = "t.csv"\n'
        f'connection.endpoint = "https://example.com"\n{key} = {json.dumps(value)}\n'
    )
    with pytest.raises(JobError) as caught:
        load_job(tmp_path / "job.toml")
    assert f"{key} " in caught.value.problem


@pytest.mark.parametrize(
    "second", ["DeviceSn,CaSn", " devicesn , CASN ", '"DeviceSn","CaSn"', "CaSn,DeviceSn"]
)
def test_a_repeated_header_is_not_a_target(second: str) -> None:
    content = f"DeviceSn,CaSn\n01,0c\n{second}\n02,0c\n".encode()
    rows = list(TargetFile(None, APSARAMQ.actions["delete"], {}, {}, stdin=io.BytesIO(content)))
    assert [row.line for row in rows if isinstance(row, Target)] == [2, 4]
    assert [row for row in rows if isinstance(row, Rejection)] == [
        Rejection(3, "", "repeats the header: were several files joined?")
    ]


def test_a_repeated_header_under_other_names_is_found() -> None:
    content = b"Serial,Issuer\n01,0c\nSerial,Issuer\n"
    columns = {"DeviceSn": "Serial", "CaSn": "Issuer"}
    rows = TargetFile(None, APSARAMQ.actions["delete"], {}, columns, stdin=io.BytesIO(content))
    assert [type(row) for row in rows] == [Target, Rejection]
