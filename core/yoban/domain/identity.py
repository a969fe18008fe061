"""Names that follow from a Database's identity.

Guarantees: the same Database always gets the same names, and a Database that is deleted and made again gets others for
everything that holds data. Does not guarantee that a name is free in the cluster.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime


def incarnation(uid: str) -> str:
    """Return the id of one life of a Database's data: the first 12 hex digits of SHA-256 over its `metadata.uid`.

    Raises:
        ValueError: `uid` is empty; two Databases would share their data.
    """
    if not uid:
        raise ValueError("a Database without a uid has no incarnation")
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def repository_path(namespace: str, database: str, incarnation: str) -> str:
    """Return where an incarnation's backups and log lie below a store's prefix: `<namespace>/<name>/<incarnation>`."""
    return f"{namespace}/{database}/{incarnation}"


def backup_id(asked: datetime, uid: str) -> str:
    """Return the repository's id of a backup: `<UTC yyyymmddThhmmssZ>-<6 hex digits of the Backup's uid>`.

    Args:
        asked: when the Backup was made (its creation time), with an offset.
        uid: `metadata.uid` of the Backup.
    """
    digits = hashlib.sha256(uid.encode()).hexdigest()[:6]
    return f"{asked.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digits}"


def instance_name(database: str, number: int) -> str:
    """Return the name of instance `number`: `<database>-<number>`."""
    return f"{database}-{number}"


def instance_number(database: str, name: str) -> int | None:
    """Return the number in an instance's name, None when the name is not one of this Database's instances."""
    head, _, digits = name.rpartition("-")
    if head != database or not digits.isascii() or not digits.isdigit() or digits.startswith("0"):
        return None
    return int(digits)
