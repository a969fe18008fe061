"""A process that restores one backup: a task as JSON on standard input, bytes and seconds as JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from yoban.model.instance import StoreDocument
from yoban.plugins.registry import Registry
from yoban.testing.context import make_context

from tests.bench.machine import own, run
from tests.bench.rig import repository


async def restore(engine: str, version: str, store: StoreDocument, backup: str, target: Path) -> dict[str, float]:
    """Put the files of a backup into an empty folder, where the engine wants them."""
    recovery = Registry.load((engine, "s3"), ()).engine(engine).recovery
    assert recovery is not None
    with tempfile.TemporaryDirectory() as scratch:
        context = make_context(Path(scratch), version=version, data=target)
        async with repository(store) as repo:
            began = time.monotonic()
            manifest = await repo.backups.manifest(backup)
            done = await repo.reader(manifest).restore(lambda path: recovery.place(context, path))
            return {"bytes": done.total, "seconds": time.monotonic() - began}


async def in_process(engine: str, version: str, store: StoreDocument, backup: str, target: Path) -> dict[str, float]:
    """Restore in a process of its own; return bytes and seconds, interpreter start not counted."""
    task = {
        "engine": engine,
        "version": version,
        "store": msgspec.to_builtins(store),
        "backup": backup,
        "target": str(target),
    }
    words = ["env", f"PYTHONPATH={':'.join(sys.path)}", sys.executable, "-m", "tests.bench.restoring"]
    done: dict[str, float] = json.loads(await run(words, stdin=json.dumps(task).encode()))
    await own(target)
    return done


if __name__ == "__main__":
    task = json.load(sys.stdin)
    store, target = msgspec.convert(task["store"], StoreDocument), Path(task["target"])
    json.dump(asyncio.run(restore(task["engine"], task["version"], store, task["backup"], target)), sys.stdout)
