"""Run `bulkcert` on uvloop's event loop: `python -m benchmarks.with_uvloop run JOB ...`."""

from __future__ import annotations

import asyncio

import uvloop

from bulkcert.cli import main

if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    main()
