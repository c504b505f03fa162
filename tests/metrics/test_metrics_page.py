"""docs/metrics.md and the Grafana dashboard: every series and label in a query exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metric_samples import samples
from test_figures import recorder

from bulkcert.metrics.exposition import text
from bulkcert.metrics.series import DURATION, INFO, SERIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "examples/grafana-dashboard.json").read_text())

LABELS: dict[str, dict[str, set[str]]] = {}
"""Each series with the values of its labels."""
for _name, _labels, _ in samples(text(recorder().latest)):
    for _label, _value in _labels:
        LABELS.setdefault(_name, {}).setdefault(_label, set()).add(_value)

NOT_CLOSED = {"run", "provider", "action", "version", "le"}


def queries(node: Any) -> Iterator[str]:
    """Every query of the dashboard, those of its variables included."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str) and "bulkcert" in value:
                yield value
            else:
                yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


def faults(query: str) -> Iterator[str]:
    """What in a query does not exist: a series, a label, or a value of a label."""
    for name, matchers in re.findall(r"\b(bulkcert_\w+)(?:\{([^}]*)\})?", query):
        if name not in LABELS:
            yield f"there is no {name}"
            continue
        for label, values in re.findall(r'(\w+)(?:=~|!=|!~|=)"([^"]*)"', matchers):
            if label not in LABELS[name]:
                yield f"{name} has no label {label}"
            elif label not in NOT_CLOSED and not set(values.split("|")) <= LABELS[name][label]:
                yield f"{name}: {label} is never {values}"


def test_the_dashboard_asks_for_what_there_is() -> None:
    found = list(queries(DASHBOARD))
    assert [fault for query in found for fault in faults(query)] == []
    shown = set(re.findall(r"bulkcert_\w+", " ".join(found)))
    assert {series.name for series in SERIES} | {INFO, f"{DURATION}_bucket"} <= shown


def test_no_two_panels_have_the_same_id_or_place() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert taken.isdisjoint(cells), panel["title"]
        assert max(column for column, _ in cells) < 24, panel["title"]
        taken |= cells


def test_the_alert_rules_ask_for_what_there_is() -> None:
    rules = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "alert:" in block]
    assert sum(rule.count("- alert:") for rule in rules) == 6
    assert [fault for rule in rules for fault in faults(rule)] == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(bulkcert_request_total[5m])", "there is no bulkcert_request_total"),
        ('bulkcert_operations{outcom="failed"}', "bulkcert_operations has no label outcom"),
        (
            'bulkcert_operations{outcome=~"failed|lost"}',
            "bulkcert_operations: outcome is never failed|lost",
        ),
        ('bulkcert_not_sending{reason="half-open"} > 0', ""),
    ],
)
def test_a_query_for_something_else_is_found(query: str, fault: str) -> None:
    assert list(faults(query)) == ([fault] if fault else [])


def test_the_page_names_no_series_that_does_not_exist() -> None:
    assert set(re.findall(r"\bbulkcert_\w+", PAGE)) - {DURATION} <= LABELS.keys()
