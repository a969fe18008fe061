"""Memory that was freed goes back to the machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest
from yoban.runtime import memory

HOARD = """
import asyncio, os
from yoban.runtime.memory import Memory, share_heap

share_heap()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")

# Two thousand buffers, and one behind them that stays: without help the heap stays as large.
held = [b"x" * (65536 + n % 2) for n in range(2000)]
last = b"y" * 65536
full = resident()
del held
kept = resident()

async def main():
    task = asyncio.create_task(Memory(0.01).run())
    async with asyncio.timeout(30):
        while resident() > full - (100 << 20):
            await asyncio.sleep(0.01)
    task.cancel()

asyncio.run(main())
print(full - kept >> 20, full - resident() >> 20)
"""


def test_what_was_freed_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", HOARD], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before < 50, "this test shows nothing: the library gave the memory back by itself"
    assert after >= 100


async def test_who_did_nothing_returns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each return costs milliseconds of processor time."""
    returned: list[int] = []
    used = 1.0
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=returned.append))
    monkeypatch.setattr(memory.time, "process_time", lambda: used)
    task = asyncio.create_task(memory.Memory().run())
    await asyncio.sleep(100)
    assert len(returned) == 1
    used += memory.BUSY
    await asyncio.sleep(100)
    assert len(returned) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    memory.share_heap()
    async with asyncio.timeout(5):
        await memory.Memory().run()
