"""Programs of this machine: run as the server's user, with progress for whoever waits."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql/15/bin")
USER = "postgres" if os.getuid() == 0 else ""
SEGMENT = 16 << 20
MIB = 1 << 20
STARTED = time.monotonic()


class BenchError(Exception):
    """The bench cannot go on."""


def say(text: str) -> None:
    """Print progress."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def as_user(*words: str | Path) -> list[str]:
    """A command line as the server's user; servers refuse to run as root."""
    change = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"] if USER else []
    return [*change, *map(str, words)]


async def run(words: Sequence[str], *, stdin: bytes | None = None, deadline: float = 600.0) -> str:
    """Run a program to its end and return what it printed. Raises BenchError when it fails."""

    def work() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            list(words), input=stdin or b"", capture_output=True, timeout=deadline, cwd="/", check=False
        )

    done = await asyncio.to_thread(work)
    if done.returncode:
        told = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise BenchError(f"{' '.join(words)[:300]} failed with {done.returncode}: {told[-1500:]}")
    return done.stdout.decode()


async def own(*paths: Path) -> None:
    """Give paths to the server's user."""
    if USER:
        await run(["chown", "-R", f"{USER}:", *map(str, paths)])


async def folder(path: Path) -> Path:
    """Make an empty folder of the server's user, mode 0700."""
    await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    await own(path)
    return path


async def build(source: Path, program: Path) -> Path:
    """Compile one C file, as the image does it."""
    await run(["cc", "-O2", "-static", "-o", str(program), str(source)])
    return program


async def settle() -> None:
    """Write out what earlier measurements left in memory, so that it is not on the next one's account."""
    await run(["sync"])


def missing(programs: Mapping[str, str]) -> list[str]:
    """What must be installed and is not: packages, by the programs that are needed."""
    return [package for program, package in programs.items() if shutil.which(program) is None]


def resident(pids: Sequence[int]) -> float:
    """Resident memory of processes in MB (10^6 bytes); pages they share count for each of them."""
    kilobytes = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024 / 1e6


def describe() -> dict[str, object]:
    """What was measured on."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": os.cpu_count(),
        "cpu": model[0] if model else "",
        "kernel": os.uname().release,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": sys.version.split()[0],
        "load_at_start": os.getloadavg()[0],
    }
