"""The bucket's finalizer on a real cluster and a real store, which may be down when it matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.demo import manifests
from deploy.demo.kubectl import condition
from tests.e2e.world import POSTGRES, EngineUnderTest, Space

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine() -> EngineUnderTest:
    """Once is enough: these tests make no Database of an engine that is tested elsewhere."""
    return POSTGRES


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Space:
    return make_space("buckets")


def test_bucket_is_emptied_and_removed_before_the_object_goes(space: Space) -> None:
    bucket = space.store("brief", deletionPolicy="Delete")
    assert space.stage.bucket_exists(bucket)
    space.kubectl.delete("objectstore", "brief")
    assert not space.stage.bucket_exists(bucket)


def test_bucket_is_retained_by_default(space: Space) -> None:
    bucket = space.store("kept")
    space.kubectl.delete("objectstore", "kept")
    assert space.stage.bucket_exists(bucket)


def test_bucket_without_our_marker_is_never_deleted(space: Space) -> None:
    space.stage.make_bucket("somebody-elses")
    spec = {"deletionPolicy": "Delete"}
    space.kubectl.apply(manifests.object_store("foreign", space.stage.bucket, "somebody-elses", "s3", **spec))
    space.kubectl.wait(
        "objectstore", "foreign", lambda v: condition(v, "Ready").get("status") is not None, deadline=120
    )
    space.kubectl.delete("objectstore", "foreign")
    assert space.stage.bucket_exists("somebody-elses")


def test_deletion_waits_for_a_store_that_is_down_and_says_so(space: Space) -> None:
    bucket = space.store("waiting", deletionPolicy="Delete")
    space.store_down()
    try:
        space.kubectl.delete("objectstore", "waiting", wait=False)
        value = space.kubectl.wait(
            "objectstore",
            "waiting",
            lambda v: "deletionTimestamp" in v["metadata"] and condition(v, "Ready").get("status") == "False"
            and condition(v, "Ready").get("reason") in ("StoreUnavailable", "Unreachable", "WaitingForStore"),
            deadline=120,
        )  # fmt: skip
        assert condition(value, "Ready")["message"]
    finally:
        space.store_up()
    space.kubectl.run("wait", "objectstore", "waiting", "--for=delete", "--timeout=120s", deadline=130)
    assert not space.stage.bucket_exists(bucket)


def test_skip_cleanup_ends_the_wait_for_a_dead_store(space: Space) -> None:
    space.store("dead", deletionPolicy="Delete")
    space.store_down()
    try:
        space.kubectl.delete("objectstore", "dead", wait=False)
        space.annotate("objectstore", "dead", "yoban.dev/skip-cleanup=true")
        space.kubectl.run("wait", "objectstore", "dead", "--for=delete", "--timeout=90s", deadline=100)
    finally:
        space.store_up()
