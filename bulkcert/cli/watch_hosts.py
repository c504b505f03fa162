"""The hosts of a run on the screen of `status --watch`.

In: a run as somebody sees it now. Out: lines with colours. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from bulkcert.cli.hosts_screen import doing_of, sends_from, short_names
from bulkcert.observer import RunView
from bulkcert.quantities import duration, rate
from bulkcert.store.base import HostNow
from bulkcert.values import printable


def watched_hosts(view: RunView) -> Iterator[Text]:
    """The hosts on the screen, one to a line: those first that somebody should look at."""
    names = short_names([*view.hosts, *view.gone])
    troubled = [host for host in view.hosts if view.silent_s(host) is not None]
    ordered = [*troubled, *(host for host in view.hosts if host not in troubled)]
    cells = [
        (names[id(host)], rate(host.rate), f"{host.open_requests:,} open", sends_from(host))
        for host in ordered
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for host, (name, fast, opened, source) in zip(ordered, cells, strict=True):
        if not host.lease:
            yield _local(view, host)
            continue
        figures = [] if host in troubled else [fast.rjust(widths[1]), opened.rjust(widths[2])]
        # what is wrong comes before what would be cut off for it
        notes = " · ".join(doing_of(view, host))
        parts = [
            Text(printable(part), "red" if part == notes and host in troubled else "")
            for part in (name.ljust(widths[0]), *figures, notes, source.ljust(widths[3]))
            if part
        ]
        yield Text("  ").join([*parts, Text(host.lease[:8])])


def _local(view: RunView, host: HostNow) -> Text:
    """The process of a run that is not shared."""
    who = f"{host.name}, process {host.pid}"
    if host.session is None:
        return Text(printable(f"{who}: has noted nothing yet"))
    late = "red" if view.silent_s(host) is not None else ""
    return Text.assemble(
        printable(f"{who}: {rate(host.rate)}, {host.open_requests:,} open"),
        (f", noted {duration(host.silent_s)} ago", late),
    )
