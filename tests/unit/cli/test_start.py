"""What is rarely needed is not loaded at the start: memory that each operator and each agent would spend."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATER = {
    "aiobotocore", "aiohttp", "asyncmy", "asyncpg", "botocore", "cryptography", "google_crc32c", "kubernetes_asyncio",
    "numpy", "yaml",
}  # fmt: skip
PROGRAMS = {
    "operator": """
import asyncio
from yoban.cli.operator import read_settings
from yoban.plugins.registry import Registry
from yoban.runtime import HealthServer

read_settings()
Registry.load()

async def serve():
    pages = HealthServer("127.0.0.1", 0)
    task = asyncio.create_task(pages.run())
    await pages.started()
    await pages.stop()
    await task

asyncio.run(serve())
""",
    "agent": """
import yoban.agent.main
from yoban.plugins.registry import Registry

Registry.load(("postgres", "mysql", "s3"))
""",
    "store": """
import asyncio
from yoban.plugins import StoreConfig
from yoban.plugins.registry import Registry

async def use():
    config = StoreConfig(bucket="bucket", endpoint="http://127.0.0.1:1")
    async with Registry.load().store_provider("s3").open(config):
        pass

asyncio.run(use())
""",
}
NEVER = {"operator": LATER, "agent": LATER, "store": {"aiohttp.web", "kubernetes_asyncio", "numpy", "yaml"}}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_load_later_what_is_rarely_needed(program: str) -> None:
    script = f"{PROGRAMS[program]}\nimport sys; print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(set(done.stdout.split()) & NEVER[program]) == []
