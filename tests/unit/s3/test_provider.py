from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from botocore.utils import is_valid_uri
from yoban.errors import InvalidInput
from yoban.plugins import API_VERSION, StoreConfig
from yoban_s3 import plugin
from yoban_s3.provider import S3Provider

GOOD = StoreConfig(
    bucket="backups",
    prefix="a/b",
    endpoint="https://s3.example:9000",
    region="us-east-1",
    ca_bundle=b"-----BEGIN CERTIFICATE-----\n",
    credentials={"accessKeyId": "a", "secretAccessKey": "very-secret"},
)


def test_the_plugin_declares_its_provider() -> None:
    assert plugin.YOBAN_PLUGIN_API <= API_VERSION
    assert [provider.name for provider in plugin.yoban_object_stores()] == ["s3"]


def test_what_can_work_passes() -> None:
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"endpoint": "http://10.0.0.1:9000/"},
        {"endpoint": "http://[fd00::1]:9000"},
        {"endpoint": "http://minio.shop.svc.cluster.local.:9000"},
        {"endpoint": "http://" + "a" * 63 + ":9000"},
        {"endpoint": ""},
        {"region": ""},
        {"credentials": {}},
        {"bucket": "a.b-c"},
        {"prefix": ""},
        {"ca_bundle": b""},
    )
    for changes in cases:
        S3Provider().check(replace(GOOD, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"bucket": ""},
        {"bucket": "Upper"},
        {"bucket": "ab"},
        {"bucket": "a" * 64},
        {"bucket": "a..b"},
        {"bucket": "-abc"},
        {"bucket": "192.168.0.1"},
        {"endpoint": "s3.example"},
        {"endpoint": "ftp://s3.example"},
        {"endpoint": "https://"},
        {"endpoint": "https://host:0"},
        {"endpoint": "https://host:99999"},
        {"endpoint": "https://host/bucket"},
        {"endpoint": "https://host?x=1"},
        {"endpoint": "https://me:very-secret@host"},
        {"endpoint": "https://[fd00::1:9000"},
        {"endpoint": "", "region": ""},
        {"prefix": "/a"},
        {"prefix": "a/"},
        {"prefix": "a//b"},
        {"ca_bundle": b"not pem"},
        {"credentials": {"accessKeyId": "a"}},
        {"credentials": {"accessKeyId": "a", "secretAccessKey": " "}},
        {"credentials": {"secretAccessKey": "very-secret"}},
    ],
)
def test_what_cannot_work_is_named_with_what_to_do(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as error:
        S3Provider().check(replace(GOOD, **changes))
    assert error.value.fix
    assert "very-secret" not in str(error.value)


UNFIT = (
    "http://minio_backup:9000",
    "http://minio-:9000",
    "http://-minio:9000",
    "http://" + "a" * 64,
    "http://" + ".".join(["a" * 60] * 5),
    "http://s3..example",
    "http://.",
    "http://bücher.example",
    "http://mi nio",
    "http://minio\n:9000",
    "http://a%b:9000",
)


@pytest.mark.parametrize("endpoint", UNFIT)
def test_bug_an_endpoint_that_the_client_refuses_was_taken_and_ended_every_agent_of_the_store(endpoint: str) -> None:
    assert not is_valid_uri(endpoint), "the rule is botocore's"
    with pytest.raises(InvalidInput) as error:
        S3Provider().check(replace(GOOD, endpoint=endpoint))
    assert repr(endpoint) in str(error.value)
    assert error.value.fix


async def test_opening_checks_first() -> None:
    with pytest.raises(InvalidInput):
        async with S3Provider().open(replace(GOOD, bucket="")):
            raise AssertionError("never opened")


def test_the_configuration_shows_no_secret() -> None:
    assert "very-secret" not in repr(GOOD)


def test_declaring_the_plugin_does_not_load_the_sdk() -> None:
    """It costs 30 MB, which an operator without stores need not pay."""
    code = "import sys, yoban_s3.plugin as p; p.yoban_object_stores(); sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
