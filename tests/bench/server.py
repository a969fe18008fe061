"""SQL sessions, and PostgreSQL servers without an agent: the peer's, and the floor's."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Self

from tests.bench.machine import BINARIES, USER, as_user, own, run

_TOKEN = "--answered--"


class Session:
    """A psql that stays connected. An async context manager; `ask` is for one task at a time."""

    def __init__(self, socket: Path, port: int) -> None:
        self._words = as_user(
            BINARIES / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket, "-p", str(port), "-U", "postgres"
        )
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._words, "-d", "postgres", stdin=pipe, stdout=pipe, cwd="/"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def ask(self, text: str, deadline: float = 600.0) -> str:
        """Run SQL and return its rows. Raises RuntimeError when the session ends."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{text};\n\\echo {_TOKEN}\n".encode())
        await process.stdin.drain()
        lines: list[str] = []
        async with asyncio.timeout(deadline):
            while (line := (await process.stdout.readline()).decode()) != f"{_TOKEN}\n":
                if not line:
                    raise RuntimeError(f"the session has ended at: {text[:200]}")
                lines.append(line.rstrip("\n"))
        return "\n".join(lines)


class PlainServer:
    """PostgreSQL on a data directory that came from elsewhere; `settings` replace the configuration it came with."""

    def __init__(self, data: Path, settings: dict[str, str], port: int) -> None:
        self.data = data
        self.port = port
        self.log = data.parent / f"{data.name}.log"
        self._settings = {
            "port": str(port),
            "listen_addresses": "",
            "unix_socket_directories": str(data),
            "log_line_prefix": "%m [%p] ",
            "log_timezone": "UTC",
            **settings,
        }

    async def start(self, *, signal: str = "") -> None:
        """Start; `signal` is the name of a signal file to make first."""
        lines = [f"{name} = '{value}'\n" for name, value in self._settings.items()]
        (self.data / "postgresql.conf").write_text("".join(lines))
        (self.data / "pg_hba.conf").write_text("local all all trust\n")
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if signal:
            (self.data / signal).touch()
        await own(self.data)
        self.log.touch()
        if USER:
            shutil.chown(self.log, USER)
        wait = "-W" if signal else "-w"
        await run(as_user(BINARIES / "pg_ctl", "-D", self.data, "-l", self.log, wait, "-t", "60", "start"))

    async def stop(self, mode: str = "immediate") -> None:
        """Stop, if it runs."""
        if (self.data / "postmaster.pid").exists():
            await run(as_user(BINARIES / "pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop"))

    def session(self) -> Session:
        """A session with it."""
        return Session(self.data, self.port)
