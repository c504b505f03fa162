"""Pages of runs for tests, as text and as data, and a parser that takes them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

from stores import Disk, MemoryReader

from bulkcert.report.page import Step, report_page
from bulkcert.report.page.content import page_of
from bulkcert.report.page.parts import Page

VOID = {"meta", "br", "hr", "img", "input", "link"}


@dataclass
class Parsed(HTMLParser):
    """A page, taken apart; refuses tags that are not closed in order."""

    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def html_of(disk: Disk, steps: Sequence[Step] = (), *, running: bool = False) -> str:
    return report_page(MemoryReader(disk), steps, running=running).decode()


def parsed(html: str) -> Parsed:
    parser = Parsed()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def page(disk: Disk, *, running: bool = False) -> Page:
    return page_of(MemoryReader(disk), running=running)
