"""The page about a run: well-formed, inert, small, readable, and the same for the same run."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_time import local_time
from pages import html_of, page, parsed
from runs import EVIL, Size, large_run, small_run

from bulkcert.model import State
from bulkcert.report.page import Step
from bulkcert.report.page.course import Percentiles
from bulkcert.report.page.frame import _LETTER, _NARROW, _WIDE
from bulkcert.store.base import Session

MOST_BYTES = 200_000
BUSY = Size(
    *(3000, 40, 400, 5000, 30, 300, 60),
    text="a reason as long as one may be, " * 6,
)


@pytest.fixture(scope="module")
def large() -> str:
    return html_of(large_run(Size(text=EVIL)), [Step("To go on:", ["bulkcert run 'a b'; <x>"])])


def test_the_page_is_well_formed(large: str) -> None:
    found = parsed(large)
    assert found.tags.count("h1") == 1
    identifiers = [value for _, name, value in found.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    references = [
        word
        for _, name, value in found.attributes
        if name == "aria-labelledby"
        for word in value.split()
    ]
    assert set(references) <= set(identifiers)


def test_each_picture_is_well_formed_and_has_a_title_and_a_description(large: str) -> None:
    pictures = [
        ElementTree.fromstring(text)
        for text in re.findall(r'<svg class="plot".*?</svg>(?=\s*<p)', large, re.DOTALL)
    ]
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.get("role") == "img"
        for name in ("title", "desc"):
            [element] = picture.findall(name)
            assert element.text


def test_nothing_in_it_runs_or_is_loaded(large: str) -> None:
    found = parsed(large)
    assert not {"script", "iframe", "object", "embed", "img", "link", "base", "form", "a"} & set(
        found.tags
    )
    for _, name, value in found.attributes:
        assert name != "style"
        assert not name.startswith("on")
        assert name not in {"src", "href", "xlink:href", "srcset"}
        assert "javascript:" not in value
    [style] = re.findall(r"<style>(.*?)</style>", large, re.DOTALL)
    assert "@import" not in style
    assert re.findall(r"url\(([^)]*)\)", style) == ["#hatch"]


def test_its_policy_permits_its_style_sheet_and_nothing_else(large: str) -> None:
    [style] = re.findall(r"<style>(.*?)</style>", large, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    attributes = parsed(large).attributes
    [policy] = [
        value for _, name, value in attributes if name == "content" and "default-src" in value
    ]
    assert policy.split("; ") == [
        *("default-src 'none'", f"style-src 'sha256-{digest}'", "base-uri 'none'"),
        "form-action 'none'",
    ]


def test_text_of_others_can_neither_act_nor_hide(large: str) -> None:
    assert "<script" not in large
    assert "\u202e" not in large
    assert "<script>alert(1)</script>\"'&\\u202e" in parsed(large).text
    assert "bulkcert run 'a b'; <x>" in parsed(large).text


def test_the_same_run_gives_the_same_bytes_anywhere() -> None:
    first = html_of(large_run())
    with local_time("Asia/Tokyo"):
        assert html_of(large_run()) == first


def test_however_much_there_is_the_page_stays_small() -> None:
    html = html_of(large_run(BUSY))
    assert 60_000 < len(html.encode()) <= MOST_BYTES
    parsed(html)
    assert "4,971 rows are not shown here" in html


def test_a_rehearsal_says_so_on_screen_and_on_paper() -> None:
    html = html_of(small_run(rehearsal=True))
    assert html.count("REHEARSAL") == 2
    assert ", rehearsal" in html
    assert "REHEARSAL" not in html_of(small_run())
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    on_paper = style[style.index("@media print") :]
    assert ".watermark span" in on_paper
    assert "position: fixed" in style  # which repeats it on each sheet


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(large: str, theme: str) -> None:
    """By WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    blocks = re.findall(r":root \{(.*?)\}", large, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[0]))
    if theme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[1]))
    texts = ("ink", "soft", "good", "bad", "open", "stopped")
    ratios = {
        (text, on): _contrast(colours[text], colours[on])
        for text in texts
        for on in ("page", "panel")
    }
    assert {pair for pair, ratio in ratios.items() if ratio < 4.5} == set()
    drawn = ("succeeded", "already_done", "failed", "unknown", "rate", "peak", "ceiling", "refused")
    ratios = {
        (each, "page"): _contrast(colours[each], colours["page"])
        for each in (*drawn, *Percentiles._fields)
    }
    assert {pair for pair, ratio in ratios.items() if ratio < 3} == set()


def _contrast(first: str, second: str) -> float:
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_tables_beneath_the_plots_are_open_on_paper(large: str) -> None:
    on_paper = large[large.index("@media print") : large.index("</style>")]
    assert "details::details-content { content-visibility: visible" in on_paper
    assert parsed(large).tags.count("details") == 3


@pytest.mark.parametrize("size", [Size(), BUSY, Size(waves=40, text="x"), Size(pauses=60)])
def test_no_label_covers_another_one(size: Size) -> None:
    for section in page(large_run(size)).sections:
        if (figure := section.figure) is None:
            continue
        for lane in figure.lanes:
            for area in lane.areas:
                pixels = len(area.text) * _LETTER
                assert pixels <= area.width * _WIDE
                assert area.wide or pixels <= area.width * _NARROW
        free_from = 0.0
        for mark in figure.marks:
            width = len(mark.text) * _LETTER / _NARROW
            left = mark.x - {"start": 0, "middle": width / 2, "end": width}[mark.anchor]
            if mark.text:
                assert left >= free_from - 1e-9
                assert left + width <= 100 + 1e-9
                free_from = left + width


MOMENTS = st.one_of(st.floats(0, 2e9), st.floats(1_780_056_000, 1_780_056_900))


@settings(max_examples=50)
@given(data=st.data())
def test_whatever_the_clocks_said_there_is_a_page(data: st.DataObject) -> None:
    disk = small_run([State.SUCCEEDED, State.FAILED, State.UNKNOWN])
    for number, row in disk.rows.items():
        disk.rows[number] = replace(row, finished_at=data.draw(MOMENTS))
    disk.history = [
        entry._replace(sent_at=data.draw(MOMENTS), ended_at=data.draw(MOMENTS))
        for entry in disk.history
    ]
    count = data.draw(st.integers(1, 4))
    disk.sessions = {n: Session(data.draw(MOMENTS), data.draw(MOMENTS)) for n in range(count)}
    log = [event._replace(at=data.draw(MOMENTS)) for event in large_run(Size(20, pauses=1)).events]
    disk.events = data.draw(st.permutations(log))
    html = html_of(disk)
    parsed(html)
    for text in re.findall(r'<svg class="plot".*?</svg>(?=\s*<p)', html, re.DOTALL):
        ElementTree.fromstring(text)
    assert not re.search(r"\b(nan|inf)\b", html)
