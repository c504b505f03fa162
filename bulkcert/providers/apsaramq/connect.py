"""From a setup to something that performs an action on ApsaraMQ for MQTT."""

from __future__ import annotations

from bulkcert.providers.apsaramq.change import Change
from bulkcert.providers.apsaramq.client import Client
from bulkcert.providers.apsaramq.get import Get
from bulkcert.providers.apsaramq.listing import List
from bulkcert.providers.apsaramq.performing import MqttAction
from bulkcert.providers.base import Performer, Setup
from bulkcert.providers.lanes import channel

_PERFORMERS: dict[str, type[MqttAction]] = {
    "inactivate": Change,
    "activate": Change,
    "delete": Change,
    "get": Get,
    "list": List,
}


def connect(setup: Setup) -> Performer:
    """Make the performer. Nothing is sent yet."""
    client = Client(channel(setup), setup.endpoint, setup.credentials)
    return _PERFORMERS[setup.action.name](client, setup)
