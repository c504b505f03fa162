"""`certificates/manifest.csv`: a row for each new certificate, with its files and its key.

In: records of the store, streamed. Out: chunks of CSV. The columns have the names of fields where
they contain what a field does, so that the file can be the target file of the next job.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from bulkcert.report.cells import cell, drained, identifier_cell
from bulkcert.report.results import new_certificate
from bulkcert.store.base import Record
from bulkcert.targets.records import MANIFEST_DETAILS, SERIALS


def certificates_csv(
    records: Iterable[Record],
    target_fields: Iterable[str],
    common: Mapping[str, Any] = MappingProxyType({}),
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[bytes]:
    """Format the manifest.

    Args:
        records: the records to write.
        target_fields: names of the columns that say which device is meant.
        common, extra: see `bulkcert.report.results.results_csv`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fields = [name for name in target_fields if name not in SERIALS]
    columns = ["line", *fields, "outcome", *SERIALS, *MANIFEST_DETAILS]
    writer.writerow([*columns, *map(cell, extra.values())])
    for record in records:
        if (new := new_certificate(record.result)) is not None:
            given = {**common, **record.fields}
            writer.writerow(
                [
                    record.line,
                    *[identifier_cell(given.get(name)) for name in fields],
                    record.outcome,
                    *[new.get(name) for name in SERIALS],
                    *[cell(new.get(name)) for name in MANIFEST_DETAILS],
                    *[cell(record.extra.get(name)) for name in extra],
                ]
            )
            yield drained(buffer)
    yield drained(buffer)
