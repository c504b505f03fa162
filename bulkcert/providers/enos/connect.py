"""From a setup to something that performs an action on EnOS."""

from __future__ import annotations

from bulkcert.providers.base import Performer, Setup
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.listing import List
from bulkcert.providers.enos.performing import EnosAction
from bulkcert.providers.enos.revoke import Revoke
from bulkcert.providers.lanes import channel


def _performer(action: str) -> type[EnosAction]:
    """Import what an action needs and no more: X.509 takes long to load."""
    if action == "revoke":
        return Revoke
    if action == "list":
        return List
    from bulkcert.providers.enos.renew import Renew
    from bulkcert.providers.enos.rotate import Rotate

    return {"renew": Renew, "rotate": Rotate}[action]


def connect(setup: Setup) -> Performer:
    """Make the performer. Nothing is sent yet."""
    credentials = setup.credentials
    key, secret = credentials["ENOS_APP_KEY"], credentials["ENOS_APP_SECRET"]
    client = Client(channel(setup), key, secret, setup.clock)
    return _performer(setup.action.name)(client, setup)
