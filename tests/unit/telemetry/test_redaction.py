"""Secrets are masked by value and by shape; what is none stays readable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from yoban.telemetry import redact, redaction, remember_secret


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    redaction.forget_all()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("db://app:p@ss@host:5432/x", "db://app:***@host:5432/x"),
        ("db://app:secret@host and db://b:other@h", "db://app:***@host and db://b:***@h"),
        ("jdbc:db://host/x?user=app&password=s3cret&ssl=true", "jdbc:db://host/x?user=app&password=***&ssl=true"),
        ("password='it''s'", "password=***'s'"),
        ('{"password": "a \\" b", "user": "x"}', '{"password": ***, "user": "x"}'),
        ("PASSWORD: hunter2", "PASSWORD: ***"),
        ("aws_secret_access_key=AKIA/abc+d", "aws_secret_access_key=***"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        ("session_token = abc", "session_token = ***"),
        (
            "x\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\ny",
            "x\n-----BEGIN RSA PRIVATE KEY-----***\ny",
        ),
        ("-----BEGIN PRIVATE KEY-----\ncut short", "-----BEGIN PRIVATE KEY-----***"),
    ],
)
def test_shapes_of_secrets(text: str, masked: str) -> None:
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "Secret shop/orders-accounts was made anew",
        "the token file is read again",
        "https://host:443/path",
        "-----BEGIN CERTIFICATE-----\nMIIE",
        "password changed",
        "email a@b.example",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_remembered_value_is_masked_everywhere() -> None:
    remember_secret("a.b*c+d", "a.b*c+d-longer")
    assert redact("xa.b*c+dx a.b*c+d-longer aXbYc+d") == "x***x *** aXbYc+d"


def test_a_short_value_is_not_remembered() -> None:
    remember_secret("abc", "")
    assert redact("abc") == "abc"
