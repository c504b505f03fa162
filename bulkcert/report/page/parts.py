"""The parts of a page, as the template shows them. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bulkcert.report.page.figure import Figure, Table


class Step(NamedTuple):
    """Something that can be done about the run.

    Attributes:
        aim: what for, as a phrase that ends with a colon.
        commands: what does it, in order.
    """

    aim: str
    commands: Sequence[str]


class Fact(NamedTuple):
    """Something about the run; `code` for what is copied or compared character by character."""

    name: str
    value: str
    code: bool = False


class Tile(NamedTuple):
    """One outcome: how many operations have it, and where its part of the bar is, in percent."""

    kind: str
    name: str
    many: str
    share: str
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        id: its name within the page.
        title: its heading.
        texts: paragraphs.
        figure: a figure, if it has one.
        tables: tables, without empty ones.
        steps: commands.
    """

    id: str
    title: str
    texts: Sequence[str] = ()
    figure: Figure | None = None
    tables: Sequence[Table] = ()
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        name: the name of the run.
        run_id: what no other run has.
        plan: the hash of its plan.
        rehearsal: it was a rehearsal.
        tone: `good`, `bad`, `open` or `stopped`.
        verdict: the state of the run, in a few words.
        summary: the same in sentences.
        facts: what the run is about.
        tiles: the outcomes.
        sections: everything else.
        colophon: how the page was made, in sentences.
    """

    name: str
    run_id: str
    plan: str
    rehearsal: bool
    tone: str
    verdict: str
    summary: Sequence[str]
    facts: Sequence[Fact]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    colophon: Sequence[str]
