"""How responses in XML are read: the gateway's, hostile ones, and anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.apsaramq.xml import LONGEST, xml_object

HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
ERROR = {
    "RequestId": "R-1",
    "HostId": "onsmqtt.cn-hangzhou.aliyuncs.com",
    "Code": "Throttling.User",
    "Message": "Request was denied due to user flow control.",
}


def written(name: str, content: Any) -> str:
    if isinstance(content, dict):
        content = "".join(written(*member) for member in content.items())
    return f"<{name}>{content}</{name}>"


def test_an_error_of_the_gateway_is_read() -> None:
    assert xml_object(HEAD + written("Error", ERROR)) == ERROR
    assert xml_object(written("Error", ERROR)) == ERROR
    assert xml_object("\n " + HEAD + "\n" + written("Error", ERROR) + "\n") == ERROR
    # it is text already, whatever it declares
    assert xml_object(HEAD.replace("UTF-8", "GBK") + written("Error", ERROR)) == ERROR


def test_a_success_is_read_with_what_is_inside() -> None:
    data = {"CaSn": "007", "DeviceSn": "00F2", "Status": "1", "DeviceName": ""}
    response = {"RequestId": "R", "Data": data}
    assert xml_object(written("GetDeviceCertificateResponse", response)) == response


def test_blanks_and_comments_are_ignored() -> None:
    body = (
        "<Error a='1'>\n  <Code> A&amp;B <!-- x --></Code>\n"
        "  <Message><![CDATA[<b>]]></Message></Error>"
    )
    assert xml_object(body) == {"Code": "A&B", "Message": "<b>"}


BILLION = '<!DOCTYPE e [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><Error><Code>&b;</Code></Error>'
EXTERNAL = '<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]><Error><Code>&x;</Code></Error>'


@pytest.mark.parametrize(
    "body",
    [
        *("", " ", "{}", "Throttling", "<", "<Error>", "<Error></Wrong>", "<Error/>"),
        *("<html><body><Code>1</Code></body></html>", "<html/>", "<a>text</a>"),
        *(BILLION, EXTERNAL, HEAD + "<!DOCTYPE html><Error><Code>A</Code></Error>"),
        "<Error><Code>A</Code></Error><Error/>",
        "<Error><Code>A</Code></Error> text",
        "<Error><Code>&unknown;</Code></Error>",
        "<Error><Code>A</Code>" + "<a>" * 20 + "</a>" * 20 + "</Error>",
        "<a>" * 30_000 + "</a>" * 3,
        written("Error", ERROR | {"Message": "x" * LONGEST}),
        "<Error><Code>A\0</Code></Error>",
    ],
    ids=lambda body: body[:30],
)
def test_everything_else_is_not_a_response_of_the_gateway(body: str) -> None:
    assert xml_object(body) is None


@given(st.text() | st.text("<>/!&;[]CodeErr ?x\"'=-").map(lambda text: f"<Error>{text}</Error>"))
def test_any_text_is_read_or_is_not(body: str) -> None:
    found = xml_object(body)
    assert found is None or "Code" in found or "RequestId" in found
