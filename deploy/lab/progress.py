"""Visible progress on stderr. Guarantees one line a step with the seconds it took; keeps no log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_START = time.monotonic()


def say(text: str) -> None:
    """Print one line with the seconds since the program started. May be called from any thread."""
    sys.stderr.write(f"[lab {time.monotonic() - _START:6.1f}s] {text}\n")
    sys.stderr.flush()


@contextmanager
def step(text: str, quiet: float = 0.0) -> Iterator[None]:
    """Say `text`, run the body, say how long it took (seconds) unless it took less than `quiet`."""
    say(f"{text} …")
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    if took >= quiet:
        say(f"{text}: done in {took:.1f} s")
