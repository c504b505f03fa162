"""Which certificates have this key? From an inventory, the target file of a campaign.

    openssl pkey -pubin -in compromised.pem -outform DER | sha256sum
    bulkcert run list.toml                              a job of all devices with the action `list`
    python examples/affected.py list.toml DIGEST        writes affected.csv and not-compared.csv

`affected.csv` has one row for each valid certificate with the key, with all columns of the
inventory's target file. `not-compared.csv` has the devices of which it can't be said: EnOS showed a
certificate without its key, or the device could not be listed. The exit code is 1 if there are any.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bulkcert

Rows = list[dict[str, Any]]


def sort_out(results: Iterable[bulkcert.Result], digest: str) -> tuple[Rows, Rows]:
    """Return the certificates that have the key, and the devices of which it can't be said."""
    affected: Rows = []
    not_compared: Rows = []
    for result in results:
        if result.outcome != "succeeded":
            reason = f"{result.outcome}: {result.code or ''} {result.message or ''}"
            not_compared.append({**result.target, "reason": reason})
            continue
        for certificate in result.result["certificates"]:
            row = {**result.target, "certSn": certificate.get("certSN")}
            key = certificate.get("public_key_sha256")
            if key is None and certificate.get("status") == "valid":
                not_compared.append({**row, "reason": "listed without its key"})
            elif key == digest and certificate.get("status") == "valid":
                affected.append({**row, "expires": certificate.get("expireDate")})
    return affected, not_compared


def write(path: str, rows: Rows) -> None:
    """Write a CSV file with every column that a row has."""
    with Path(path).open("w", newline="") as file:
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run, digest = sys.argv[1:]
    try:
        affected, not_compared = sort_out(bulkcert.results(run), digest.strip().lower())
    except bulkcert.BulkcertError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    write("affected.csv", affected)
    write("not-compared.csv", not_compared)
    print(f"{len(affected):,} valid certificates have this key: affected.csv")
    print(f"{len(not_compared):,} could not be compared: not-compared.csv")
    sys.exit(bool(not_compared))
