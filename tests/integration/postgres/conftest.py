"""Fixtures: a world of real servers for each version on this machine, a new one for each test.

Slow to make and never changed are shared by all tests of a run: certificates, and new clusters to copy from.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from yoban.plugins import TlsFiles

from tests.integration.postgres.world import Instance, Templates, World, open_world
from tests.integration.servers import make_certificates, scratch

VERSIONS = sorted(path.parent.parent.name for path in Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "version" in metafunc.fixturenames:
        names = VERSIONS or ["none"]
        metafunc.parametrize("version", names, ids=lambda version: f"pg{version}", scope="session")


@pytest.fixture(scope="session")
def shared_folder() -> Iterator[Path]:
    folder = scratch()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tls(shared_folder: Path) -> TlsFiles:
    return make_certificates(shared_folder / "tls")


@pytest.fixture(scope="session")
def templates(shared_folder: Path) -> Templates:
    return Templates(shared_folder)


@pytest.fixture
async def world(version: str, tls: TlsFiles, templates: Templates) -> AsyncIterator[World]:
    if version == "none":
        pytest.skip("PostgreSQL is not installed")
    async with open_world(version, tls, templates) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(version: str, tls: TlsFiles, templates: Templates) -> AsyncIterator[Instance]:
    """A running primary for tests that leave it as it was. They run on its event loop: mark them so."""
    if version == "none":
        pytest.skip("PostgreSQL is not installed")
    async with open_world(version, tls, templates) as made:
        yield await made.primary()
