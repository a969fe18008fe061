"""Answers the tiny client: the server's archive and restore commands, over a unix socket of this container.

Guarantees: a line `VERB\\tARGUMENT…\\n` gets one line: `ok` only for what is so (stored, or in place), `missing` only for
what is proven absent, else `error` with a reason. Requests are bounded in size; a client that goes away costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from yoban.agent.instance import Instance
from yoban.errors import NotFound, YobanError
from yoban.plugins import LogRequest, LogVerb

log = logging.getLogger("yoban.agent.asksocket")
LONGEST_REQUEST = 8192
READ_DEADLINE = 10.0

Answerer = Callable[[LogRequest], Awaitable[None]]


class AskSocket:
    """Listens at `path`; `archive` and `restore` are who knows. NotFound from `restore` means proven absent."""

    def __init__(self, instance: Instance, path: Path, archive: Answerer, restore: Answerer) -> None:
        self._instance = instance
        self._path = path
        self._answerers = {LogVerb.ARCHIVE: archive, LogVerb.RESTORE: restore}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; what an earlier agent left is replaced."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LONGEST_REQUEST)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                try:
                    async with asyncio.timeout(READ_DEADLINE):
                        line = await reader.readline()
                except (TimeoutError, ValueError):
                    return
                if not line.endswith(b"\n"):
                    return
                answer = await self.answer(line[:-1].decode(errors="replace"))
                writer.write(answer.encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    async def answer(self, line: str) -> str:
        """Return the answer to one request."""
        verb, *arguments = line.split("\t")
        try:
            request = self._instance.engine.server.interpret(self._instance.context, verb, arguments)
            await self._answerers[request.verb](request)
        except NotFound as error:
            return "missing" if verb == LogVerb.RESTORE.value else f"error {_line(error)}"
        except YobanError as error:
            log.warning("%s: %s", line.replace("\t", " "), error)
            return f"error {_line(error)}"
        except Exception as error:
            log.exception("%s failed", line.replace("\t", " "))
            return f"error {_line(error)}"
        return "ok"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
