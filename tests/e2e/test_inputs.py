"""What a user gets wrong: each ends in a named condition that says what to do, and never in lost data or a hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deploy.demo import manifests
from deploy.demo.kubectl import KubectlError, Object, condition
from tests.e2e.world import Space, reason

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Space:
    space = make_space("inputs")
    space.store()
    space.policy()
    return space


def _database(space: Space, name: str, **more: Any) -> Object:
    values: dict[str, Any] = {"instances": 1, "policy": "gold", **more}
    return space.engine.demo.database(name, **values)


@pytest.mark.parametrize(
    ("more", "wanted", "word"),
    [
        ({"engine": "oracle"}, "EngineUnknown", "oracle"),
        ({"engine": "attic"}, "PluginDisabled", "attic"),
        ({"settings": {}}, "SettingRefused", ""),  # each engine has one of its own that is ours
        ({"engineConfig": {"colour": "blue"}}, "EngineConfigInvalid", "colour"),
        ({"policy": "silver"}, "PolicyMissing", "silver"),
        ({"version": "9"}, "VersionUnsupported", "9"),
    ],
)
def test_wrong_database_says_what_to_do(space: Space, more: dict[str, object], wanted: str, word: str) -> None:
    name = f"wrong-{wanted.lower()}"
    if "settings" in more:
        more, word = {"settings": {space.engine.refused: "true"}}, space.engine.refused
    space.kubectl.apply(_database(space, name, **more))
    value = space.kubectl.wait("database", name, reason(wanted), deadline=120)
    assert word in condition(value, "Ready")["message"]
    space.kubectl.delete("database", name)


def test_setting_that_the_engine_rejects(space: Space) -> None:
    name, wrong, right = space.engine.rejected
    space.kubectl.apply(_database(space, "rejected", settings={name: wrong}))
    value = space.kubectl.wait("database", "rejected", reason("SettingsRejected"), deadline=120)
    assert name in condition(value, "Ready")["message"]
    space.patch("database", "rejected", {"spec": {"settings": {name: right}}})
    space.ready("rejected", 1)
    space.kubectl.delete("database", "rejected")


def test_server_image_of_the_wrong_version(space: Space) -> None:
    if space.engine.wrong_image is None:
        return  # there is one version of this engine here
    space.kubectl.apply(_database(space, "mistaken", image=space.engine.wrong_image))
    value = space.kubectl.wait("database", "mistaken", reason("VersionMismatch"), deadline=120)
    assert space.engine.wrong_version in condition(value, "Ready")["message"]
    space.kubectl.delete("database", "mistaken")


def test_storage_cannot_shrink(space: Space) -> None:
    space.kubectl.apply(_database(space, "small"))
    with pytest.raises(KubectlError, match="shrink"):
        space.patch("database", "small", {"spec": {"storage": {"size": "1Gi"}}})
    space.kubectl.delete("database", "small")


def test_storage_grows_where_the_class_allows_it(space: Space) -> None:
    space.database("roomy", 1, storage={"size": "1Gi", "class": "lab-expandable"})
    space.patch("database", "roomy", {"spec": {"storage": {"size": "2Gi"}}})
    for claim in space.kubectl.list("pvc", "yoban.dev/database=roomy"):
        name = claim["metadata"]["name"]
        space.kubectl.wait("pvc", name, lambda v: v["status"]["capacity"]["storage"] == "2Gi", deadline=120)
    space.ready("roomy", 1)
    space.kubectl.delete("database", "roomy")


def test_storage_that_cannot_grow_says_so_and_the_database_goes_on(space: Space) -> None:
    space.database("tight", 1)
    space.patch("database", "tight", {"spec": {"storage": {"size": "8Gi"}}})
    value = space.kubectl.wait(
        "database", "tight", lambda v: "cannot grow" in condition(v, "Ready").get("message", ""), deadline=60
    )
    ready = condition(value, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Degraded")
    assert "allowVolumeExpansion" in ready["message"]
    assert space.client("tight").sql("SELECT 1") == "1"
    space.kubectl.delete("pod", "tight-client", wait=False)
    space.kubectl.delete("database", "tight")


@pytest.mark.parametrize(
    ("secret", "wanted"),
    [("absent", "SecretMissing"), ("wrong", "CredentialsRejected")],
)
def test_store_that_cannot_be_opened(space: Space, secret: str, wanted: str) -> None:
    wrong = manifests.Bucket(space.stage.bucket.endpoint, space.stage.bucket.region, "nobody", "nothing-at-all")
    space.kubectl.apply(manifests.credentials("wrong", wrong))
    space.kubectl.apply(manifests.object_store(f"bad-{secret}", space.stage.bucket, f"bad-{secret}-bucket", secret))
    value = space.kubectl.wait("objectstore", f"bad-{secret}", reason(wanted), deadline=120)
    assert secret in condition(value, "Ready")["message"] or "credentials" in condition(value, "Ready")["message"]
    space.kubectl.delete("objectstore", f"bad-{secret}")
