"""Writing files of an engine plugin's own beside the server's. For plugin authors; core does not use it.

Guarantees: a file is either the old or the new one, also after a crash, and belongs to whom its folder belongs to (an
agent that runs as another user than the server must not lock the server out). Does blocking I/O; small files only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

TEMPORARY = ".yoban-tmp"


def own(path: Path) -> None:
    """Give `path` to the owner of its folder, where this process may do that."""
    if os.geteuid() == 0:
        parent = path.parent.stat()
        os.chown(path, parent.st_uid, parent.st_gid, follow_symlinks=False)


def replace_file(path: Path, text: str, mode: int = 0o600) -> bool:
    """Make `path` hold `text`; return whether it had to be written."""
    data = text.encode()
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    temporary = path.with_name(path.name + TEMPORARY)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        own(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return True


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest (SHA-256, hexadecimal) of what the files hold, in this order; "" while one of them is missing."""
    found = hashlib.sha256()
    try:
        for path in paths:
            found.update(path.read_bytes())
    except FileNotFoundError:
        return ""
    return found.hexdigest()


def remove_file(path: Path) -> bool:
    """Remove `path`; return whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_folder(path.parent)
    return True


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, its parents too, owned like the folder above."""
    if path.is_dir():
        return
    if not path.parent.exists():
        make_folder(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    own(path)


def empty_folder(path: Path) -> None:
    """Remove everything in a folder, never what links in it point to; the folder stays. Absent is fine."""
    if not path.is_dir():
        return
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            with contextlib.suppress(FileNotFoundError):
                entry.unlink()


def folder_bytes(*roots: Path) -> int:
    """Return the bytes of all files below the folders; what vanishes meanwhile is left out."""
    total = 0
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 (hot loop)
    return total
