"""The manifest of a base backup: what is no secret, damage, and contradictions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from yoban.errors import IntegrityError, NotFound
from yoban.plugins import (
    BackupItem,
    DirectoryItem,
    LinkItem,
)
from yoban.repository import (
    Manifest,
    Repository,
)
from yoban.repository.manifest import ManifestFile, ManifestObject, Piece, check
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import ROOT, back_up, file_item

BACKUP = f"{ROOT}/backups/b1"


async def test_the_manifest_is_no_secret_and_refuses_damage(
    repo: Repository, items: list[BackupItem], memory: MemoryStore
) -> None:
    await back_up(repo, items)
    with pytest.raises(NotFound):
        await repo.backups.manifest("b2")
    memory.damage(f"{BACKUP}/manifest", lambda data: data[:-20])
    for call in (repo.backups.manifest, repo.backups.summary):
        with pytest.raises(IntegrityError) as error:
            await call("b1")
        assert error.value.object == f"{BACKUP}/manifest"


@pytest.fixture
async def manifest(repo: Repository, data: Path) -> Manifest:
    return await back_up(repo, [file_item(data, "f", b"0123456789"), DirectoryItem("d"), LinkItem("l", "f")])


BAD_FILES = [
    ManifestFile(path="../f", size=0),
    ManifestFile(path="/f", size=0),
    ManifestFile(path="d", size=0),
    ManifestFile(path="f", size=1, pieces=[Piece(object=9, start=0, offset=0, length=1)]),
    ManifestFile(path="f", size=1, pieces=[Piece(object=0, start=0, offset=0, length=2)]),
    ManifestFile(path="f", size=1, pieces=[Piece(object=0, start=0, offset=0, length=0)]),
    ManifestFile(path="f", size=9, pieces=[Piece(object=0, start=5, offset=0, length=9)]),
    ManifestFile(
        path="f",
        size=9,
        pieces=[Piece(object=0, start=0, offset=0, length=5), Piece(object=0, start=0, offset=4, length=5)],
    ),
]


@pytest.mark.parametrize("file", BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_manifest_that_contradicts_itself_is_refused(file: ManifestFile) -> None:
    base = msgspec.convert(
        {
            "id": "b",
            "engine": "e",
            "beginPosition": "1",
            "beginTime": "2026-01-01T00:00:00Z",
            "endPosition": "2",
            "endTime": "2026-01-01T00:00:00Z",
            "started": "2026-01-01T00:00:00Z",
            "completed": "2026-01-01T00:00:00Z",
            "directories": [{"path": "d"}],
        },
        Manifest,
    )
    objects = [ManifestObject(number=1, size=10, plain=10, sha256="")]
    with pytest.raises(IntegrityError):
        check(msgspec.structs.replace(base, files=[file], objects=objects), "k")
