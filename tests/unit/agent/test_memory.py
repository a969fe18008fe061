"""Memory that was freed goes back to the machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from yoban.agent import memory
from yoban.kube.clock import SystemClock

HOARD = """
import asyncio, ctypes, os
from yoban.agent import memory
from yoban.kube.clock import SystemClock

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")

# Two thousand buffers of 64 KiB, and one behind them that stays: without help the heap stays as large.
held = [b"x" * (65536 + n % 2) for n in range(2000)]
last = b"y" * 65536
full = resident()
del held
kept = resident()

async def main():
    memory.EVERY = 0.01
    task = asyncio.create_task(memory.give_back(SystemClock()))
    async with asyncio.timeout(30):
        while resident() > full - (100 << 20):
            await asyncio.sleep(0.01)
    task.cancel()

asyncio.run(main())
print(full - kept >> 20, full - resident() >> 20)
"""


def test_what_was_freed_is_returned() -> None:
    limits = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 20)}
    done = subprocess.run([sys.executable, "-c", HOARD], capture_output=True, text=True, timeout=60, env=limits)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before < 50, "this test shows nothing: the library gave the memory back by itself"
    assert after >= 100


async def test_it_ends_where_the_library_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    async with asyncio.timeout(5):
        await memory.give_back(SystemClock())
