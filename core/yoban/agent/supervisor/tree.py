"""What runs below us, read from /proc.

A server's workers may have sessions of their own, and orphans are handed to us; so what belongs to the server is found by
exclusion: all our descendants but the agent, what it started, and ourselves.
"""

from __future__ import annotations

import contextlib
import os
import signal


def _table() -> dict[int, tuple[int, int, str]]:
    found: dict[int, tuple[int, int, str]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib is not loaded here
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                rest = file.read().rpartition(b")")[2].split()
            found[int(entry)] = (int(rest[1]), int(rest[3]), rest[0].decode())
    return found


def descendants(root: int, *, without: int | None = None) -> list[int]:
    """Process ids below `root`, zombies left out; `without` is a process (with all below it, and its session) to skip."""
    table = _table()
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    stack = list(children.get(root, ()))
    while stack:
        pid = stack.pop()
        if pid == without:
            continue
        stack.extend(children.get(pid, ()))
        _, session, state = table[pid]
        if state != "Z" and (without is None or session != without):
            found.append(pid)
    return found


def members(session: int) -> list[int]:
    """Process ids of a session, zombies left out."""
    return [pid for pid, (_, number, state) in _table().items() if number == session and state != "Z"]


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to each; one that is gone already is fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
