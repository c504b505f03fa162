"""Write what a run needs: target files of any length, and job files.

In: sizes, limits and an endpoint. Out: paths of files in the caller's folder, and the environment
for the programs, each with a state folder of its own, which is removed at the end. Nothing else
outside that folder is written.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BULKCERT = [sys.executable, "-m", "bulkcert"]
NO_CEILING = 1_000_000
ORG_ID = "o15444172373271"
INSTANCE_ID = "post-cn-7mz2d000001"

_CHECKOUT = Path(__file__).parent.parent
_CREDENTIALS = {
    "ENOS_APP_KEY": "simulator-key",
    "ENOS_APP_SECRET": "simulator-secret",
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "simulator-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "simulator-secret",
}


_states = tempfile.TemporaryDirectory(prefix="bulkcert-benchmark-")
_numbers = itertools.count(1)


def environment(checkout: Path = _CHECKOUT) -> dict[str, str]:
    """Return an environment with the simulator's credentials and a checkout's code.

    Each has a state folder of its own: a plan is carried out once, and here again and again.

    Args:
        checkout: the folder whose `bulkcert` package is imported; by default this checkout.
    """
    inherited = dict(os.environ)
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles the program
    return {
        **inherited,
        **_CREDENTIALS,
        "PYTHONPATH": str(checkout),
        "XDG_STATE_HOME": f"{_states.name}/{next(_numbers)}",
        "no_proxy": "*",
        "NO_PROXY": "*",
    }


def run_command(
    job: Path, run_dir: Path, program: Sequence[str | Path] = BULKCERT
) -> list[str | Path]:
    """Return the command of a run that asks nothing and shows no progress."""
    return [*program, "run", job, "--run-dir", run_dir, "--yes", "--no-progress"]


def enos_targets(path: Path, rows: int, *, first: int = 0) -> Path:
    """Write a target file of EnOS assets, each with the serial number of its certificate.

    Args:
        path: the file to write.
        rows: how many assets.
        first: number of the first asset, so that two files can name different ones.
    """
    numbers = range(first, first + rows)
    with path.open("w", encoding="ascii") as file:
        file.write("assetId,certSn\n")
        file.writelines(f"A{number:08x},{1_000_000 + number}\n" for number in numbers)
    return path


def apsaramq_targets(path: Path, rows: int) -> Path:
    """Write a target file of ApsaraMQ device certificates."""
    with path.open("w", encoding="ascii") as file:
        file.write("DeviceSn,CaSn\n")
        file.writelines(f"{number:032x},00f26900ba87c3ef\n" for number in range(rows))
    return path


def enos_job(
    folder: Path,
    targets: Path,
    endpoint: str,
    *,
    requests_per_second: float = NO_CEILING,
    in_flight: int = 1000,
    max_attempts: int = 8,
    ca_file: Path | None = None,
) -> Path:
    """Write a job that revokes the certificates of EnOS assets."""
    path = folder / "revoke.toml"
    path.write_text(f'''
provider = "enos"
action = "revoke"
targets = "{targets}"
[connection]
endpoint = "{endpoint}"
org_id = "{ORG_ID}"
{f'ca_file = "{ca_file}"' if ca_file else ""}
[parameters]
reason = "KEY_COMPROMISE"
[limits]
requests_per_second = {requests_per_second}
in_flight = {in_flight}
[retry]
max_attempts = {max_attempts}
''')
    return path


def apsaramq_job(
    folder: Path,
    targets: Path,
    endpoint: str,
    *,
    requests_per_second: float = NO_CEILING,
    per_source_ip: float = NO_CEILING,
    in_flight: int = 1000,
    ca_file: Path | None = None,
    source_addresses: Sequence[str] = (),
) -> Path:
    """Write a job that inactivates ApsaraMQ device certificates."""
    path = folder / "inactivate.toml"
    path.write_text(f'''
provider = "apsaramq"
action = "inactivate"
targets = "{targets}"
[connection]
endpoint = "{endpoint}"
instance_id = "{INSTANCE_ID}"
{f"source_addresses = {json.dumps(list(source_addresses))}" if source_addresses else ""}
{f'ca_file = "{ca_file}"' if ca_file else ""}
[limits]
requests_per_second = {requests_per_second}
requests_per_second_per_source_ip = {per_source_ip}
in_flight = {in_flight}
''')
    return path
