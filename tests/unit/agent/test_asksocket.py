"""The tiny client's socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rig import Rig
from yoban.agent.asksocket import AskSocket
from yoban.errors import NotFound
from yoban.plugins import LogRequest


async def test_lines_over_the_socket(make_rig: Callable[..., Rig]) -> None:
    agent = make_rig().agent()
    path = agent.environment.run / "a.sock"
    asked: list[str] = []

    async def archive(request: LogRequest) -> None:
        asked.append(request.segment)

    async def restore(request: LogRequest) -> None:
        raise NotFound("no")

    path.touch()
    ask = AskSocket(agent.instance, path, archive, restore)
    await ask.start()
    assert path.stat().st_mode & 0o777 == 0o600

    async def put(data: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    assert await put(b"archive\t0001-00000000\tlog/x\n") == b"ok\n"
    assert asked == ["0001-00000000"]
    assert await put(b"restore\t0001-00000000\tlog/x\n") == b"missing\n"
    assert await put(b"restore\t0001-00000000\t../../etc\n") != b"ok\n"
    assert await put(b"cut short") == b""
    assert await put(b"x" * 20000 + b"\n") == b""
    await ask.stop()
    assert not path.exists()
