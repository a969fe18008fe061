"""An object store in a folder of a mounted volume (NFS, a disk). Each object is a file, written whole or not at all.

The folder holds a file `.yoban-store`, which you make once. A mount point whose volume is not mounted does not have it, so
"the volume is away" is never taken for "the object is absent".
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from yoban.errors import InvalidInput, NotFound, Unavailable
from yoban.plugins import AlreadyExists, Buffer, ObjectInfo, ObjectStore, ObjectStoreProvider, StoreConfig, hookimpl
from yoban.plugins import StoreCapability as Capability

YOBAN_PLUGIN_API = (1, 0)
MARKER = ".yoban-store"
CHUNK = 1 << 20
END = "$"  # ends the name of each file, so that the keys `a` and `a/b` can both exist


class FolderStore(ObjectStore):
    """Objects below one folder."""

    capabilities = frozenset({Capability.CONDITIONAL_PUT})

    def __init__(self, root: Path, prefix: str) -> None:
        self._root, self._prefix = root, prefix + "/" if prefix else ""

    def _path(self, key: str) -> Path:
        parts = [quote(part, safe="").replace(".", "%2E") or "%" for part in (self._prefix + key).split("/")]
        return self._root.joinpath(*parts[:-1], parts[-1] + END)

    def _key(self, path: Path) -> str:
        parts = str(path.relative_to(self._root)).removesuffix(END).split("/")
        return "/".join("" if part == "%" else unquote(part) for part in parts)[len(self._prefix) :]

    @contextmanager
    def _guarded(self, key: str) -> Iterator[None]:
        """Say what a failure means. Only a folder that is there can say that something is absent."""
        try:
            (self._root / MARKER).stat()
            yield
        except FileExistsError as error:
            raise AlreadyExists("there is an object already", object=key) from error
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)) and (self._root / MARKER).exists():
                raise NotFound("there is no such object", object=key) from error
            fix = f"mount {self._root}, with the file {MARKER} in it"
            raise Unavailable("the folder does not answer", object=key, cause=str(error), fix=fix) from error

    def _info(self, key: str, stat: os.stat_result) -> ObjectInfo:
        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
        return ObjectInfo(key, stat.st_size, modified, f"{stat.st_mtime_ns:x}-{stat.st_ino:x}")

    async def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> ObjectInfo:
        return await asyncio.to_thread(self._put, key, data, if_absent)

    def _put(self, key: str, data: Buffer, if_absent: bool) -> ObjectInfo:
        path, temporary = self._path(key), self._root / f"{MARKER}.{secrets.token_hex(8)}"
        with self._guarded(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    info = self._info(key, os.fstat(file.fileno()))
                if if_absent:
                    path.hardlink_to(temporary)  # fails when somebody was first, whoever it is
                else:
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)  # the name survives a power cut too
            os.close(folder)
            return info

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        with self._guarded(key):
            file = await asyncio.to_thread(os.open, self._path(key), os.O_RDONLY)
        try:
            while end is None or start < end:
                want = CHUNK if end is None else min(CHUNK, end - start)
                with self._guarded(key):
                    chunk = await asyncio.to_thread(os.pread, file, want, start)
                if not chunk:
                    return
                start += len(chunk)
                yield chunk
        finally:
            os.close(file)

    async def head(self, key: str) -> ObjectInfo:
        with self._guarded(key):
            return self._info(key, await asyncio.to_thread(self._path(key).stat))

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ObjectInfo]:
        with self._guarded(prefix):
            infos = await asyncio.to_thread(self._walk)
        for info in sorted(infos, key=lambda info: info.key.encode()):
            if info.key.startswith(prefix) and info.key.encode() > after.encode():
                yield info

    def _walk(self) -> Sequence[ObjectInfo]:
        def fail(error: OSError) -> None:
            raise error  # a listing must not just end early

        found, top = [], self._path("x").parent
        for folder, _, names in os.walk(top, onerror=fail) if top.exists() else ():
            for path in (Path(folder, name) for name in names if name.endswith(END)):
                with suppress(FileNotFoundError):  # deleted since it was listed
                    found.append(self._info(self._key(path), path.stat()))
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(NotFound), self._guarded(key):
                await asyncio.to_thread(self._path(key).unlink)


class FolderProvider(ObjectStoreProvider):
    """Provider `local-folder`; the bucket is the folder's path."""

    name, title, capabilities = "local-folder", "Folder of a mounted volume", FolderStore.capabilities

    def check(self, config: StoreConfig) -> None:
        if not config.bucket.startswith("/"):
            raise InvalidInput(
                "the bucket is not a folder's path", object=config.bucket, fix="write it as /mnt/backups"
            )

    @asynccontextmanager
    async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        yield FolderStore(Path(config.bucket), config.prefix)


@hookimpl
def yoban_object_stores() -> Iterable[ObjectStoreProvider]:
    return [FolderProvider()]
