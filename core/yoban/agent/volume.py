"""The volumes that a restore fills: whether it fits on them, and what is told when they do not take it.

Guarantees: a refusal names what is needed and what is free. Does not guarantee that what fits now fits to the end: replay
and its log need room, too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from yoban.domain.summary import size
from yoban.errors import Terminal
from yoban.plugins import InstanceContext
from yoban.repository import Manifest

FULL = (errno.ENOSPC, errno.EDQUOT)


def check_room(context: InstanceContext, manifest: Manifest, place: Callable[[str], Path]) -> None:
    """Check that a base backup fits. Blocking. Raises Terminal (NoSpace), or OSError.

    What an earlier attempt left is gone by now: what is free is all there is. A log on a volume of its own counts there.
    """
    needed = {context.data.parent: 0}
    for file in manifest.files:
        apart = context.log is not None and context.log in place(file.path).parents
        volume = context.log.parent if context.log is not None and apart else context.data.parent
        needed[volume] = needed.get(volume, 0) + file.size
    for volume, wanted in needed.items():
        found = os.statvfs(volume)
        free = found.f_bavail * found.f_frsize
        # Some file systems do not tell their size.
        if found.f_blocks and wanted > free:
            raise Terminal(
                f"the backup needs {size(wanted)} ({wanted} bytes), the volume has {size(free)} free ({free} bytes)",
                object=f"backup {manifest.id}, volume {volume}",
                fix=f"enlarge {_field(context, volume)}",
                reason="NoSpace",
            )


def refused(context: InstanceContext, error: OSError) -> Terminal:
    """What is told of a volume that did not take what was written to it."""
    where = str(error.filename or context.data.parent)
    if error.errno in FULL:
        volume = context.log.parent if context.log is not None and where.startswith(f"{context.log}/") else None
        return Terminal(
            "the volume is full",
            object=where,
            cause=str(error),
            fix=f"enlarge {_field(context, volume)}",
            reason="NoSpace",
        )
    return Terminal(
        "the volume does not take the data",
        object=where,
        cause=str(error),
        fix="look at the volume and its node; then the restore goes on by itself",
        reason="VolumeFailed",
    )


def _field(context: InstanceContext, volume: Path | None) -> str:
    apart = context.log is not None and volume == context.log.parent
    return "spec.storage.log.size" if apart else "spec.storage.size"
