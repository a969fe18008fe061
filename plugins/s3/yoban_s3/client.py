"""One SDK client a store, made so that it neither blocks the loop nor surprises S3 clones.

Guarantees: the SDK is imported and its models are read in a thread, once a process; every request has deadlines for
connecting and for silence; the SDK neither retries (callers do, with the object's name in hand) nor adds checksums that
old or foreign servers reject (no trailers, nothing but what an operation requires). It sends bodies without copying or
hashing them again.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import certifi
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yoban.plugins import Buffer, StoreConfig

from yoban_s3 import models
from yoban_s3.declaration import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 30.0
CONNECTIONS = 16
_SLICE = 256 << 10


class Body(Payload):
    """A request body in memory, written in slices so that other tasks get their turn."""

    _autoclose = True

    def __init__(self, value: Buffer) -> None:
        super().__init__(value, content_type="application/octet-stream")
        self._size = memoryview(value).nbytes

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        view = memoryview(self._value)[:content_length]
        for start in range(0, len(view), _SLICE):
            await writer.write(view[start : start + _SLICE])


class Transport(AIOHTTPSession):  # type: ignore[misc]
    """The SDK's transport, with `Body` for bodies."""

    async def send(self, request: Any) -> Any:
        if isinstance(request.body, bytes | bytearray | memoryview):
            request.body = Body(request.body)
        return await super().send(request)


_shared: list[AioSession] = []
_making = Lock()


def _session() -> AioSession:
    """Return the process's one SDK session, which holds the service's model. Blocks the first time."""
    with _making:
        if not _shared:
            session = AioSession()
            session.register_component("data_loader", models.loaded())
            _shared.append(session)
        return _shared[0]


def settings(config: StoreConfig) -> AioConfig:
    """Return the SDK's settings for a store."""
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENCE_SECONDS,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},
        parameter_validation=False,  # lets a memoryview be a body
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if config.endpoint else "auto", "payload_signing_enabled": False},
        http_session_cls=Transport,
    )


@asynccontextmanager
async def connected(config: StoreConfig) -> AsyncIterator[Any]:
    """Yield an SDK client for a store; no request is made."""
    session = await asyncio.to_thread(_session)
    async with AsyncExitStack() as stack:
        verify: bool | str = True
        if config.ca_bundle:
            folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="yoban-s3-")
            stack.callback(folder.cleanup)
            verify = await asyncio.to_thread(_bundle, Path(folder.name), config.ca_bundle)
        credentials = config.credentials
        client = await stack.enter_async_context(
            session.create_client(
                "s3",
                region_name=config.region or "us-east-1",
                endpoint_url=config.endpoint or None,
                verify=verify,
                aws_access_key_id=credentials.get(ACCESS_KEY),
                aws_secret_access_key=credentials.get(SECRET_KEY),
                aws_session_token=credentials.get(SESSION_TOKEN) or None,
                config=settings(config),
            )
        )
        yield client


def _bundle(folder: Path, ours: bytes) -> str:
    """Write the system's certificates and `ours` into one file, which the SDK wants."""
    path = folder / "ca.pem"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(Path(certifi.where()).read_bytes() + b"\n" + ours + b"\n")
    return str(path)
