"""The Python code of a document: found, and run as its reader would run it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any


def python_blocks(document: Path) -> list[str]:
    """The code between the fences of a Markdown document."""
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S)


def awaits(block: str) -> bool:
    """Whether it has `await` at the top level, as only a notebook allows."""
    try:
        compile(block, "block", "exec", dont_inherit=True)
    except SyntaxError:
        return True
    return False


def run_block(block: str, names: dict[str, Any]) -> None:
    """Run code as a cell of a notebook, which shares its names with the others.

    Code that awaits something at the top level is run on an event loop, other code without one.
    """
    code = compile(block, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, names)
    if inspect.iscoroutine(result):

        async def cell() -> None:
            await result

        asyncio.run(cell())
