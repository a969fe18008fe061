"""What the demo shows: a line of progress for each step, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Step:
    """One step of the story: what, how long in seconds, and what is worth telling of it."""

    what: str
    seconds: float = 0.0
    note: str = ""


@dataclass
class Report:
    """Prints as the story goes, and remembers for the table."""

    steps: list[Step] = field(default_factory=list)
    interactive: bool = field(default_factory=sys.stdout.isatty)
    _shown: str = ""

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Time a step; set `note` on what is yielded."""
        number = len(self.steps) + 1
        print(f"[{number:2}] {what} ...", flush=True)
        step = Step(what)
        start = time.monotonic()
        yield step
        step.seconds = time.monotonic() - start
        self._clear()
        print(f"     done in {step.seconds:.1f} s{': ' + step.note if step.note else ''}", flush=True)
        self.steps.append(step)

    def progress(self, text: str) -> None:
        """Show how far a step is; only what is new is printed."""
        text = " ".join(text.split())[:150]
        if text == self._shown or not text:
            return
        self._shown = text
        if self.interactive:
            print(f"\r\033[K     {text}", end="", flush=True)
        else:
            print(f"     {text}", flush=True)

    def _clear(self) -> None:
        if self.interactive and self._shown:
            print("\r\033[K", end="")
        self._shown = ""

    def table(self) -> None:
        """Print all steps as a table."""
        width = max(len(step.what) for step in self.steps)
        print(f"\n{'what':{width}}  {'seconds':>8}  note")
        print(f"{'-' * width}  {'-' * 8}  {'-' * 40}")
        for step in self.steps:
            print(f"{step.what:{width}}  {step.seconds:8.1f}  {step.note}")


def size(amount: float) -> str:
    """Write bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")
