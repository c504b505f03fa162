"""The hosts of a run: as lines for people, and as JSON.

In: a run as somebody sees it now. Out: lines and objects. Nothing in here writes to a stream or a
file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from bulkcert.json_lines import utc
from bulkcert.observer import RunView
from bulkcert.quantities import count, duration, moment, number, rate
from bulkcert.store.base import HostNow, HostState

LONGEST_NAME = 22
"""Characters of the name of a host; the middle of a longer one is left out."""

MOST_GONE = 10
"""How many of the hosts are listed that have left or were fenced: the last ones."""

_HEAD = ("host", "rate", "open", "taken", "requests", "sends from", "lease")
_LEFT_ALIGNED = ("host", "sends from", "lease")


# ---- the table of `bulkcert hosts`


def hosts_lines(view: RunView) -> Iterator[str]:
    """All hosts of a run: those that work on it, with what they do, and those that have."""
    ceiling = f"{number(view.summary.ceiling)}/s"
    parts = [count(len(view.hosts), "host") if view.hosts else "no host works on it"]
    if view.hosts:
        parts += [f"{rate(view.rate)} of {ceiling}", f"{view.open_requests:,} open"]
    if view.hosts and view.is_shared:
        parts.append(f"{sum(host.operations for host in view.hosts):,} taken")
    versions = {host.version for host in view.hosts if host.lease}
    parts += [f"bulkcert {version}" for version in versions if len(versions) == 1]
    yield f"{view.manifest.run}: {', '.join(parts)}"
    yield from (f"  {reason}" for reason in view.reasons)
    if view.note and len(view.notes) == 1:  # of all hosts
        yield f"  {view.note}"
    yield from table(view)
    yield from _gone_lines(view)


def table(view: RunView) -> Iterator[str]:
    """The hosts that work on a run in columns, what each of them does below it, and the total."""
    if not view.hosts:
        return
    names = short_names([*view.hosts, *view.gone])
    rows = [_HEAD, *(_cells(view, host, names[id(host)]) for host in view.hosts)]
    if len(view.hosts) > 1:
        rows.append(_total(view))
    shown = [place for place in range(len(_HEAD)) if _is_shown(place, rows)]
    widths = {place: max(len(row[place]) for row in rows) for place in shown}
    doing = [(), *(doing_of(view, host) for host in view.hosts), ()]
    for row, notes in zip(rows, doing, strict=False):
        cells = [_aligned(row[place], place, widths[place]) for place in shown]
        yield "  " + "  ".join(cells).rstrip()
        yield from (f"      {note}" for note in notes)


def _cells(view: RunView, host: HostNow, name: str) -> tuple[str, ...]:
    fast = "-" if view.silent_s(host) is not None else rate(host.rate)
    return (
        *(name, fast, f"{host.open_requests:,}", f"{host.operations:,}"),
        *(f"{host.requests:,}", sends_from(host), host.lease[:8]),
    )


def _total(view: RunView) -> tuple[str, ...]:
    taken = sum(host.operations for host in view.hosts)
    requests = sum(host.requests for host in view.hosts)
    figures = (rate(view.rate), f"{view.open_requests:,}", f"{taken:,}", f"{requests:,}")
    return ("total", *figures, "", "")


def _is_shown(place: int, rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column says anything: a store that is not shared has no leases."""
    if _HEAD[place] == "taken":
        return any(row[-1] for row in rows[1:])
    return any(row[place] for row in rows[1:])


def _aligned(cell: str, place: int, width: int) -> str:
    return cell.ljust(width) if _HEAD[place] in _LEFT_ALIGNED else cell.rjust(width)


def _gone_lines(view: RunView) -> Iterator[str]:
    if not view.gone:
        return
    last = sorted(view.gone, key=lambda host: host.ended_at or view.at - host.silent_s)[-MOST_GONE:]
    more = len(view.gone) - len(last)
    yield "Earlier:" if not more else f"Earlier, the last {len(last)} of {len(view.gone)}:"
    for host in last:
        at = "" if host.ended_at is None else f" at {moment(host.ended_at)}"
        how = host.ending or f"silent for {duration(host.silent_s)}, and nobody has fenced it"
        yield f"  {host.name}, process {host.pid}: {how}{at},"
        worked = f"after {duration(host.ended_at - host.began_at)}; " if host.ended_at else ""
        yield f"      {worked}{count(host.requests, 'request')}{_lease(host)}"


def _lease(host: HostNow) -> str:
    return f", lease {host.lease[:8]}" if host.lease else ""


# ---- in `status` and its screen


def host_lines(view: RunView) -> Iterator[str]:
    """The hosts in `status`: only if there may be several."""
    if view.hosts and (view.is_shared or len(view.hosts) > 1):
        yield "Hosts:"
        yield from table(view)


# ---- one host


def doing_of(view: RunView, host: HostNow) -> list[str]:
    """What is worth knowing about a live host, besides its figures; mostly nothing."""
    said = []
    if (silent_s := view.silent_s(host)) is not None:
        said.append(f"silent for {duration(silent_s)}{_until_fenced(view, host, silent_s)}")
    elif host.session is None:
        said.append("has begun, and noted nothing yet")
    said += view.reasons_of(host)
    if host.session and host.session.note and len(view.notes) > 1:
        said.append(host.session.note)
    if host.lease and not host.has_switch:
        said.append("without a dead man's switch")
    if len({each.version for each in view.hosts}) > 1:
        said.append(f"bulkcert {host.version}")
    return said


def _until_fenced(view: RunView, host: HostNow, silent_s: float) -> str:
    if not host.lease:
        return ""
    left_s = view.times.fence_after_s - silent_s
    return f", fenced in {duration(left_s)}" if left_s > 0 else ", about to be fenced"


def sends_from(host: HostNow) -> str:
    """The address that a host sends from, with its way out; empty if the store is not shared."""
    if not host.lease:
        return ""
    address = host.address or "any address"
    return f"{address} ({host.egress})" if host.egress else address


def short_names(hosts: Collection[HostNow]) -> dict[int, str]:
    """A name for each host that fits a column, by the `id` of the host.

    The domain is left out, and the number of the process is there where it is needed: two hosts of
    one name work on the run.
    """
    live = Counter(host.name.partition(".")[0] for host in hosts if host.is_live)
    names = {}
    for host in hosts:
        name = host.name.partition(".")[0]
        which = f"/{host.pid}" if live[name] > 1 else ""
        room = LONGEST_NAME - len(which)
        if len(name) > room:
            name = f"{name[: room // 2 - 1]}…{name[-(room - room // 2) :]}"
        names[id(host)] = f"{name}{which}"
    return names


def hosts_object(view: RunView) -> dict[str, Any]:
    """The object of `hosts --json`; docs/output.md describes it."""
    lives = sorted([*view.gone, *view.hosts], key=lambda host: host.began_at)
    return {
        "name": view.manifest.run,
        "state": str(view.state),
        "requests_per_second": round(view.rate, 1),
        "ceiling": view.summary.ceiling,
        "open_requests": view.open_requests,
        "reasons": list(view.reasons),
        "hosts": [host_object(host) for host in lives],
    }


def host_object(host: HostNow) -> dict[str, Any]:
    """A host in that object and in that of `status --json`."""
    return {
        "name": host.name,
        "pid": host.pid,
        "lease": host.lease or None,
        "address": host.address or None,
        "egress": host.egress or None,
        "version": host.version,
        "has_switch": host.has_switch,
        "state": str(host.state),
        "began_at": utc(host.began_at),
        "ended_at": None if host.ended_at is None else utc(host.ended_at),
        "ending": host.ending or None,
        "silent_seconds": round(host.silent_s, 1) if host.state is HostState.LIVE else None,
        "requests_per_second": round(host.rate, 1),
        "open_requests": host.open_requests,
        "operations": host.operations,
        "requests": host.requests,
        "control": host.control,
        "reasons": list(host.session.reasons) if host.session and host.is_live else [],
    }
