"""The report of a run as one self-contained HTML page, made from its store and from nothing else.

    content        what the page says, in order; `parts` is that as data
    headline       the top of it: what happened, in short
    record         what it is made from, read once
    tables         the tables that do not belong to a figure; `people_tables`: what was decided;
                   `tabulation`: how a table is made
    plots          the figures, and `plot_tables` the same in numbers
    frame          what the figures have in common: the time axis, and what is written above it
    shapes         series of values as paths
    course         how much happened in each stretch of time
    chronicle      what kept the run from working, and when: `spans`
    timescale      the time axis, with breaks
    valuescale     the axes of numbers
    figure         tables and figures as data
    html           renders the page, by the templates

Everything is drawn without a script, so it can be read anywhere and printed.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkcert.report.page.content import page_of
from bulkcert.report.page.html import render
from bulkcert.report.page.parts import Step
from bulkcert.store.base import StoreReader

__all__ = ["Step", "report_page"]


def report_page(reader: StoreReader, steps: Sequence[Step] = (), *, running: bool = False) -> bytes:
    """Return the page of a run, in UTF-8. The same store yields the same bytes.

    Args:
        reader: the store, in one snapshot.
        steps: what can be done about the run now, with the commands.
        running: a process is working on it.
    """
    return render(page_of(reader, steps, running=running))
