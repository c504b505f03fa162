"""A power loss in the middle of a run: everything that was not synced to the disk is lost.

A small library, `preload/durable_image.c`, is loaded into the process and copies what each sync
makes durable. When the process is killed, that copy is the disk that the next process finds. Even
then no revocation with a response may be sent again, no renewal may be executed twice, and no
certificate may lack its key. The last test disables syncing, to show that the others can fail.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import preload
import pytest
from enos_vendor import ENOS, devices
from harness import ProcessJob, as_a_process
from processes import until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = preload.built("durable_image", tmp_path_factory.mktemp("library"))
    if path is None:
        pytest.skip("there is no C compiler")
    return path


class Disk:
    """The disk under the run directory of a job, and the part of it that is durable."""

    def __init__(self, job: ProcessJob, library: Path, forgets: str = "") -> None:
        self._job = job
        self._library = library
        self._forgets = {"FORGETS": forgets} if forgets else {}

    def run_until_power_loss(self, requests: int) -> bool:
        """Run until this many requests have arrived, then leave only what is durable.

        Returns:
            Whether the process was still running then.
        """
        run_dir = self._job.run_dir
        image = self._job.folder / "image"
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir()
        self._take_over(run_dir, image)
        environment = {
            "LD_PRELOAD": str(self._library),
            "WATCHED": str(run_dir),
            "IMAGE": str(image),
            **self._job.simulator.credentials,
            **self._forgets,
        }
        with self._job.start("--yes", environment=environment) as command:
            living = self._job.await_requests(requests, command)
            command.kill()
        until(lambda: not self._job.simulator.summary()["open"])
        found = self._job.folder / "found"
        self._restore(run_dir.stat().st_ino, image, found)
        shutil.rmtree(run_dir)
        found.rename(run_dir)
        return living

    @staticmethod
    def _take_over(run_dir: Path, image: Path) -> None:
        """Treat everything that exists now as durable."""
        for folder in [run_dir, *run_dir.rglob("*")] if run_dir.exists() else []:
            if folder.is_dir():
                lines = [
                    f"{path.stat().st_ino} {'d' if path.is_dir() else 'f'} {path.name}\n"
                    for path in folder.iterdir()
                ]
                (image / f"{folder.stat().st_ino}.entries").write_text("".join(lines))
            else:
                shutil.copy(folder, image / str(folder.stat().st_ino))

    def _restore(self, inode: int, image: Path, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        entries = image / f"{inode}.entries"
        for line in entries.read_text().splitlines() if entries.exists() else []:
            number, kind, name = line.split(" ", 2)
            if kind == "d":
                self._restore(int(number), image, folder / name)
            elif (image / number).exists():
                shutil.copy(image / number, folder / name)
            else:
                (folder / name).touch()  # the name is durable, the content is not


def revocation(job: ProcessJob) -> None:
    job.write(limits={"requests_per_second": 200})


def renewal(job: ProcessJob) -> None:
    subject = "C=SG, ST=S, L=L, O=O, OU=U, CN={assetId}"
    job.write(
        action="renew",
        limits={"requests_per_second": 60},
        keys={"generate": "ecdsa-p256", "subject": subject},
    )


@pytest.mark.parametrize(("prepare", "targets", "losses"), [(revocation, 300, 3), (renewal, 60, 2)])
def test_a_run_survives_power_losses(
    prepare: Any, targets: int, losses: int, library: Path, tmp_path: Path
) -> None:
    rng = random.Random(3)
    with as_a_process(
        tmp_path, ENOS, "revoke", devices(targets), latency=0.03, latency_spread=0.05, seed=3
    ) as job:
        prepare(job)
        disk = Disk(job, library)
        for loss in range(losses):
            requests = len(job.entries()) + rng.randrange(5, targets // losses)
            assert disk.run_until_power_loss(requests), loss
            assert job.violations(over=False, died=True, reported=False) == []
        assert job.run().code == 0
        assert job.violations(died=True) == []


def test_a_checkpoint_that_is_not_synced_is_detected(library: Path, tmp_path: Path) -> None:
    with as_a_process(tmp_path, ENOS, "revoke", devices(300), latency=0.03, seed=3) as job:
        revocation(job)
        assert Disk(job, library, forgets="-wal").run_until_power_loss(100)
        assert job.run().code == 0
        violations = job.violations(died=True)
        assert any("was sent again" in violation for violation in violations)
