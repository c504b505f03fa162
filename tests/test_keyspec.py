"""Distinguished names are read as they are meant, or refused; never changed."""

from __future__ import annotations

from string import printable

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.keyspec import OIDS, Subject, parse_subject, parse_template, short_name


def named(subject: Subject) -> list[str]:
    """The attributes in the order of the encoding; those of one RDN joined by a plus."""
    return ["+".join(f"{short_name(oid)}={value}" for oid, value in rdn) for rdn in subject.rdns]


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("CN=pump-7, O=EnOS, C=CN", ["C=CN", "O=EnOS", "CN=pump-7"]),
        ("CN=pump-7,O=EnOS,C=CN", ["C=CN", "O=EnOS", "CN=pump-7"]),
        ('CN="pump+7", O=EnOS, C=CN', ["C=CN", "O=EnOS", "CN=pump+7"]),
        (r"CN=pump\+7, O=EnOS, C=CN", ["C=CN", "O=EnOS", "CN=pump+7"]),
        (r"CN=pump\237, C=CN", ["C=CN", "CN=pump#7"]),
        (r"CN=Ger\C3\A4t, C=CN", ["C=CN", "CN=Gerät"]),
        ("CN=设备, C=CN", ["C=CN", "CN=设备"]),
        ('CN=p7, O="Acme, Inc.", C=CN', ["C=CN", "O=Acme, Inc.", "CN=p7"]),
        (r"CN=p7, O=Acme\, Inc., C=CN", ["C=CN", "O=Acme, Inc.", "CN=p7"]),
        (r'CN="a\"b", C=CN', ["C=CN", 'CN=a"b']),
        (r'CN="a\\b"', [r"CN=a\b"]),
        (r'CN=" a "', ["CN= a "]),
        (r"CN=a\ , C=CN", ["C=CN", "CN=a "]),
        ("CN=a=b", ["CN=a=b"]),
        ("CN=a  b", ["CN=a  b"]),
        ("CN=p7+OU=Meters, C=CN", ["C=CN", "CN=p7+OU=Meters"]),
        ("CN=p7 + OU=Meters, C=CN", ["C=CN", "CN=p7+OU=Meters"]),
        ("CN=p7, OU=A, OU=B, C=CN", ["C=CN", "OU=B", "OU=A", "CN=p7"]),
        ("cn = a , S=b, E=c", ["EMAILADDRESS=c", "ST=b", "CN=a"]),
        ("OID.2.5.4.97=x, 2.5.4.5=7, CN=y", ["CN=y", "SERIALNUMBER=7", "2.5.4.97=x"]),
        (
            "EMAILADDRESS=xT7EaR, OU=EnOS, CN=xMen1, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
            [
                *("C=CN", "ST=Shanghai", "L=Shanghai", "O=EnOS"),
                *("CN=xMen1", "OU=EnOS", "EMAILADDRESS=xT7EaR"),
            ],
        ),
    ],
)
def test_names_as_rfc_4514_and_java_write_them(text: str, encoded: list[str]) -> None:
    assert named(parse_subject(text)) == encoded


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "contains '', which is not NAME=VALUE"),
        ("CN=a,", "contains '', which is not NAME=VALUE"),
        ("O=Acme, Inc., C=CN", "contains 'Inc., C=CN', which is not NAME=VALUE"),
        ("CN=pump+7", "contains '7', which is not NAME=VALUE"),
        ('CN="a', "contains 'CN=\"a', which is not NAME=VALUE"),
        ('CN=a"b', "contains 'CN=a\"b', which is not NAME=VALUE"),
        ("CN=a\\", "contains 'CN=a\\\\', which is not NAME=VALUE"),
        ("CN=x, X=1, C=CN", "contains 'X=1', which sets no known attribute"),
        ("/C=CN/CN=x", "contains '/C=CN/CN=x', which sets no known attribute"),
        ("CN=", "sets CN to an empty value"),
        ('CN=""', "sets CN to an empty value"),
        ("CN=#0c0161", "contains 'CN=#0c0161', an encoded value"),
        ("CN=a;O=b", "'CN=a;O=b' can't be read: it is not a distinguished name as in RFC 4514"),
        (r"CN=a\zz", r"'CN=a\\zz' can't be read"),
        ("C=China", "'C=China' can't be read: Attribute's length must be"),
        (f"CN={'x' * 65}", "'CN=xxxxxxx"),
        (f"CN={' ' * 5000}", "has more than 4096 characters"),
    ],
)
def test_other_names_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_subject(text)
    assert str(caught.value).startswith(reason)


_CHARACTERS = st.sampled_from(printable) | st.characters(codec="utf-8", exclude_characters="\0")
_VALUES = st.text(_CHARACTERS, min_size=1, max_size=9)


@given(st.lists(st.tuples(st.sampled_from(["CN", "OU", "O", "L"]), _VALUES), min_size=1))
def test_every_name_that_the_library_writes_is_read_back(attributes: list[tuple[str, str]]) -> None:
    name = x509.Name(
        [x509.NameAttribute(x509.ObjectIdentifier(OIDS[n]), value) for n, value in attributes]
    )
    assert parse_subject(name.rfc4514_string()) == Subject.of(name)


@given(st.lists(st.tuples(st.sampled_from(["CN", "OU", "O", "L"]), _VALUES), min_size=1))
def test_every_name_in_quotes_is_read(attributes: list[tuple[str, str]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = ", ".join(f"{name}={quoted(value)}" for name, value in attributes)
    assert parse_subject(text).rdns[::-1] == tuple(((OIDS[n], v),) for n, v in attributes)


# ---- templates


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("C=CN, O=EnOS, CN=x", ["C=CN", "O=EnOS", "CN=x"]),
        ("CN=x, O=EnOS, C=CN", ["C=CN", "O=EnOS", "CN=x"]),
        ("O=EnOS, CN=x", ["O=EnOS", "CN=x"]),
        ("DC=com, DC=example, CN=x", ["DC=com", "DC=example", "CN=x"]),
        ("CN=x", ["CN=x"]),
    ],
)
def test_a_template_is_in_either_order(text: str, encoded: list[str]) -> None:
    assert named(parse_template(text)) == encoded


def test_a_field_cannot_add_attributes() -> None:
    template = parse_template("C=CN, O=EnOS, CN={assetId}-{certSn:06}")
    filled = template.filled({"assetId": 'x",O=evil+{CN}\\', "certSn": 7})
    assert named(filled) == ["C=CN", "O=EnOS", 'CN=x",O=evil+{CN}\\-000007']


def test_a_field_that_the_target_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"^needs deviceKey, which the target does not have$"):
        parse_template("CN={deviceKey}").filled({"assetId": "x"})
