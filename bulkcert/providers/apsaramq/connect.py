"""From a setup to something that performs an action on ApsaraMQ for MQTT."""

from __future__ import annotations

from bulkcert.providers.apsaramq.change import Change
from bulkcert.providers.apsaramq.client import Client
from bulkcert.providers.apsaramq.get import Get
from bulkcert.providers.apsaramq.handler import MqttHandler
from bulkcert.providers.apsaramq.list import List
from bulkcert.providers.base import ActionHandler, Setup
from bulkcert.providers.sources import channel

_HANDLERS: dict[str, type[MqttHandler]] = {
    "inactivate": Change,
    "activate": Change,
    "delete": Change,
    "get": Get,
    "list": List,
}


def connect(setup: Setup) -> ActionHandler:
    """Make the handler. Nothing is sent yet."""
    client = Client(channel(setup), setup.endpoint, setup.credentials, setup.timings)
    return _HANDLERS[setup.action.name](client, setup)
