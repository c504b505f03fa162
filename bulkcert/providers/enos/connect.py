"""From a setup to something that performs an action on EnOS."""

from __future__ import annotations

from bulkcert.providers.base import ActionHandler, Setup
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.handler import EnosHandler
from bulkcert.providers.enos.list import List
from bulkcert.providers.enos.revoke import Revoke
from bulkcert.providers.sources import channel


def _handler(action: str) -> type[EnosHandler]:
    """Import what an action needs and no more: X.509 takes long to load."""
    if action == "revoke":
        return Revoke
    if action == "list":
        return List
    from bulkcert.providers.enos.renew import Renew
    from bulkcert.providers.enos.rotate import Rotate

    return {"renew": Renew, "rotate": Rotate}[action]


def connect(setup: Setup) -> ActionHandler:
    """Make the handler. Nothing is sent yet."""
    credentials = setup.credentials
    key, secret = credentials["ENOS_APP_KEY"], credentials["ENOS_APP_SECRET"]
    client = Client(channel(setup), key, secret, setup.clock, setup.timings)
    return _handler(setup.action.name)(client, setup)
