"""The image's programs on this machine, and SQL by its client beside a server.

Guarantees that a statement that fails ends the measure, and that no password is on a command line: the client is let in by
the user of the operating system, over the server's socket.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deploy.lab import images
from tests.bench.machine import as_user, run
from tests.integration.mysql.programs import install

IMAGE = "mysql:9.7"
VERSION = "9.7"


def bring(folder: Path) -> Path:
    """Copy the programs of the lab's image, which is built when missing; return their folder, which is first on PATH now."""
    if images.identity(IMAGE) is None:
        images.ensure([IMAGE])
    programs = install(images.unpacked(IMAGE), folder)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return programs


def client(socket: Path, *words: str) -> list[str]:
    """Return the command line of a client at a server."""
    return command("mysql", socket, "--batch", "--skip-column-names", *words)


def command(program: str, socket: Path, *words: str) -> list[str]:
    """Return the command line of a program that speaks to a server."""
    found = shutil.which(program)
    assert found is not None, program
    return [found, "--no-defaults", f"--socket={socket}", "--user=yoban", *words]


async def sql(socket: Path, text: str, *, stdin: bytes = b"", deadline: float = 600.0, ours: bool = False) -> str:
    """Run SQL at a server as its agent; return its rows.

    Args:
        socket: of the server.
        text: statements.
        stdin: more of them, run after `text`.
        deadline: seconds for all of them.
        ours: the agent is this process itself, and not one of the server's user.

    Raises:
        BenchError: a statement failed.
    """
    words = client(socket) if ours else as_user(*client(socket))
    return (await run(words, stdin=text.encode() + b";\n" + stdin, deadline=deadline)).strip()
