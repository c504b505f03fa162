"""Numbers, durations, rates and shares as people read them. Pure.

One convention everywhere: thousands separators, durations as in "4.2 s" or "12 min 05 s", rates as
in "478/s", whole percent. JSON has plain numbers in base units.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo


def duration(seconds: float) -> str:
    """Format a duration, such as "4.2 s", "32 s", "12 min 05 s" or "3 h 07 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def moment(at_s: float, zone: tzinfo | None = None) -> str:
    """Format a Unix time by the wall clock, such as "Fri 2026-11-27 22:00 CET".

    Args:
        at_s: the time.
        zone: whose clock; by default that of this machine.
    """
    return datetime.fromtimestamp(at_s, UTC).astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z")


def number(value: float) -> str:
    """Format a number with thousands separators, and with decimals only if it has some."""
    return f"{value:,.10g}"


def rate(per_second: float) -> str:
    """Format a measured rate, such as "478/s", or "0.7/s" if it is low."""
    return f"{per_second:,.0f}/s" if per_second >= 9.95 else f"{per_second:.1f}/s"


def percent(part: int, whole: int) -> str:
    """Format a share in whole percent; it is 100% only if nothing is missing."""
    return f"{100 * part // whole if whole else 100}%"


def count(value: int, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun or verb: "1 operation", "2,000 operations".

    Args:
        value: how many.
        singular: the word that goes with 1.
        plural: the word that goes with every other number; by default `singular` with an s.
    """
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"
