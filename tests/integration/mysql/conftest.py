"""Fixtures: a world of real servers, a new one for each test.

Slow to make and never changed are shared by all tests of a run: programs, certificates, and new data to copy from.
"""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from yoban.plugins import TlsFiles

from tests.integration.mysql.world import Instance, Templates, World, open_world
from tests.integration.servers import make_certificates, scratch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A connection that came about in the very moment of a cancellation is dropped unclosed by Python 3.11's `wait_for`,
    by which the driver connects (gh-86296); it is closed when it is collected, in whatever test runs then."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"))


@pytest.fixture(scope="session")
def shared_folder(mysql_programs: Path) -> Iterator[Path]:
    folder = scratch()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What was dropped as told above is collected here, and not in somebody else's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
