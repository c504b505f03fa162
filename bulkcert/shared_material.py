"""What a job must say so that a shared store can keep the keys and certificates of its run.

In: a job. Out: how the store keeps them, or what is missing. A private key must never get into the
store unless it is sealed for somebody.
"""

from __future__ import annotations

from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.providers.base import SharedMaterial


def require_operator(job: Job) -> None:
    """Check that a job can be run with a shared store, as far as its keys are concerned.

    Raises:
        JobError: it makes keys and does not say for whom they are to be sealed.
    """
    if job.keys is not None and job.keys.operator is None:
        from bulkcert.envelope import HOW_TO_MAKE  # slow to import

        raise JobError(
            f"{job.at('keys.operator')} is missing: a shared store keeps private keys only sealed"
            " for an operator.",
            'Name the operator\'s public key there, such as operator = "ops-public.pem";'
            f" {HOW_TO_MAKE}.",
        )


def shared_material(job: Job, run_id: str) -> SharedMaterial:
    """Return how the shared store keeps the keys and certificates of a run.

    Args:
        job: the job of the run.
        run_id: the id of the run, see `bulkcert.store.manifest.RunManifest`.

    Raises:
        JobError: see `require_operator`.
    """
    require_operator(job)
    return SharedMaterial(run=run_id, operator=(job.keys and job.keys.operator) or "")
