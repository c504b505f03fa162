"""Renew what expires soon, put the new certificates on TLS servers, and check them from a client.

    export ENOS_APP_KEY=... ENOS_APP_SECRET=...
    python examples/renew_expiring.py list.toml renew.toml ca.pem renewals-2026-11

`list.toml` lists the devices; `renew.toml` has [keys], so that there are keys to install. `ca.pem`
is the CA that clients trust anyway: a chain that came with a certificate can't vouch for it. All
files go into the last folder. The same command continues there, and renews nothing twice; another
folder begins anew, with a fresh list.
"""

from __future__ import annotations

import csv
import hashlib
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

WITHIN = timedelta(days=30)


def main() -> None:
    list_job, renew_job, ca_file, folder = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    inventory, expiring, renewal = folder / "list", folder / "expiring.csv", folder / "renewal"

    bulkcert("run", list_job, "--run-dir", inventory)
    bulkcert("results", inventory, "--format", "csv", "-o", folder / "list.csv")
    if not choose(folder / "list.csv", expiring):
        print(f"Nothing expires within {WITHIN.days} days.")
        return
    bulkcert("run", renew_job, "--targets", expiring, "--run-dir", renewal, "--yes")
    bulkcert("verify", renewal)

    with (renewal / "certificates" / "manifest.csv").open(newline="") as file:
        for new in csv.DictReader(file):
            if new["fullchain_file"]:  # else the CA is not known, and there is only the leaf
                served = try_out(
                    renewal / new["fullchain_file"], renewal / new["key_file"], ca_file
                )
                assert served == new["fingerprint_sha256"]
                print(f"{new['assetId']}: {new['certSn']} works until {new['expires_at']}")


def bulkcert(*words: object) -> None:
    """Call `bulkcert`; go on after code 1 too, when some of the devices need a person."""
    command = ["bulkcert", *map(str, words)]
    code = subprocess.run(command).returncode  # noqa: S603 - our own words, and no shell
    if code not in (0, 1):
        sys.exit(code)


def choose(listed: Path, expiring: Path) -> int:
    """Copy the rows with valid certificates that expire soon, and return how many there are.

    The header stays as it is, so the copy is a good target file.
    """
    with listed.open(newline="") as source, expiring.open("w", newline="") as target:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, rows.fieldnames or ())
        writer.writeheader()
        soon = [row for row in rows if row["status"] == "valid" and expires_soon(row["expireDate"])]
        writer.writerows(soon)
    return len(soon)


def expires_soon(expires_at: str) -> bool:
    return datetime.fromisoformat(expires_at) < datetime.now(UTC) + WITHIN


def try_out(fullchain: Path, key: Path, ca_file: Path) -> str:
    """Start a TLS server with a certificate, as a deployment would, and connect to it once.

    Returns:
        The SHA-256 fingerprint of the certificate that the client was shown, and has verified.
    """
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(fullchain, key)
    client = ssl.create_default_context(cafile=str(ca_file))
    client.check_hostname = False  # these certificates name devices, not hosts

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with server.wrap_socket(connection, server_side=True):
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with (
            socket.create_connection(listening.getsockname()) as connection,
            client.wrap_socket(connection) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
        thread.join()
    return hashlib.sha256(shown or b"").hexdigest()


if __name__ == "__main__":
    main()
