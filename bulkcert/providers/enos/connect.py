"""From a job and credentials to something that performs the job's action on EnOS."""

from __future__ import annotations

from collections.abc import Mapping

from bulkcert.jobfile import Job
from bulkcert.providers.base import Pace, Performer
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.revoke import Revoke
from bulkcert.providers.transport import Transport

_PERFORMERS = {"revoke": Revoke}


def connect(job: Job, credentials: Mapping[str, str], pace: Pace) -> Performer:
    """Make the performer of a job. Nothing is sent yet."""
    transport = Transport(
        job.connection.endpoint,
        pace,
        timeout_s=job.limits.request_timeout_seconds,
        ca_file=job.connection.ca_file,
    )
    client = Client(transport, credentials["ENOS_APP_KEY"], credentials["ENOS_APP_SECRET"])
    return _PERFORMERS[job.action.name](client, job.connection.options["org_id"], job.parameters)
