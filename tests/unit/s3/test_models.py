"""What is kept of the SDK's data is what the SDK has, but for descriptions and other services."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.regions import EndpointResolver
from yoban_s3.models import SERVICES, loaded


def described(value: Any) -> Any:
    """A model with its descriptions emptied."""
    if isinstance(value, dict):
        return {
            key: "" if key == "documentation" and isinstance(entry, str) else described(entry)
            for key, entry in value.items()
        }
    return [described(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("service", ["s3", "sts"])
def test_a_service_is_whole(service: str) -> None:
    ours, theirs = loaded().load_service_model(service, "service-2"), Loader().load_service_model(service, "service-2")
    assert ours == described(theirs)
    assert ServiceModel(ours, service).operation_names == ServiceModel(theirs, service).operation_names


def test_rules_of_endpoints_are_whole() -> None:
    ours, theirs = loaded(), Loader()
    assert ours.load_service_model("s3", "endpoint-rule-set-1") == theirs.load_service_model(
        "s3", "endpoint-rule-set-1"
    )
    assert ours.load_data("partitions") == theirs.load_data("partitions")


@pytest.mark.parametrize("service", sorted(SERVICES))
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "aws-global", "mars-1"])
def test_endpoints_are_the_same(service: str, region: str) -> None:
    ours, theirs = (EndpointResolver(loader.load_data("endpoints")) for loader in (loaded(), Loader()))
    assert ours.construct_endpoint(service, region) == theirs.construct_endpoint(service, region)


def test_other_services_are_left_out() -> None:
    assert {name for one in loaded().load_data("endpoints")["partitions"] for name in one["services"]} <= SERVICES
