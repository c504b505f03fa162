"""The baseline: what revoking costs a program that only signs, posts and parses.

    python -m benchmarks.baseline TARGETS ENDPOINT IN_FLIGHT [CA_FILE]

One session, a fixed number of workers and one token; no ceiling, no retries and no state, so that
a crash would lose everything. It is written for speed, so that the comparison is fair. Prints how
many revocations succeeded.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import hashlib
import os
import ssl
import sys
import time
from collections.abc import Iterator

import aiohttp
import orjson
from yarl import URL

from benchmarks.workload import ORG_ID


async def main(targets: str, endpoint: str, in_flight: int, ca_file: str | None = None) -> None:
    """Revoke everything and print how many revocations succeeded."""
    secret = os.environ["ENOS_APP_SECRET"]
    succeeded = 0
    with open(targets, newline="") as file:  # noqa: ASYNC230, PTH123 - opened before any request
        rows: Iterator[list[str]] = csv.reader(file)
        next(rows)
        context = ssl.create_default_context(cafile=ca_file) if ca_file else True
        connector = aiohttp.TCPConnector(limit=in_flight, ssl=context)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as session:
            async with session.post(f"{endpoint}/apim-token-service/v2.0/token/get") as response:
                token = orjson.loads(await response.read())["data"]["accessToken"]

            async def revoke_rows() -> None:
                nonlocal succeeded
                for asset_id, serial in rows:
                    body = orjson.dumps({"certSn": int(serial), "reason": 1})
                    timestamp = str(time.time_ns() // 1_000_000)
                    text = f"{token}actionrevokeassetId{asset_id}orgId{ORG_ID}"
                    digest = hashlib.sha256(text.encode())
                    digest.update(body)
                    digest.update(f"{timestamp}{secret}".encode())
                    url = (
                        f"{endpoint}/connect-service/v2.0/certificates"
                        f"?action=revoke&assetId={asset_id}&orgId={ORG_ID}"
                    )
                    headers = {
                        "Content-Type": "application/json;charset=UTF-8",
                        "apim-accesstoken": token,
                        "apim-timestamp": timestamp,
                        "apim-signature": digest.hexdigest(),
                    }
                    async with session.post(
                        URL(url, encoded=True), headers=headers, data=body
                    ) as response:
                        content = orjson.loads(await response.read())
                    succeeded += content["code"] == 0

            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(revoke_rows())
    print(succeeded)


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(5_000, 1_000, 1_000)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
