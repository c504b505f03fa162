"""The address at which metrics are served."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bulkcert.cli import main
from bulkcert.metrics.address import Address


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port_or_a_port_on_loopback(
    written: str, meant: tuple[str, int]
) -> None:
    assert Address.parse(written) == meant


def test_an_address_is_shown_as_it_is_written() -> None:
    for written in ("127.0.0.1:9464", "[::1]:9464"):
        assert str(Address.parse(written)) == written


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "'' is not a port"),
        ("localhost", "'localhost' is not a port"),
        ("localhost:", "'' is not a port"),
        ("127.0.0.1:65536", "'65536' is not a port"),
        ("127.0.0.1:-1", "'-1' is not a port"),
        ("127.0.0.1:٣", "is not a port"),
        ("::1:9464", r"needs brackets, as in \[::1\]:9464"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Address.parse(written)
    ended = CliRunner().invoke(main, ["run", "job.toml", "--metrics", written])
    assert ended.exit_code == 2
    assert "Write HOST:PORT" in ended.stderr
