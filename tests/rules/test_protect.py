"""What is on a never-touch list: comparing, wildcards, and entries that can't be compared."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.rules.protect import Entry, NeverTouch

ENOS = (("assetId",), ("productKey", "deviceKey"))
APSARAMQ = (("DeviceSn", "CaSn"),)
NAMED = ("assetId", "certSn")


def lists(*entries: Mapping[str, str], ways: Any = ENOS, **common: str) -> NeverTouch:
    rows = (Entry("never.csv", line, fields) for line, fields in enumerate(entries, start=2))
    return NeverTouch(rows, ways, common)


def line(never: NeverTouch, **fields: str | int) -> int | None:
    """The line of the entry that a target is on."""
    hit = never.find(fields)
    return None if hit is None else hit.entry.line


@pytest.mark.parametrize(
    ("entry", "target", "is_hit"),
    [
        ({"assetId": "A1"}, {"assetId": "A1", "certSn": 5}, True),
        ({"assetId": "A1"}, {"assetId": "A10", "certSn": 5}, False),
        ({"assetId": "A1"}, {"assetId": "a1", "certSn": 5}, False),
        ({"certSn": "5"}, {"assetId": "A1", "certSn": 5}, True),
        ({"certSn": "5"}, {"assetId": "A1", "certSn": 55}, False),
        # all columns of a row count
        ({"assetId": "A1", "certSn": "5"}, {"assetId": "A1", "certSn": 5}, True),
        ({"assetId": "A1", "certSn": "5"}, {"assetId": "A1", "certSn": 6}, False),
        ({"productKey": "P"}, {"productKey": "P", "deviceKey": "D", "certSn": 5}, True),
        (
            {"productKey": "P", "deviceKey": "E"},
            {"productKey": "P", "deviceKey": "D", "certSn": 5},
            False,
        ),
        # one device, named in two ways: the way of the target is enough
        (
            {"assetId": "A1", "productKey": "P", "deviceKey": "D"},
            {"assetId": "A1", "certSn": 5},
            True,
        ),
        (
            {"assetId": "A1", "productKey": "P", "deviceKey": "D"},
            {"productKey": "P", "deviceKey": "D", "certSn": 5},
            True,
        ),
        ({"assetId": "A1", "productKey": "P"}, {"assetId": "A1", "certSn": 5}, True),
        # the organization is that of the connection, unless the row has its own
        ({"orgId": "o1"}, {"assetId": "A1", "certSn": 5}, True),
        ({"orgId": "o1"}, {"assetId": "A1", "certSn": 5, "orgId": "o2"}, False),
    ],
)
def test_an_entry_is_compared_by_all_of_its_columns(
    entry: dict[str, str], target: dict[str, Any], is_hit: bool
) -> None:
    assert (lists(entry, orgId="o1").find(target) is not None) is is_hit


@pytest.mark.parametrize(
    ("pattern", "hits", "others"),
    [
        ("A*", ["A", "A1"], ["BA", "a1"]),
        ("*7", ["7", "A7"], ["70"]),
        ("A*7", ["A7", "A177"], ["A", "A71"]),
        ("*", ["", "anything"], []),
        ("A*B*C", ["ABC", "AxBxBC"], ["AB", "ACB"]),
        ("A*A", ["AA", "AxA"], ["A"]),  # the ends must not overlap
        ("A*B*BC", ["ABBC"], ["ABC"]),  # nor the middle with an end
        ("A.*", ["A.1"], ["A1"]),  # no other character is special
    ],
)
def test_a_wildcard_stands_for_any_text(pattern: str, hits: list[str], others: list[str]) -> None:
    never = lists({"assetId": pattern})
    assert [line(never, assetId=value) for value in hits] == [2] * len(hits)
    assert [line(never, assetId=value) for value in others] == [None] * len(others)


@given(
    st.lists(st.text("A*", max_size=5), min_size=1, max_size=6),
    st.text("AB", max_size=5),
)
def test_the_first_entry_that_matches_is_found_as_by_trying_all(
    patterns: list[str], value: str
) -> None:
    expected = next(
        (n for n, p in enumerate(patterns, start=2) if fnmatch.fnmatchcase(value, p)), None
    )
    assert line(lists(*({"assetId": pattern} for pattern in patterns)), assetId=value) == expected


TEXT = st.sampled_from(["A", "AB", "B", "A*", "*", "*B"])
FIELDS = ("assetId", "certSn", "productKey", "deviceKey")


@given(
    st.lists(st.dictionaries(st.sampled_from(FIELDS), TEXT, min_size=1), max_size=6),
    st.one_of(
        *(
            st.fixed_dictionaries({name: st.sampled_from(["A", "AB", "B"]) for name in names})
            for names in (("assetId", "certSn"), ("productKey", "deviceKey", "certSn"))
        )
    ),
)
def test_rows_of_several_columns_are_found_as_by_trying_all(
    rows: list[dict[str, str]], target: dict[str, str]
) -> None:
    never = lists(*rows)
    useless = {entry.line for entry in never.incomparable([tuple(target)])}
    expected = next(
        (
            number
            for number, row in enumerate(rows, start=2)
            if number not in useless
            and all(fnmatch.fnmatchcase(target[n], row[n]) for n in row.keys() & target.keys())
        ),
        None,
    )
    assert line(never, **target) == expected


def test_the_first_entry_counts_whatever_columns_it_has() -> None:
    never = lists({"assetId": "B"}, {"certSn": "5"}, {"assetId": "A"})
    assert line(never, assetId="A", certSn=5) == 3


def test_wildcards_and_exact_values_may_stand_in_one_row() -> None:
    never = lists({"DeviceSn": "00*", "CaSn": "0a"}, ways=APSARAMQ)
    assert line(never, DeviceSn="0012", CaSn="0a") == 2
    assert line(never, DeviceSn="0012", CaSn="0A") is None  # the provider tells them apart
    assert line(never, DeviceSn="12", CaSn="0a") is None


def test_numbers_are_compared_with_what_a_wildcard_stands_for() -> None:
    assert line(lists({"certSn": "52*"}), assetId="A", certSn=52739) == 2


@pytest.mark.parametrize(
    ("entry", "shapes", "comparable"),
    [
        ({"deviceKey": "D"}, [NAMED], False),
        ({"deviceKey": "D"}, [NAMED, ("productKey", "deviceKey", "certSn")], True),
        ({"productKey": "P", "deviceKey": "D"}, [NAMED], False),
        ({"assetId": "A", "productKey": "P", "deviceKey": "D"}, [NAMED], True),
        # this certificate of this device, of which the targets say only one
        ({"assetId": "A", "certSn": "5"}, [("productKey", "deviceKey", "certSn")], False),
        # the serial number alone does not say whether the product is this one
        ({"productKey": "P", "certSn": "5"}, [NAMED], False),
        ({"certSn": "5"}, [("assetId",)], False),
        ({"orgId": "o9"}, [NAMED], True),
    ],
)
def test_what_can_be_compared_with_no_target_is_known(
    entry: dict[str, str], shapes: list[tuple[str, ...]], comparable: bool
) -> None:
    never = lists({"assetId": "Z"}, entry, orgId="o1")
    assert [each.line for each in never.incomparable([*shapes, ("assetId",)])] == (
        [] if comparable else [3]
    )


@pytest.mark.parametrize(
    ("entry", "target", "resembled"),
    [
        ({"assetId": "A1", "certSn": "5"}, {"assetId": "A1", "certSn": 6}, True),
        ({"assetId": "a1"}, {"assetId": "A1", "certSn": 6}, True),
        ({"certSn": "5"}, {"assetId": "A1", "certSn": 6}, False),
        ({"assetId": "A2", "certSn": "5"}, {"assetId": "A1", "certSn": 6}, False),
    ],
)
def test_what_is_nearly_on_the_list_is_known(
    entry: dict[str, str], target: dict[str, Any], resembled: bool
) -> None:
    never = lists(entry)
    assert never.find(target) is None
    assert (never.resembled(target) is not None) is resembled


def test_serial_numbers_that_differ_in_case_or_leading_zeros_resemble_each_other() -> None:
    never = lists({"DeviceSn": "00AB"}, ways=APSARAMQ)
    assert never.resembled({"DeviceSn": "ab", "CaSn": "1"}) is not None


def test_a_hit_says_what_was_compared_and_whose_it_is() -> None:
    entry = Entry("never.csv", 3, {"assetId": "ward-*"}, owner="Ward 4", note="ven\ttilator")
    hit = NeverTouch([entry], ENOS, {}).find({"assetId": "ward-7", "certSn": 5})
    assert str(hit) == (
        "assetId 'ward-7' must not be touched: line 3 of never.csv (assetId 'ward-*'),"
        " owner Ward 4, note ven\\ttilator"
    )


@pytest.mark.parametrize(
    ("owner", "note", "said"),
    [
        ("", "", ""),
        ("Ward 4", "", ", owner Ward 4"),
        ("", "n" * 200, f", note {'n' * 200}"),
        ("", "n" * 201, f", note {'n' * 200}…"),
    ],
)
def test_an_entry_says_what_its_list_says_of_it(owner: str, note: str, said: str) -> None:
    entry = Entry("never.csv", 3, {"assetId": "A1"}, owner, note)
    assert str(entry) == f"line 3 of never.csv{said}"
