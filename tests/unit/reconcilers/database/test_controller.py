"""What wakes the controller, and what new Pods get of the operator."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from yoban.kube.objects import ObjectKey
from yoban.reconcilers.database.builders.blueprint import Blueprint
from yoban.reconcilers.database.builders.podtemplate import pod_template
from yoban.reconcilers.database.controller import (
    _database_of_authority,
    _reign_changed,
    _users_through_policies,
    operator_facts,
)
from yoban.runtime.settings import Settings

from tests.unit.reconcilers.database.world import KEY, NAMESPACE, World


def lease(holder: str, renewed: str, **notes: str) -> dict[str, Any]:
    return {"metadata": {"annotations": notes}, "spec": {"holderIdentity": holder, "renewTime": renewed}}


def test_a_renewal_wakes_nobody() -> None:
    assert not _reign_changed(lease("a", "1", term="1"), lease("a", "2", term="1"))


def test_a_change_of_reign_does() -> None:
    assert _reign_changed(None, lease("a", "1"))
    assert _reign_changed(lease("a", "1"), lease("b", "1"))
    assert _reign_changed(lease("a", "1", term="1"), lease("a", "1", term="2"))
    bare = lease("a", "1")
    assert _reign_changed(bare, {**bare, "metadata": {"labels": {"x": "y"}}})


def test_an_authority_leads_to_its_database() -> None:
    notes = {"yoban.dev/database-namespace": "shop", "yoban.dev/database-name": "orders"}
    assert list(_database_of_authority({"metadata": {"annotations": notes}})) == [ObjectKey("shop", "orders")]
    assert list(_database_of_authority({"metadata": {}})) == []


async def test_a_store_leads_to_the_databases_of_its_policies(world: World) -> None:
    world.make_policy()
    world.make(backup={"policy": "nightly"})
    world.fill()
    mapping = _users_through_policies(world.caches)
    assert list(mapping({"metadata": {"namespace": NAMESPACE, "name": "s3"}})) == [KEY]
    assert list(mapping({"metadata": {"namespace": NAMESPACE, "name": "other"}})) == []


def test_what_agents_inherit_holds_no_secret() -> None:
    environ = {
        "YOBAN_PLUGINS": "postgres",
        "YOBAN_LOG_LEVEL": "",
        "YOBAN_NAMESPACE": "x",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=hidden",
        "AWS_SECRET_ACCESS_KEY": "hidden",
    }
    facts = operator_facts(Settings(namespace="ops", image="registry.test/yoban:1"), environ)
    assert facts.namespace == "ops"
    assert facts.runtime.image == "registry.test/yoban:1"
    assert facts.runtime.env == {"YOBAN_PLUGINS": "postgres", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"}


def test_bug_agents_were_not_pulled_as_the_operators_image_is(blueprint: Blueprint) -> None:
    facts = operator_facts(Settings(image="registry.test/yoban:1", image_pull_policy="Always"), {})
    (installer,) = pod_template(blueprint, 1, facts.runtime)["spec"]["initContainers"]
    assert (installer["image"], installer["imagePullPolicy"]) == ("registry.test/yoban:1", "Always")
    assert operator_facts(Settings(image="registry.test/yoban:1"), {}).runtime.pull_policy == ""


def test_a_pull_policy_that_there_is_not_stops_the_start() -> None:
    with pytest.raises(ValidationError, match="image_pull_policy"):
        Settings(image_pull_policy="Sometimes")  # type: ignore[arg-type]
