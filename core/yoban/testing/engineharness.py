"""What `EngineContract` drives an engine with: a runner of servers, an archive that answers them, copies of base backups.

Guarantees that a server started here is ended when the runner is closed. The archive answers over a unix socket as a
resident agent does, with the same one-line protocol; it keeps everything in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from yoban.errors import YobanError
from yoban.plugins import (
    BackupBegin,
    BackupEnd,
    BackupItem,
    BackupRequest,
    BackupSession,
    BytesItem,
    DirectoryItem,
    Engine,
    FileItem,
    InstanceContext,
    LinkItem,
    LogVerb,
    SegmentKind,
    ServerCommand,
    StopMode,
)

T = TypeVar("T")

_ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(30)
    s.connect(sys.argv[1])
    s.sendall("\\t".join(sys.argv[2:]).encode() + b"\\n")
    answer = s.makefile("rb").readline().strip()
sys.exit(0 if answer == b"ok" else 1 if answer == b"missing" else 255)
"""


async def until(check: Callable[[], Awaitable[T]], *, deadline: float, what: str) -> T:
    """Ask again and again until the answer is true, and return it. Errors of ours count as "not yet".

    Servers tell nobody when they are ready, hence the polling.

    Raises:
        AssertionError: it did not become true in time; says what, and the last error.
    """
    end = asyncio.get_running_loop().time() + deadline
    last: object = None
    while True:
        try:
            answer = await check()
            if answer:
                return answer
            last = answer
        except YobanError as error:
            last = error
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"not within {deadline:g} s: {what} (last: {last})")
        await asyncio.sleep(0.05)


class Runner:
    """Starts servers as children of the test, as the supervisor would. Subclass it for another user or an in-process fake."""

    def __init__(self) -> None:
        self._running: dict[Path, tuple[asyncio.subprocess.Process, ServerCommand]] = {}

    async def start(self, ctx: InstanceContext, command: ServerCommand) -> None:
        """Start the server of `ctx`. It may not be ready when this returns."""
        process = await asyncio.create_subprocess_exec(*command.argv, env=dict(command.env), cwd=command.cwd)
        self._running[ctx.data] = (process, command)

    async def stop(self, ctx: InstanceContext, mode: StopMode = StopMode.CLEAN) -> None:
        """End the server of `ctx` and return when it is gone; nothing when it does not run."""
        process, command = self._running.pop(ctx.data, (None, None))
        if process is None or command is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(command.stop_signals[mode])
        try:
            async with asyncio.timeout(60 if mode is StopMode.CLEAN else 5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            assert mode is StopMode.IMMEDIATE, "the server did not end within 60 s of a clean stop"

    async def close(self) -> None:
        """End everything that still runs."""
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._running.clear()


class Driver:
    """A user of the database: writes and reads short texts. What every engine's author supplies for the contract."""

    async def write(self, ctx: InstanceContext, text: str) -> None:
        """Store `text` and return when the server has acknowledged it."""
        raise NotImplementedError("the driver of your engine writes")

    async def read(self, ctx: InstanceContext) -> set[str]:
        """Return all texts that were written; empty before the first."""
        raise NotImplementedError("the driver of your engine reads")


@dataclass
class Archive:
    """An archive of log files in memory, and the resident agent's socket before it.

    Attributes:
        files: by name.
        asked: names that servers asked for.
    """

    engine: Engine
    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    context: InstanceContext | None = None
    _server: asyncio.Server | None = None

    @property
    def ask(self) -> tuple[str, ...]:
        """Argv prefix for `InstanceContext.ask`."""
        return (sys.executable, str(self.folder / "ask.py"), str(self.folder / "ask.sock"))

    async def open(self) -> None:
        """Begin to answer."""
        (self.folder / "ask.py").write_text(_ASK)
        self._server = await asyncio.start_unix_server(self._serve, str(self.folder / "ask.sock"))
        (self.folder / "ask.sock").chmod(0o777)  # the server may run as another user

    async def close(self) -> None:
        """End answering."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def collect(self, ctx: InstanceContext) -> None:
        """Take in all complete segments of `ctx`, then its growing tail, padded as replay wants it."""
        source = self.engine.log_source
        assert source is not None
        for segment in await source.pending(ctx):
            await source.inspect(ctx, segment)
            self.files[segment.name.name] = segment.path.read_bytes()
            await source.settled(ctx, segment)
        tail = await source.tail(ctx)
        if tail is not None and tail.flushed:
            data = tail.path.read_bytes()[: tail.flushed]
            size = source.pads_to(await source.segment_bytes(ctx))
            self.files[tail.segment] = data.ljust(size, b"\0")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            verb, *arguments = (await reader.readline()).decode().rstrip("\n").split("\t")
            writer.write(self._answer(verb, arguments).encode() + b"\n")
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, verb: str, arguments: list[str]) -> str:
        if self.context is None:
            return "error no instance"
        try:
            request = self.engine.server.interpret(self.context, verb, arguments)
        except YobanError as error:
            return f"error {error}"
        self.asked.append(request.segment)
        if request.verb is LogVerb.ARCHIVE:
            self.files[request.segment] = request.path.read_bytes()
            return "ok"
        if request.segment not in self.files:
            return "missing"
        request.path.write_bytes(self.files[request.segment])
        owner = self.context.data.stat()
        os.chown(request.path, owner.st_uid, owner.st_gid)
        return "ok"

    def segments(self, end: BackupEnd, *, whole: bool) -> tuple[str, ...]:
        """Names of what is replayed after a base backup: all of its line, or only what makes it consistent."""
        source = self.engine.log_source
        if source is None or not (whole or end.first_segment):
            return ()
        names = sorted(name for name in self.files if source.classify(name).line == end.line)
        first = end.first_segment or source.segment_of(end.line, end.position, names, 0)
        return tuple(name for name in names if first <= name and (whole or name <= end.last_segment))

    def hand_over(self, ctx: InstanceContext, name: str) -> Path:
        """Return a copy of a file for `Recovery.feed`, on the file system of the data."""
        folder = ctx.data.parent / "fetched"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(self.files[name])
        owner = ctx.data.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        os.chown(path, owner.st_uid, owner.st_gid)
        return path

    def newest(self, line: str) -> str:
        """Name of the newest full segment of a line that is here."""
        source = self.engine.log_source
        assert source is not None
        names = [source.classify(name) for name in self.files]
        return max(one.name for one in names if one.line == line and one.kind is SegmentKind.FULL)


@dataclass
class Copy:
    """A base backup, copied as core does it."""

    begin: BackupBegin
    items: list[tuple[BackupItem, bytes]]
    end: BackupEnd


async def copy(engine: Engine, ctx: InstanceContext, *, during: Callable[[], Awaitable[None]] | None = None) -> Copy:
    """Make a base backup; `during` runs after the first item was read."""
    assert engine.base_backup is not None
    async with engine.base_backup.backup(ctx, BackupRequest("20260101T000000Z-abcdef")) as session:
        items: list[tuple[BackupItem, bytes]] = []
        async for item, data in _read(session):
            items.append((item, data))
            if during is not None:
                await during()
                during = None
        end = await session.finish()
        items += [(item, item.data) for item in end.items]
        return Copy(session.begin, items, end)


async def _read(session: BackupSession) -> AsyncIterator[tuple[BackupItem, bytes]]:
    late: list[BackupItem] = []
    async for item in session.items():
        if isinstance(item, (FileItem, BytesItem)) and item.last:
            late.append(item)
        elif (data := _content(session, item)) is not None:
            yield item, data
    for item in late:
        data = _content(session, item)
        assert data is not None, f"{item.path} is to be read last and is not there"
        yield item, data


def _content(session: BackupSession, item: BackupItem) -> bytes | None:
    if isinstance(item, BytesItem):
        return item.data
    if not isinstance(item, FileItem):
        return b""
    try:
        data = item.source.read_bytes()[: item.size]
    except FileNotFoundError:
        assert item.may_vanish, f"{item.path} vanished and is not marked `may_vanish`"
        return None
    if item.inspect:
        session.inspect(item, 0, memoryview(data))
    return data


async def place(engine: Engine, ctx: InstanceContext, backup: Copy) -> None:
    """Put a base backup into the empty instance `ctx`, folders first, and tell the engine."""
    recovery = engine.recovery
    assert recovery is not None
    owner = ctx.data.parent.stat()
    ordered = sorted(backup.items, key=lambda pair: not isinstance(pair[0], DirectoryItem))
    ctx.data.mkdir(mode=0o700, exist_ok=True)
    os.chown(ctx.data, owner.st_uid, owner.st_gid)
    for item, data in ordered:
        path = recovery.place(ctx, item.path)
        missing = [one for one in (path.parent, *path.parent.parents) if not one.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if isinstance(item, DirectoryItem):
            path.mkdir(mode=item.mode, exist_ok=True)
        elif isinstance(item, LinkItem):
            path.symlink_to(item.target)
        else:
            path.write_bytes(data)
            path.chmod(item.mode)
        for one in (path, *missing):
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)
    await recovery.placed(ctx)
