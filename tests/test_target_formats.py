"""Target files of other kinds: other delimiters and encodings, `sep=`, Excel workbooks."""

from __future__ import annotations

import builtins
import datetime
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from bulkcert.errors import JobError, TargetsError
from bulkcert.job import CsvFormat
from bulkcert.jobfile import parsers
from bulkcert.model import Rejection, Target
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.base import Action
from bulkcert.providers.enos.actions import REVOKE
from bulkcert.targets import TargetFile
from bulkcert.targets.workbook import WorkbookRows

DELETE = APSARAMQ.actions["delete"]
ROWS = "assetId,certSn\nA1,1\nB2,2\n"
FIELDS = [{"assetId": "A1", "certSn": 1}, {"assetId": "B2", "certSn": 2}]


class Read:
    """A target file, read as a job with these settings reads it."""

    def __init__(
        self, content: bytes, action: Action = REVOKE, form: Any = None, **csv_format: str
    ) -> None:
        self.file = TargetFile(
            None,
            action,
            {},
            {},
            stdin=io.BytesIO(content),
            format=form,
            csv_format=CsvFormat(**csv_format),
        )
        self.all = list(self.file)
        self.fields = [item.fields for item in self.all if isinstance(item, Target)]
        self.rejections = [item for item in self.all if isinstance(item, Rejection)]


def refused(content: bytes, form: Any = None, **csv_format: str) -> TargetsError:
    with pytest.raises(TargetsError) as caught:
        Read(content, form=form, **csv_format)
    return caught.value


# ---- delimiters


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "\x1f", ":", "§"])
def test_the_job_names_the_delimiter(delimiter: str) -> None:
    content = ROWS.replace(",", delimiter).encode()
    assert Read(content, delimiter=delimiter).fields == FIELDS


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
@pytest.mark.parametrize("given", ["", ",", ";"])
def test_a_first_line_may_name_the_delimiter(first: str, given: str) -> None:
    content = f"{first}\r\n" + ROWS.replace(",", ";").replace("\n", "\r\n")
    read = Read(content.encode(), delimiter=given)
    assert read.fields == FIELDS
    assert [item.line for item in read.all] == [3, 4]


@pytest.mark.parametrize(
    ("header", "used", "advice"),
    [
        ("assetId;certSn", "", '[format]\ndelimiter = ";"'),
        ("assetId;certSn;Site, town", "", '[format]\ndelimiter = ";"'),
        ("assetId\tcertSn", "", '[format]\ndelimiter = "\\t"'),
        ("assetId|certSn", "", '[format]\ndelimiter = "|"'),
        ("assetId|certSn", ";", 'add to [format] in the job file:\ndelimiter = "|"'),
        ("assetId,certSn", ";", "Remove `delimiter` from [format]"),
    ],
)
def test_the_error_for_another_delimiter_says_what_to_write(
    header: str, used: str, advice: str
) -> None:
    assert advice in refused(f"{header}\nA1,1\n".encode(), delimiter=used).next_step


# ---- encodings


@pytest.mark.parametrize(
    "encoding",
    [
        "gb18030",
        "gbk",
        "cp1252",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-8-sig",
        "cp037",
    ],
)
def test_the_job_names_the_encoding(encoding: str) -> None:
    content = "assetId,certSn,Site\nA1,1,x\nB2,2,é\n".encode(encoding)
    read = Read(content, encoding=encoding)
    assert read.fields == FIELDS
    assert read.all[-1].extra == {"Site": "é"}  # type: ignore[union-attr]
    assert read.file.sha256 == hashlib.sha256(content).hexdigest()  # of the bytes as stored


@pytest.mark.parametrize(
    ("encoding", "bad", "reason"),
    [
        ("gb18030", "é".encode("cp1252"), "is not valid gb18030 at character 6"),
        ("utf-16-le", b"\x00\xd8", "is not valid utf-16-le at character 6"),
    ],
)
def test_bytes_that_are_not_text_reject_their_row_alone(
    encoding: str, bad: bytes, reason: str
) -> None:
    start, end = "assetId,certSn,Site\nA1,1,".encode(encoding), "\nB2,2,x\n".encode(encoding)
    read = Read(start + bad + end, encoding=encoding)
    assert [(item.line, item.reason) for item in read.rejections] == [(2, reason)]
    assert read.fields == FIELDS[1:]


def test_a_private_key_is_found_in_any_encoding() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIBsecret\n-----END PRIVATE KEY-----"
    content = f'assetId,certSn,note\nA1,1,"{key}"\nB2,2,\n'.encode("utf-16")
    read = Read(content, encoding="utf-16")
    assert read.fields == FIELDS[1:]
    assert read.rejections[0].reason.startswith("contains a private key")


def test_every_line_of_a_private_key_outside_quotes_is_refused() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIBsecret\nMIIBmore\n-----END PRIVATE KEY-----"
    read = Read(f"assetId,certSn\nA1,{key}\nB2,2\n".encode())
    assert [item.line for item in read.rejections] == [2, 3, 4, 5]
    assert all(item.reason.startswith("contains a private") for item in read.rejections)
    assert "secret" not in str(read.rejections)
    assert read.fields == FIELDS[1:]


@pytest.mark.parametrize(
    ("text", "encoding", "advice"),
    [
        ("assetId,certSn\nA1,1\n", "utf-16", '[format]\nencoding = "utf-16"'),
        ("assetId\tcertSn\nA1\t1\n", "utf-16", '[format]\ndelimiter = "\\t"\nencoding = "utf-16"'),
        ("assetId;certSn\n", "utf-16-le", '[format]\ndelimiter = ";"\nencoding = "utf-16-le"'),
        ("assetId,certSn\n", "utf-16-be", '[format]\nencoding = "utf-16-be"'),
        ("assetId,certSn\n", "utf-32", '[format]\nencoding = "utf-32"'),
        ("assetId;certSn\nA1;1;北京\n", "gb18030", 'delimiter = ";"\nencoding = "gb18030"'),
        ("assetId,certSn,地点\n", "gb18030", '[format]\nencoding = "gb18030"'),
        ("assetId,certSn,Größe\n", "cp1252", '[format]\nencoding = "cp1252"'),
    ],
)
def test_the_error_for_another_encoding_says_what_to_write(
    text: str, encoding: str, advice: str
) -> None:
    assert refused(text.encode(encoding)).next_step.endswith(advice)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((text, "gb18030") for text in ("上海", "A区", "北京市朝阳区", "镕基")),
        *((text, "cp1252") for text in ("Köln", "Größe", "Düsseldorf", "Malmö", "Île")),
    ],
)
def test_rows_in_another_encoding_say_what_to_write(text: str, encoding: str) -> None:
    read = Read(f"assetId,certSn,Site\nA1,1,{text}\nB2,2,x\n".encode(encoding))
    assert read.rejections[0].reason.startswith("is not valid UTF-8 at byte ")
    assert read.file.advice.endswith(f'[format]\nencoding = "{encoding}"')
    assert not Read(ROWS.encode()).file.advice


def test_utf_16_without_a_byte_order_mark_is_refused_if_the_job_wants_one() -> None:
    error = refused(ROWS.encode("utf-16-be"), encoding="utf-16")
    assert "should be the header" in error.problem


# ---- [format] in the job file


@pytest.mark.parametrize("value", ["", ";;", "a", "1", '"', "\n", "\r", " ", "'", 5, None])
def test_a_delimiter_that_can_be_part_of_a_cell_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"must be one character|can't be"):
        parsers.delimiter(value)


@pytest.mark.parametrize("value", ["nothing", "hex", "rot13", "idna", "undefined", "zip", "a b"])
def test_what_is_not_a_text_encoding_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parsers.encoding(value)


@pytest.mark.parametrize(("value", "name"), [("GBK", "gbk"), ("latin1", "iso8859-1")])
def test_an_encoding_has_many_names(value: str, name: str) -> None:
    assert parsers.encoding(value) == name


def test_a_format_is_for_csv_only() -> None:
    error = refused(b'{"assetId": "A1", "certSn": 1}\n', delimiter=";")
    assert "[format] in the job file is for CSV; JSON Lines are always UTF-8" in error.problem
    assert "[format] in the job file is for CSV" in refused(workbook([]), delimiter=";").problem


def test_what_we_have_written_is_read_whatever_the_format() -> None:
    header = "line,assetId,certSn,outcome,finished_at\n"
    for content in (
        f"{header}7,A1,1,failed,x\n",
        "rejected_line,rejected_text,assetId,certSn\n7,,A1,1\n",
        '{"line":7,"outcome":"failed","finished_at":null,"target":{"assetId":"A1","certSn":1}}\n',
        '{"rejected_line":7,"assetId":"A1","certSn":1}\n',
    ):
        assert Read(content.encode(), delimiter=";", encoding="utf-16").fields == FIELDS[:1]


# ---- rows without content


@pytest.mark.parametrize("blank", [",", ",,", ";;", " ", "\t", ' ,"  "', '""', "\u00a0,\u3000"])
def test_rows_without_content_are_no_rows(blank: str) -> None:
    delimiter = ";" if ";" in blank else ","
    content = f"assetId,certSn\n{blank}\nA1,1\n{blank}\n{blank}\n".replace(",", delimiter)
    read = Read(content.replace(",", delimiter).encode(), delimiter=delimiter)
    assert read.fields == FIELDS[:1]
    assert (read.rejections, read.file.lines) == ([], 1)


# ---- Excel workbooks


def workbook(rows: Iterable[Sequence[Any]], formats: Mapping[str, str] | None = None) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(list(row))
    for cell, number_format in (formats or {}).items():
        sheet[cell].number_format = number_format
    book.create_sheet("another").append(["assetId"])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def test_the_first_sheet_of_a_workbook_is_read(tmp_path: Path) -> None:
    content = workbook(
        [
            ("assetId", " certSn ", "reason", "Site"),
            ("A1", 1, None, "Köln"),
            ("007", "52739", "SUPERSEDED"),
            (),
            (" ", None),
            (12345, 3.0, 1, datetime.date(2026, 1, 2)),
        ]
    )
    path = tmp_path / "Fleet.XLSX"
    path.write_bytes(content)
    file = TargetFile(path, REVOKE, {}, {})
    assert list(file) == [
        Target(2, {"assetId": "A1", "certSn": 1}, {"Site": "Köln"}),
        Target(3, {"assetId": "007", "certSn": 52739, "reason": 4}, {"Site": ""}),
        Target(6, {"assetId": "12345", "certSn": 3, "reason": 1}, {"Site": "2026-01-02 00:00:00"}),
    ]
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert list(file) == Read(content).all, "from standard input"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (10**15 - 1, ""),
        (10**15, "is a number of more than 15 digits, the last of which are lost"),
        (123456789012345678, "is a number of more than 15 digits"),
        (1.5, "is not a whole number in the workbook"),
        (True, "is a truth value in the workbook"),
        (datetime.date(2026, 1, 2), "is a date or a time in the workbook"),
        ("=1/0", "is a formula without a result"),
        ("#N/A", "is an error value of the workbook"),
    ],
)
def test_cells_that_may_have_lost_something_are_refused(value: object, reason: str) -> None:
    read = Read(workbook([("CaSn", "DeviceSn"), ("0c", value)]), DELETE)
    assert [(r.line, r.field) for r in read.rejections] == ([(2, "DeviceSn")] if reason else [])
    assert not reason or read.rejections[0].reason.startswith(reason)
    # in a column that is not used, it does no harm
    assert Read(workbook([("CaSn", "DeviceSn", "x"), ("0c", "01", value)]), DELETE).fields


def test_the_result_of_a_formula_is_read() -> None:
    content = workbook([("assetId", "certSn"), ("A1", "=500+23")])
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    parts[sheet] = parts[sheet].replace(b"<v />", b"<v>523</v>").replace(b"<v></v>", b"<v>523</v>")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as new:
        for name, part in parts.items():
            new.writestr(name, part)
    assert Read(packed.getvalue()).fields == [{"assetId": "A1", "certSn": 523}]


def test_a_private_key_in_a_workbook_is_refused() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"
    read = Read(workbook([("assetId", "certSn", "note"), ("A1", 1, key), ("B2", 2)]))
    assert read.rejections[0].reason.startswith("contains a private key")
    assert read.fields == FIELDS[1:]


def test_a_row_with_more_cells_than_the_header_is_refused() -> None:
    read = Read(workbook([("assetId", "certSn"), ("A1", 1, "x"), ("B2", 2)]))
    assert [r.reason for r in read.rejections] == ["has 3 cells, but the header has 2"]


def test_a_workbook_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_openpyxl(name: str, *args: Any) -> Any:
        if name == "openpyxl":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_openpyxl)
    assert "pip install 'bulkcert[excel]'" in refused(workbook([("assetId", "certSn")])).next_step


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"", b"\xd0\xcf\x11\xe0", b"a,b\n"])
def test_what_is_no_workbook_is_refused(content: bytes) -> None:
    assert "can't be read as an Excel workbook" in refused(content, "xlsx").problem


def test_a_workbook_under_the_name_of_csv_is_recognized() -> None:
    assert "looks like an Excel workbook" in refused(workbook([]), "csv").problem


def bomb(part: str, content: bytes, times: int) -> bytes:
    packed = io.BytesIO(workbook([("assetId", "certSn"), ("A1", 1)]))
    with (
        zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(part, "w", force_zip64=True) as stream,
    ):
        for _ in range(times):
            stream.write(content)
    return packed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "start", "problem"),
    [
        ("xl/theme/more.xml", b" ", "its part 'xl/theme/more.xml' is too large"),
        ("xl/worksheets/sheet9.xml", b"<", "a row of a sheet is too large"),
    ],
)
def test_a_workbook_that_unpacks_to_far_more_is_refused(
    part: str, start: bytes, problem: str
) -> None:
    content = bomb(part, start + b"x" * (2**20 - 1), 257)
    assert len(content) < 2_000_000
    assert problem in refused(content, "xlsx").problem


def test_the_sizes_are_checked_before_anything_is_unpacked() -> None:
    with pytest.raises(TargetsError, match="can't be read as an Excel workbook"):
        WorkbookRows("t.xlsx", io.BytesIO(workbook([])[:-30]))


def test_the_job_takes_a_format(tmp_path: Path) -> None:
    from bulkcert import load_job

    path = tmp_path / "job.toml"
    start = (
        'provider = "enos"\naction = "revoke"\ntargets = "t.csv"\n'
        '[connection]\nendpoint = "https://example.com"\norg_id = "o1"\n[format]\n'
    )
    path.write_text(start + 'delimiter = "\\t"\nencoding = "GB18030"\n')
    assert load_job(path).format == CsvFormat(delimiter="\t", encoding="gb18030")
    path.write_text(start + 'delimiter = "ab"\nencoding = "hex"\n')
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert "format.delimiter must be one character" in caught.value.problem
    assert "format.encoding 'hex' is not a text encoding" in caught.value.problem
