"""Runs short-lived programs of the engine image with a clean environment of ours.

Guarantees: a program is ended at its deadline, and when the caller is cancelled, with all it started in its group; output
is cut to the last 64 KiB. It stays in the agent's session, so that the supervisor ends it with the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from yoban.errors import DeadlineExceeded, NotFound
from yoban.plugins import Finished, Processes

KEPT = 64 * 1024
TERM_TO_KILL = 5.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageProcesses(Processes):
    """`Processes` of the container we are in. `home` is the engine user's home folder."""

    def __init__(self, home: str, tmp: Path) -> None:
        self._base = {
            "PATH": PATH,
            "HOME": home,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TMPDIR": str(tmp),
        }

    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Finished:
        """See `Processes.run`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env={**self._base, **(env or {})},
                cwd=cwd,
                stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                process_group=0,
            )
        except FileNotFoundError as error:
            raise NotFound("there is no such program in the image", object=argv[0], cause=str(error)) from error
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(deadline):
                out, err, _, code = await asyncio.gather(
                    _last(process.stdout), _last(process.stderr), _feed(process.stdin, stdin), process.wait()
                )
        except TimeoutError:
            await _end(process)
            raise DeadlineExceeded(f"it did not end within {deadline:g} s", object=argv[0]) from None
        except BaseException:
            await asyncio.shield(_end(process))
            raise
        return Finished(code, out, err)


async def _feed(pipe: asyncio.StreamWriter | None, data: bytes | None) -> None:
    if pipe is None:
        return
    with contextlib.suppress(ConnectionError):
        pipe.write(data or b"")
        await pipe.drain()
    pipe.close()


async def _last(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(KEPT):
        kept = (kept + chunk)[-KEPT:]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERM_TO_KILL):
                await process.wait()
                return
