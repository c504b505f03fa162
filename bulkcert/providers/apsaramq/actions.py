"""The actions of ApsaraMQ for MQTT and their fields, as plain declarations.

Source: the vendor's pages "InactivateDeviceCertificate", "ActiveDeviceCertificate",
"DeleteDeviceCertificate", "GetDeviceCertificate", "ListDeviceCertificate" and
"ListDeviceCertificateByCaSn" (OnsMqtt 2020-04-20), and "Limits" for the requests per second.
"""

from __future__ import annotations

import re

from bulkcert.providers.apsaramq.advice import ADVICE, NOT_FOUND
from bulkcert.providers.apsaramq.certificates import RESULT_COLUMNS
from bulkcert.providers.apsaramq.requests import sample
from bulkcert.providers.apsaramq.verification import difference, revoked, seen
from bulkcert.providers.base import Action, Field, Key, Provider
from bulkcert.values import identifier, serial_text, shown, text, whole_number

LONGEST_SN = 128  # bytes


def serial_number(value: object) -> str:
    """Parse a serial number: opaque text, in which leading zeros and letter case matter."""
    number = serial_text(value)
    if len(number.encode()) > LONGEST_SN:
        raise ValueError(f"is longer than {LONGEST_SN} bytes")
    return number


def page_number(value: object) -> int:
    """Parse a page number; the first page is 1."""
    number = whole_number(value)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def region(value: object) -> str:
    """Parse the id of a region, which becomes part of the endpoint's host name."""
    name = text(value)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"must be the id of a region, such as cn-hangzhou, not {shown(name)}")
    return name


CA_SN = Field(
    "CaSn",
    serial_number,
    meaning="serial number of the CA that issued the device certificate",
    example="007269004887a5",
)
DEVICE_SN = Field(
    "DeviceSn",
    serial_number,
    meaning="serial number of the device certificate",
    example="0089d2ee4a71",
)
INSTANCE_ID = Field(
    "MqttInstanceId",
    identifier,
    option="instance_id",
    meaning="the instance that the certificate is registered in, or that is listed",
    default="`connection.instance_id`",
    example="post-cn-7mz2d000001",
)
PAGE_NO = Field(
    "PageNo",
    page_number,
    type="whole number from 1",
    meaning="page of the list to begin with; a page has 100 certificates",
    default="1",
    example=1,
)

INSTANCE = Key(
    "instance_id",
    identifier,
    meaning="id of the MQTT instance, for every target without its own `MqttInstanceId`",
    default="none; then every target needs a `MqttInstanceId`",
    example="post-cn-7mz2d000001",
)
REGION = Key(
    "region",
    region,
    meaning="region of the instance; `endpoint` is derived from it",
    default="none; then `endpoint` is required",
    example="cn-hangzhou",
)

DEVICE = ((DEVICE_SN, CA_SN),)

INACTIVATE = Action(
    name="inactivate",
    meaning="lock devices out; `activate` undoes it",
    changes=True,
    identifiers=DEVICE,
    optional=(INSTANCE_ID,),
    verified_by="get",
    undone_by="activate",
    revokes=True,
    warning="a connected device may stay connected until it connects again: the vendor does not"
    " say what happens to open connections",
)

ACTIVATE = Action(
    name="activate",
    meaning="activate certificates that were inactivated",
    changes=True,
    identifiers=DEVICE,
    optional=(INSTANCE_ID,),
    verified_by="get",
    undone_by="inactivate",
)

DELETE = Action(
    name="delete",
    meaning="delete registrations; this does not lock a device out",
    changes=True,
    identifiers=DEVICE,
    optional=(INSTANCE_ID,),
    verified_by="get",
    revokes=True,
    warning="delete is not a revocation: a device whose CA is active is registered again, as"
    " active, when it next connects; to lock it out, use inactivate",
)

GET = Action(
    name="get",
    meaning="read the certificates of devices",
    changes=False,
    identifiers=DEVICE,
    optional=(INSTANCE_ID,),
    result_columns=RESULT_COLUMNS,
)

LIST = Action(
    name="list",
    meaning="list all certificates of CAs or instances",
    changes=False,
    # a CA in another instance, a CA in the connection's instance, or a whole instance
    identifiers=((INSTANCE_ID, CA_SN), (CA_SN,), (INSTANCE_ID,)),
    optional=(PAGE_NO,),
    pages=True,
    result_columns=RESULT_COLUMNS,
)

APSARAMQ = Provider(
    name="apsaramq",
    actions={action.name: action for action in (INACTIVATE, ACTIVATE, DELETE, GET, LIST)},
    connection_required=(),
    connection_optional=(INSTANCE, REGION),
    region_endpoint="https://onsmqtt.{region}.aliyuncs.com",
    path=False,  # every call goes to /, and the signature covers that
    requests_per_second=500,  # documented for each API; here it limits all of them together
    requests_per_second_per_source_ip=300,
    credentials=("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
    accounts=("instance_id", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
    optional_credentials=("ALIBABA_CLOUD_SECURITY_TOKEN",),
    absent=frozenset({NOT_FOUND}),
    handler="bulkcert.providers.apsaramq.handler:connect",
    sample=sample,
    difference=difference,
    seen=seen,
    revoked=revoked,
    advice=ADVICE,
    simulated=True,
)
