"""What a process has used, from /proc: processor time and resident memory. Sizes are bytes, times are seconds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time so far (user and system), resident memory now, and the most that it ever was."""

    cpu: float
    resident: int
    peak: int


def usage(pid: int) -> Usage:
    """Of a live process. Raises OSError when it is gone."""
    folder = Path(f"/proc/{pid}")
    return parse((folder / "stat").read_text(), (folder / "status").read_text())


def parse(stat: str, status: str, tick: int = _TICK) -> Usage:
    """Of the texts of /proc/PID/stat and /proc/PID/status."""
    fields = stat.rpartition(")")[2].split()
    sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return Usage(
        (int(fields[11]) + int(fields[12])) / tick, int(sizes.get("VmRSS", 0)) * 1024, int(sizes.get("VmHWM", 0)) * 1024
    )
