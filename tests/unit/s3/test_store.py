"""What the store asks of the SDK, without a server."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from yoban.plugins import Part, StoreConfig, Upload
from yoban_s3.store import CHUNK, S3Store


class Recorder:
    """Stands for the SDK's client: keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def upload_part(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return {"ETag": '"tag"'}


@pytest.mark.parametrize("data", [b"", b"0123456789", memoryview(b"x" * (CHUNK + 1)), bytearray(CHUNK + 1)])
async def test_bug_a_part_of_an_upload_carried_no_checksum(data: bytes) -> None:
    client = Recorder()
    part = await S3Store(client, StoreConfig(bucket="bucket")).put_part(Upload("k", "u"), 7, data)
    assert part == Part(7, '"tag"')
    expected = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    assert client.asked[0]["ContentMD5"] == expected and client.asked[0]["Body"] is data


async def test_a_host_that_forbids_the_hash_sends_parts_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise ValueError("unsupported hash type md5")

    monkeypatch.setattr(hashlib, "new", forbidden)
    client = Recorder()
    await S3Store(client, StoreConfig(bucket="bucket")).put_part(Upload("k", "u"), 1, b"x")
    assert "ContentMD5" not in client.asked[0]
