"""The external system of real runs: a folder, which survives whoever writes to it.

It guards itself as the simulated one does: an older generation is refused, and anything for what was cleaned up.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from yoban.errors import Retryable


class Folder:
    """What is there, by the uid of the object it is for. All but `ensure` and `clean` is blocking and quick.

    Args:
        root: an existing folder; all processes use the same.
        on_call: called with the uid before each change.
    """

    def __init__(self, root: Path, on_call: Callable[[str], None] = lambda uid: None) -> None:
        self._root = root
        self._on_call = on_call

    # -- what the judge looks at

    @property
    def things(self) -> dict[str, tuple[int, int]]:
        """(generation, value) by uid."""
        found = {}
        for file in self._root.glob("*.thing"):
            generation, value = file.read_text().split()
            found[file.stem] = (int(generation), int(value))
        return found

    @property
    def gone(self) -> set[str]:
        """Uids that were cleaned up."""
        return {file.stem for file in self._root.glob("*.gone")}

    def fail(self, failing: bool) -> None:
        """Have each call fail, or succeed again."""
        if failing:
            (self._root / "failing").touch()
        else:
            (self._root / "failing").unlink(missing_ok=True)

    # -- what an operator does

    async def ensure(self, uid: str, generation: int, value: int) -> None:
        """Make it so; nothing when it is. Raises `Retryable`."""
        if self._read(uid) != (generation, value):
            self._on_call(uid)
            await asyncio.to_thread(self._put, uid, generation, value)

    async def clean(self, uid: str) -> None:
        """Take it away; may be called twice. Raises `Retryable`."""
        self._on_call(uid)
        await asyncio.to_thread(self._clean, uid)

    def _read(self, uid: str) -> tuple[int, int] | None:
        try:
            generation, value = (self._root / f"{uid}.thing").read_text().split()
        except OSError:
            return None
        return int(generation), int(value)

    def _put(self, uid: str, generation: int, value: int) -> None:
        with self._alone():
            before = self._read(uid)
            if (self._root / f"{uid}.gone").exists() or (before is not None and before[0] > generation):
                raise Retryable("too late", object=uid)
            part = self._root / f"{uid}.part"
            part.write_text(f"{generation} {value}")
            part.rename(self._root / f"{uid}.thing")

    def _clean(self, uid: str) -> None:
        with self._alone():
            (self._root / f"{uid}.gone").touch()
            (self._root / f"{uid}.thing").unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self._root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self._root / "failing").exists():
                raise Retryable("the external system failed", object=os.fspath(self._root))
            yield
