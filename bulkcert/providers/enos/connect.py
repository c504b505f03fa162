"""From a setup to something that performs an action on EnOS."""

from __future__ import annotations

from bulkcert.providers.base import Performer, Setup
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.revoke import Revoke
from bulkcert.providers.transport import Transport

_PERFORMERS = {"revoke": Revoke}


def connect(setup: Setup) -> Performer:
    """Make the performer. Nothing is sent yet."""
    transport = Transport(
        setup.endpoint, setup.pace, timeout_s=setup.timeout_s, ca_file=setup.ca_file
    )
    credentials = setup.credentials
    client = Client(transport, credentials["ENOS_APP_KEY"], credentials["ENOS_APP_SECRET"])
    return _PERFORMERS[setup.action.name](client, setup.options["org_id"], setup.parameters)
