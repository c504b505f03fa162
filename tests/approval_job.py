"""A job that needs approvals, and people with keys made by the real ssh-keygen.

In: a folder. Out: a job file, a signers file, signed statements. Nothing here judges an approval.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bulkcert.approval import files
from bulkcert.approval.ssh_keygen import NAMESPACE
from bulkcert.plan_hash import PlanHash


def plan_of(operations: int = 60, digest: str = "aa") -> PlanHash:
    """What identifies a plan that nobody has made."""
    return PlanHash(
        {
            "targets": {"operations": operations, "sha256": digest * 32},
            "limits": {"in_flight": 1000},
        }
    )


def approval_job(
    folder: Path, signers: str, *, required: int = 2, deadline: str = "", **more: str
) -> Path:
    """Write a job that needs approvals.

    Args:
        folder: where.
        signers: the name of the signers file.
        required: how many people must approve.
        deadline: of the job.
        more: further keys of `[approval]`.
    """
    path = folder / "job.toml"
    keys = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    path.write_text(
        'provider = "enos"\naction = "revoke"\ntargets = "fleet.csv"\n'
        + (f"deadline = {deadline}\n" if deadline else "")
        + '[connection]\nendpoint = "https://apim.example.com"\norg_id = "o1"\n'
        '[parameters]\nreason = "KEY_COMPROMISE"\n'
        f'[approval]\nrequired = {required}\nsigners = "{signers}"\n{keys}'
    )
    return path


class People:
    """People with keys, which are made when they are first needed.

    Args:
        folder: where the keys are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, name: str) -> Path:
        """The private key of somebody."""
        path = self.folder / name
        if not path.exists():
            ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path)
        return path

    def public_key(self, name: str) -> str:
        """The public key of somebody, as it stands in a signers file."""
        return " ".join(self.key(name).with_suffix(".pub").read_text().split()[:2])

    def line(self, name: str, *, key_of: str = "", options: str = "") -> str:
        """The line of somebody in a signers file; the key may be that of somebody else."""
        return " ".join(filter(None, (name, options, self.public_key(key_of or name))))

    def sign(self, name: str, statement: bytes, namespace: str = NAMESPACE) -> bytes:
        """Sign as somebody."""
        return ssh_keygen(
            "-Y", "sign", "-q", "-f", self.key(name), "-n", namespace, given=statement
        )

    def approve(
        self, name: str, folder: Path, statement: object, namespace: str = NAMESPACE
    ) -> Path:
        """Sign a statement as somebody, and keep it as an approval."""
        content = str(statement).encode()
        return files.keep(folder, name, content, self.sign(name, content, namespace))


def ssh_keygen(*arguments: str | Path, given: bytes = b"") -> bytes:
    """Run the real ssh-keygen."""
    command = ["ssh-keygen", *map(os.fspath, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout
