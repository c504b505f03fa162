"""What a document tells its reader to type: code in Python, and commands of `bulkcert`.

Found, and run or parsed as its reader would.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from pathlib import Path
from typing import Any


def python_blocks(document: Path) -> list[str]:
    """The code between the fences of a Markdown document."""
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S)


def bulkcert_commands(document: Path) -> list[list[str]]:
    """The words after `bulkcert` of each such line in a console block, also in one of a list."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", document.read_text(), re.M | re.S)
    lines = (line.strip() for block in blocks for line in block.splitlines())
    return [
        shlex.split(line.partition(" > ")[0], comments=True)[1:]
        for line in lines
        if line.startswith("bulkcert ")
    ]


def job_files(document: Path) -> dict[str, str]:
    """The job files of a document by their names, which their first line says: `# revoke.toml`."""
    blocks = re.findall(r"^```toml\n# (\S+\.toml)\n(.*?)^```", document.read_text(), re.M | re.S)
    return dict(blocks)


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
