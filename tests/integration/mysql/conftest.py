"""Fixtures: a world of real servers, a new one for each test.

Slow to make and never changed are shared by all tests of a run: programs, certificates, and new data to copy from.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from yoban.plugins import TlsFiles

from tests.integration.mysql.world import Instance, Templates, World, open_world
from tests.integration.servers import make_certificates, scratch


@pytest.fixture(scope="session")
def shared_folder(mysql_programs: Path) -> Iterator[Path]:
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
async def world(tls: TlsFiles, templates: Templates) -> AsyncIterator[World]:
    async with open_world(tls, templates) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tls: TlsFiles, templates: Templates) -> AsyncIterator[Instance]:
    """A running primary for tests that leave it as it was. They run on its event loop: mark them so."""
    async with open_world(tls, templates) as made:
        yield await made.primary()
