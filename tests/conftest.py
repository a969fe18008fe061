"""Servers that tests share: made when the first test asks, once a session, and only here.

Under CI=true a test marked `server` or `lab` must run: a skip of one is turned into a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer
    from deploy.lab.cluster import Cluster
    from deploy.lab.store import LocalStore

_MUST_RUN = ("server", "lab")


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marked = [name for name in _MUST_RUN if item.get_closest_marker(name)]
    if report.skipped and marked and _in_ci() and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI=true: a test marked {marked[0]} must not be skipped, but it was: {reason}"
    return report


@pytest.fixture(scope="session")
def local_apiserver() -> Iterator[LocalApiServer]:
    """A real kube-apiserver and etcd, shared by the session: use names or namespaces of your own in it."""
    from deploy.lab.apiserver import LocalApiServer
    from deploy.lab.failure import LabUnavailable

    _programs("etcd", "kube-apiserver")
    try:
        server = LocalApiServer()
    except LabUnavailable as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def local_store() -> Iterator[LocalStore]:
    """A real S3 server, shared by the session: use buckets of your own in it."""
    from deploy.lab.failure import LabUnavailable
    from deploy.lab.store import LocalStore

    _programs("versitygw")
    try:
        server = LocalStore()
    except LabUnavailable as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def mysql_programs() -> Iterator[Path]:
    """A folder with `mysqld` and `mysql` of the lab's image, the first on PATH; an unprivileged user may run them."""
    from deploy.lab import images
    from deploy.lab.failure import LabUnavailable
    from tests.integration.mysql.programs import install
    from tests.integration.servers import scratch

    image = "mysql:9.7"
    try:
        if images.identity(image) is None:
            if not _in_ci():
                pytest.skip("the image is not built: run `python -m deploy.lab images mysql:9.7`")
            images.ensure([image])
        unpacked = images.unpacked(image)
    except LabUnavailable as error:
        pytest.skip(str(error))
    folder = scratch()
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{install(unpacked, folder)}{os.pathsep}{path}"
    yield folder
    os.environ["PATH"] = path
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def lab() -> Cluster:
    """The lab cluster, brought up when it does not run and left running; or the one that YOBAN_KUBECONFIG names."""
    from deploy.lab import cluster
    from deploy.lab.failure import LabUnavailable

    try:
        return cluster.ensure()
    except LabUnavailable as error:
        pytest.skip(str(error))


def _programs(*names: str) -> None:
    """In CI what is missing is built (minutes, with progress); elsewhere a test that needs it skips and says how."""
    from deploy.lab import binaries

    if _in_ci():
        binaries.build(names)
