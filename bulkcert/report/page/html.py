"""Renders a page as one self-contained HTML file.

In: a `Page`. Out: bytes. All text is escaped, and what could reorder or hide it is shown as an
escape. The page asks a browser for nothing and lets nothing run: its policy permits the one style
sheet in it, by its digest, and nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from typing import Any

import jinja2
from markupsafe import Markup

from bulkcert.report.page.parts import Page
from bulkcert.values import printable
from bulkcert.version import VERSION

_LINES = ("ceiling", "peak", "total", "p50", "p95", "p99")
"""What is drawn as a line, and not as an area."""


def render(page: Page) -> bytes:
    """Return a page as HTML."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = _environment().get_template("page.html.j2")
    html = template.render(page=page, policy=policy, style=style, version=VERSION)
    return re.sub(r"\n{2,}", "\n", html).encode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bulkcert.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.globals["css"] = _css
    environment.globals["lines"] = _LINES
    return environment


@functools.cache
def _style() -> Markup:
    environment = _environment()
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, "page.css")
    return Markup(source.strip())  # noqa: S704 - a file of this package


def _visible(value: Any) -> Any:
    """Show what would be invisible or act on other text; leave markup alone."""
    return printable(value) if type(value) is str else value


def _percent(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def _css(kind: str) -> Markup:
    """The class of a cell, as an attribute."""
    return Markup() if kind == "text" else Markup(' class="{}"').format(kind)
