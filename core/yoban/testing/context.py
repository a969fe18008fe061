"""An `InstanceContext` on a temporary folder, and processes that really run.

Guarantees that folders exist and lie below the folder given. Programs run as the test's own user, with no clean room
around them; the TLS files are named but not made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from yoban.errors import DeadlineExceeded, NotFound
from yoban.plugins import Account, Durability, Finished, InstanceContext, Processes, TlsFiles

_KEPT = 64 * 1024
_GRACE = 5.0  # seconds between TERM and KILL, as `Processes.run` promises


class LocalProcesses(Processes):
    """Runs programs of this machine, as the test's user."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Finished:
        """Run a program to its end. Raises `NotFound` and `DeadlineExceeded` as the contract says."""
        clean = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **(env or {})}
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, env=clean, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe
            )
        except (FileNotFoundError, PermissionError) as error:
            raise NotFound("there is no such program", object=argv[0], cause=str(error)) from error
        try:
            async with asyncio.timeout(deadline):
                out, err = await process.communicate(stdin or b"")
        except TimeoutError as error:
            raise DeadlineExceeded(f"did not end within {deadline} s", object=argv[0]) from error
        finally:
            await _end(process)
        assert process.returncode is not None
        return Finished(process.returncode, out[-_KEPT:], err[-_KEPT:])


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def make_context(folder: Path, **changes: Any) -> InstanceContext:
    """Return a context of instance `orders-1` of Database `shop/orders`, with its folders below `folder` made.

    Args:
        folder: an empty folder, pytest's `tmp_path` for example.
        changes: attributes of `InstanceContext` to set otherwise.
    """
    paths = {name: folder / name for name in ("run", "tmp", "tls")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    tls = paths.pop("tls")
    context = InstanceContext(
        namespace="shop",
        database="orders",
        name="orders-1",
        number=1,
        incarnation="0123456789ab",
        version="",
        data=folder / "volume" / "data",
        log=None,
        settings={},
        engine_config={},
        durability=Durability(),
        accounts={"owner": Account("app", "p'a\\s$s \"w%rd")},
        tls=TlsFiles(tls / "ca.crt", tls / "tls.crt", tls / "tls.key", tls / "client.crt", tls / "client.key"),
        peers=(),
        host="127.0.0.1",
        port=0,
        memory=256 * 1024 * 1024,
        cpus=1.0,
        ask=("false",),
        processes=LocalProcesses(),
        **paths,
    )
    context = replace(context, **changes)
    context.data.parent.mkdir(parents=True, exist_ok=True)
    return context
