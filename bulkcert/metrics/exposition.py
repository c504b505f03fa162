"""A snapshot of the figures as the text that Prometheus reads.

In: a snapshot. Out: its text. The only module that needs `prometheus_client`, and so imported only
where a text is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.utils import floatToGoString

from bulkcert.metrics.figures import BUCKETS_S, Figures
from bulkcert.metrics.series import DURATION, DURATION_MEANING, INFO, INFO_MEANING, SERIES, Kind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format, in the version that every Prometheus understands."""

_BOUNDS = [*map(floatToGoString, BUCKETS_S), "+Inf"]

_FAMILIES = {Kind.GAUGE: GaugeMetricFamily, Kind.COUNTER: CounterMetricFamily}


@lru_cache(maxsize=8)  # however many scrape it
def text(figures: Figures) -> bytes:
    """Return the text of a snapshot."""
    return generate_latest(_Snapshot(figures))


class _Snapshot:
    """A snapshot, as `prometheus_client` collects it. Every series has the name of the run."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures, run = self._figures, self._figures.run
        about = InfoMetricFamily(INFO.removesuffix("_info"), INFO_MEANING, labels=["run"])
        about.add_metric([run], dict(figures.about))
        yield about
        for series in SERIES:
            labels = ["run", series.label] if series.label else ["run"]
            family = _FAMILIES[series.kind](series.name, series.meaning, labels=labels)
            for name, value in series.values(figures).items():
                family.add_metric([run, name] if series.label else [run], value)
            yield family
        durations = HistogramMetricFamily(DURATION, DURATION_MEANING, labels=["run"])
        counts = zip(_BOUNDS, accumulate(figures.durations), strict=True)
        durations.add_metric([run], list(counts), figures.durations_s)
        yield durations
