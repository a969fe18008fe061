"""The tutorial's object store: it passes the contract, stays short, and is what the tutorial shows."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from yoban.errors import NotFound, Unavailable
from yoban.plugins import API_VERSION, ObjectStore, StoreConfig
from yoban.testing.objectstore import ObjectStoreContract, Outage

from docs.examples.localfolder import yoban_localfolder
from docs.examples.localfolder.yoban_localfolder import MARKER, FolderProvider

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLE = DOCS / "examples/localfolder"


class TestFolderStore(ObjectStoreContract):
    @pytest.fixture
    def provider(self) -> FolderProvider:
        return FolderProvider()

    @pytest.fixture
    def config(self, tmp_path: Path) -> StoreConfig:
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / MARKER).touch()
        return StoreConfig(bucket=str(tmp_path / "store"))

    @pytest.fixture
    def outage(self, tmp_path: Path) -> Iterator[Outage]:
        folder, away = tmp_path / "store", tmp_path / "away"

        def stop() -> None:
            folder.rename(away)
            folder.mkdir()  # a mount point is there, its volume is not

        def start() -> None:
            folder.rmdir()
            away.rename(folder)

        yield Outage(stop, start)

    async def test_a_key_may_be_a_folder_of_another(self, store: ObjectStore) -> None:
        await store.put("a", b"1")
        await store.put("a/b", b"2")
        assert [info.key async for info in store.list()] == ["a", "a/b"]

    async def test_a_broken_write_leaves_nothing(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            await store.put("k", "text")  # type: ignore[arg-type]
        assert [path.name for path in (tmp_path / "store").iterdir()] == [MARKER]

    async def test_a_folder_that_cannot_be_read_ends_the_listing_with_an_error(
        self, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.put("a/b", b"1")
        real = os.scandir

        def refusing(path: str) -> object:
            if str(path).endswith("/a"):
                raise PermissionError("no")
            return real(path)

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(Unavailable):
            [info async for info in store.list()]
        with pytest.raises(NotFound):
            await store.head("a")


def test_it_is_shorter_than_150_lines() -> None:
    assert len((EXAMPLE / "yoban_localfolder.py").read_text().splitlines()) < 150


def test_it_declares_itself() -> None:
    assert yoban_localfolder.YOBAN_PLUGIN_API <= API_VERSION
    assert [provider.name for provider in yoban_localfolder.yoban_object_stores()] == ["local-folder"]
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["yoban.plugins"] == {"localfolder": "yoban_localfolder"}


def test_the_tutorial_shows_what_is_tested() -> None:
    tutorial = (DOCS / "tutorial-object-store.md").read_text()
    blocks = tutorial.split("```python\n")[1:]
    shown = [block.split("```")[0] for block in blocks]
    code = (EXAMPLE / "yoban_localfolder.py").read_text()
    parts = [block for block in shown if "ObjectStoreContract" not in block]
    assert len(parts) >= 5
    for part in parts:
        assert part in code, f"the tutorial shows what the example does not have:\n{part}"
    for line in code.splitlines():
        assert any(line in part for part in parts), f"the tutorial does not show:\n{line}"
    assert (EXAMPLE / "pyproject.toml").read_text() in tutorial
