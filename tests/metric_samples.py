"""The metrics of a run as Prometheus itself reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


def samples(content: bytes) -> Iterator[tuple[str, Labels, float]]:
    """Every sample of a text."""
    for family in text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            yield sample.name, frozenset(sample.labels.items()), sample.value
