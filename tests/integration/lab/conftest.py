"""Fixtures of the lab's own tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from deploy.lab.cluster import Cluster


@pytest.fixture(scope="session")
def found_down() -> bool:
    """Whether no lab ran when the session began: only then may a test take it down."""
    from deploy.lab import state

    return not state.names() or os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.fixture
def own_lab(found_down: bool, lab: Cluster) -> Cluster:
    """The lab's own cluster: these tests are about its nodes, network and faults."""
    if not lab.own:
        pytest.skip("YOBAN_KUBECONFIG names a cluster that is not the lab")
    return lab


@pytest.fixture
def namespace(own_lab: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, removed afterwards."""
    name = f"lab-{abs(hash(request.node.nodeid)) % 10**8}"
    own_lab.kubectl("create", "namespace", name)
    own_lab.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=privileged")
    yield name
    own_lab.kubectl("delete", "namespace", name, "--wait=false")
