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

from tests.bench.ours import repository


async def restore(store: StoreDocument, backup: str, target: Path) -> dict[str, float]:
    """Put the files of a backup into an empty folder, where the engine wants them."""
    recovery = Registry.load(("postgres", "s3"), ()).engine("postgres").recovery
    assert recovery is not None
    with tempfile.TemporaryDirectory() as scratch:
        context = make_context(Path(scratch), version="15", data=target)
        async with repository(store) as repo:
            began = time.monotonic()
            manifest = await repo.backups.manifest(backup)
            done = await repo.reader(manifest).restore(lambda path: recovery.place(context, path))
            return {"bytes": done.total, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    task = json.load(sys.stdin)
    found = restore(msgspec.convert(task["store"], StoreDocument), task["backup"], Path(task["folder"]))
    json.dump(asyncio.run(found), sys.stdout)
