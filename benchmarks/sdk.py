"""ApsaraMQ's official SDK as its users call it: from threads or as coroutines.

    python -m benchmarks.sdk threads|async TARGETS ENDPOINT WORKERS [CA_FILE]

One client for all calls; no ceiling, no retries and no state. Prints, as JSON, how many calls
succeeded and the elapsed and CPU seconds of the calls, without the start of the program.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alibabacloud_onsmqtt20200420 import models
from alibabacloud_onsmqtt20200420.client import Client
from alibabacloud_tea_openapi.utils_models import Config

from benchmarks.workload import INSTANCE_ID


def main(style: str, targets: str, endpoint: str, workers: int, ca_file: str | None = None) -> None:
    """Inactivate everything and print the result."""
    scheme, _, host = endpoint.partition("://")
    client = Client(
        Config(
            access_key_id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
            access_key_secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
            endpoint=host,
            protocol=scheme,
            ca=ca_file,
            region_id="cn-hangzhou",
            max_idle_conns=workers,
        )
    )
    with Path(targets).open(newline="") as file:
        requests = [
            models.InactivateDeviceCertificateRequest(
                ca_sn=row["CaSn"], device_sn=row["DeviceSn"], mqtt_instance_id=INSTANCE_ID
            )
            for row in csv.DictReader(file)
        ]
    started_at, cpu_before_s = time.monotonic(), time.process_time()
    if style == "threads":
        with ThreadPoolExecutor(workers) as pool:
            responses = list(pool.map(client.inactivate_device_certificate, requests))
    else:
        responses = asyncio.run(_as_coroutines(client, requests, workers))
    usage = {
        "elapsed_s": time.monotonic() - started_at,
        "cpu_s": time.process_time() - cpu_before_s,
    }
    done = sum(
        response.body.device_sn == request.device_sn
        for response, request in zip(responses, requests, strict=True)
    )
    print(json.dumps({"done": done, **usage}))


async def _as_coroutines(client: Any, requests: list[Any], workers: int) -> list[Any]:
    slots = asyncio.Semaphore(workers)

    async def call(request: Any) -> Any:
        async with slots:
            return await client.inactivate_device_certificate_async(request)

    return await asyncio.gather(*map(call, requests))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
