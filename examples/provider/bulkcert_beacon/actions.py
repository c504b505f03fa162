"""The actions of Beacon and their fields, as plain declarations.

bulkcert imports this module whenever it reads a job, so it must not import a network library.
"""

from __future__ import annotations

from bulkcert.providers.advice import Advice
from bulkcert.providers.base import Action, Field, Key, Provider
from bulkcert.values import shown, text
from bulkcert_beacon.requests import sample
from bulkcert_beacon.responses import NOT_FOUND
from bulkcert_beacon.verification import difference


def serial_number(value: object) -> str:
    """Parse a serial number: 8 hexadecimal digits."""
    serial = text(value).lower()
    if len(serial) != 8 or not set(serial) <= set("0123456789abcdef"):
        raise ValueError(f"must be 8 hexadecimal digits, not {shown(serial)}")
    return serial


SERIAL = Field(
    "serial", serial_number, meaning="serial number of the certificate", example="00c0ffee"
)
REASON = Field("reason", text, meaning="why it is suspended, for Beacon's records", example="lost")
ACCOUNT = Key("account", text, meaning="id of your Beacon account", example="a-1")

SUSPEND = Action(
    name="suspend",
    meaning="suspend certificates; Beacon's support can undo it",
    changes=True,
    identifiers=((SERIAL,),),
    optional=(REASON,),
    verified_by="get",
)
GET = Action(
    name="get",
    meaning="read certificates",
    changes=False,
    identifiers=((SERIAL,),),
    result_columns=("serial", "device", "status"),
)

ADVICE = (
    Advice(NOT_FOUND, "Check the serial number."),
    Advice("unknown_account", "Check connection.account."),
)

BEACON = Provider(
    name="beacon",
    actions={action.name: action for action in (SUSPEND, GET)},
    connection_required=(ACCOUNT,),
    connection_optional=(),
    requests_per_second=100,
    credentials=("BEACON_KEY", "BEACON_SECRET"),
    handler="bulkcert_beacon.handler:connect",
    sample=sample,
    difference=difference,
    absent=frozenset({NOT_FOUND}),
    advice=ADVICE,
)
