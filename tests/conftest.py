"""Settings for all tests, and the line between quick tests and system tests.

A test that starts a process or opens a connection is marked `system`, alone
(`@pytest.mark.system`) or with its whole file (`pytestmark = pytest.mark.system`). `make quick`
runs all others but the few marked `slow`. A test on the wrong side of the line fails and says so.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator

import pytest
from approval_job import People
from hypothesis import HealthCheck, Phase, settings
from postgres import new_database, running_server

from bulkcert.hosts.switch import Switch

# A slow machine is not a fault of the program: nothing is judged by real time.
SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile("bulkcert", deadline=None, suppress_health_check=SLOW_MACHINE)
# For mutation testing: the same examples each time, and no search for the smallest failing one.
settings.register_profile(
    "mutants",
    deadline=None,
    suppress_health_check=SLOW_MACHINE,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("bulkcert")

# A shell ignores SIGINT in what it starts in the background, and so would the processes of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests, and the processes that they start, must not see the runs of whoever runs them, nor those of
# other tests: a plan is carried out once.
_state_home = tempfile.TemporaryDirectory(prefix="bulkcert-tests-")
os.environ["XDG_STATE_HOME"] = _state_home.name
os.environ.pop("BULKCERT_NEVER", None)
os.environ.pop("BULKCERT_STORE", None)
_numbers = itertools.count(1)

_SYSTEM_EVENTS = frozenset({"socket.connect", "subprocess.Popen"})
_seen: set[str] = set()


def _audit(event: str, _: object) -> None:
    if event in _SYSTEM_EVENTS:
        _seen.add(event)


sys.addaudithook(_audit)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget what other tests did."""
    _seen.clear()
    os.environ["XDG_STATE_HOME"] = f"{_state_home.name}/{next(_numbers)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that starts a process or opens a connection and is not marked for it."""
    result = yield
    if _seen and item.get_closest_marker("system") is None:
        pytest.fail(f"{', '.join(_seen)}: mark this test with @pytest.mark.system", pytrace=False)
    return result


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, a run in the process of the tests may be late; that must not kill them."""
    monkeypatch.setattr(Switch, "prove", lambda notify: None)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name gzip files by their size: a time is in them, and all processes must agree on the ids."""
    packed = isinstance(val, bytes) and val.startswith(b"\x1f\x8b")
    return f"gzip of {len(val)} bytes" if packed else None


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """People with real keys, made on the spot."""
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, started when the first test needs it."""
    with running_server() as url:
        yield url


@pytest.fixture(scope="session")
def shared_store(postgres: str) -> Iterator[str]:
    """The URL of a shared store, empty at first. Each test gives its runs names of its own."""
    with new_database(postgres) as url:
        yield url
