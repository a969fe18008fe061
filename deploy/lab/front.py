"""A TCP front that can be slow: it passes bytes on and holds each piece back as long as a file says.

`python -m deploy.lab.front DELAY_FILE ADDRESS:PORT=ADDRESS:PORT...` serves until it is ended. The file holds
milliseconds and may change at any time; no file means no delay. Guarantees order; adds a few dozen microseconds.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

_PIECE = 256 * 1024
REREAD = 0.1
"""How often the file is read, in seconds."""
_CONNECT_DEADLINE = 10.0


class Front:
    """Pairs of a listening address and one that it stands for."""

    def __init__(self, delay_file: Path):
        self._file = delay_file
        self._delay = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, pairs: list[tuple[str, str]]) -> None:
        """Listen for all pairs until cancelled."""
        servers = []
        for listening, behind in pairs:
            host, port = _split(listening)
            servers.append(await asyncio.start_server(self._handler(behind), host, port, backlog=512))
        try:
            while True:
                self._delay = self._read()
                await asyncio.sleep(REREAD)
        finally:
            for server in servers:
                server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _read(self) -> float:
        try:
            return float(self._file.read_text()) / 1000
        except (OSError, ValueError):
            return 0.0

    def _handler(self, behind: str):  # type: ignore[no-untyped-def]  # asyncio's callback type
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            far: asyncio.StreamWriter | None = None
            try:
                host, port = _split(behind)
                async with asyncio.timeout(_CONNECT_DEADLINE):
                    answers, far = await asyncio.open_connection(host, port, limit=_PIECE)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far))
                    group.create_task(self._pump(answers, writer))
            except (OSError, TimeoutError, ExceptionGroup):
                pass  # one side went away: the other's connection is broken below
            finally:
                self._tasks.discard(task)
                for side in (writer, far):
                    if side is not None:
                        side.close()

        return handle

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            if self._delay:
                await asyncio.sleep(self._delay)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    given = [tuple(pair.split("=", 1)) for pair in sys.argv[2:]]
    asyncio.run(Front(Path(sys.argv[1])).serve([(pair[0], pair[1]) for pair in given]))
