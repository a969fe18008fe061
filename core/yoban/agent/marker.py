"""`yoban.json` on the data volume: whose data it is, whether it is complete, and whether its server reigned.

Guarantees: a reading sees a whole marker or none (written beside and renamed, synced with its folder). The data itself is
judged by the engine.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from yoban.errors import IntegrityError
from yoban.model.instance import Marker
from yoban.plugins import InstanceContext

FILE = "yoban.json"


def marker_file(ctx: InstanceContext) -> Path:
    """Where the marker is: beside the data folder, on the same volume."""
    return ctx.data.parent / FILE


def read_marker(ctx: InstanceContext) -> Marker | None:
    """Return the marker, None when there is none. Blocking. Raises IntegrityError for one that cannot be read."""
    file = marker_file(ctx)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Marker)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise IntegrityError("the volume's marker cannot be read", object=str(file), cause=str(error)) from error


def write_marker(ctx: InstanceContext, marker: Marker) -> None:
    """Replace the marker, durably. Blocking."""
    file = marker_file(ctx)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("wb") as out:
        out.write(msgspec.json.encode(marker) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def holds_data(ctx: InstanceContext) -> bool:
    """Whether there is anything in the data folder, or in that of the log. Blocking."""
    folders = [ctx.data] + ([ctx.log] if ctx.log is not None else [])
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def wipe(ctx: InstanceContext) -> None:
    """Empty the data folder and that of the log; the folders themselves stay, or are made. Blocking."""
    for folder in (ctx.data, ctx.log):
        if folder is None:
            continue
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for item in folder.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
