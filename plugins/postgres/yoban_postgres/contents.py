"""What belongs to a base backup. Pure decisions over names, and the walk over a data directory.

Guarantees the same selection as the server's own base backup: nothing that it makes anew at the start, no temporary
relation or file, of an unlogged relation only its init fork, no log, no slots. Follows tablespaces by their links in
`pg_tblspc`; any other link is named as a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from yoban.plugins import BackupItem, DirectoryItem, FileItem, LinkItem
from yoban.plugins.files import TEMPORARY

from yoban_postgres.names import REACHED_FILE, RECOVERY_CONF, RECOVERY_SIGNAL, STANDBY_SIGNAL

EMPTY_FOLDERS = frozenset(
    {
        "pg_dynshmem",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
    }
)
"""Folders that must be there, without what is in them."""

LEFT_OUT = frozenset(
    {
        "backup_label",
        "backup_label.old",
        "backup_manifest",
        "current_logfiles",
        "postgresql.auto.conf.tmp",
        "postmaster.opts",
        "postmaster.pid",
        "tablespace_map",
        "tablespace_map.old",
        RECOVERY_CONF,
        REACHED_FILE,
        RECOVERY_SIGNAL,
        STANDBY_SIGNAL,
        "tablespaces",
    }
)
"""Names at the top of the data directory; tablespaces restored there are reached by their links."""

CONTROL = "global/pg_control"

_RELATION = re.compile(r"(\d+)(?:_(fsm|vm|init))?(?:\.(\d+))?")
_TEMPORARY_RELATION = re.compile(r"t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?")
_STEADY = frozenset({"PG_VERSION", "pg_filenode.map"})


def relation(name: str) -> tuple[str, str, int] | None:
    """Return file node, fork ("" for the main one) and number of the 1 GiB part, None when it is no relation."""
    match = _RELATION.fullmatch(name)
    return (match[1], match[2] or "", int(match[3] or 0)) if match else None


def unlogged(names: Iterable[str]) -> frozenset[str]:
    """Return the file nodes of unlogged relations of one folder: those that have an init fork."""
    found = (relation(name) for name in names)
    return frozenset(item[0] for item in found if item and item[1] == "init")


def left_out(path: str, name: str, of_unlogged: frozenset[str]) -> bool:
    """Tell whether a file or folder does not belong to a backup.

    Args:
        path: its path in the backup.
        name: its last part.
        of_unlogged: file nodes of unlogged relations in its folder.
    """
    if "/" not in path and name in LEFT_OUT:
        return True
    if name.startswith(("pgsql_tmp", "pg_internal.init")) or name.endswith(TEMPORARY):
        return True
    if path == CONTROL or (path.startswith(("pg_wal/", "pg_tblspc/")) and "/" not in path.split("/", 1)[1]):
        return True
    if not in_database(path):
        return False
    if _TEMPORARY_RELATION.fullmatch(name):
        return True
    found = relation(name)
    return found is not None and found[0] in of_unlogged and found[1] != "init"


def in_database(path: str) -> bool:
    """Tell whether a path lies in a database's folder (there relations live)."""
    parts = path.split("/")
    return (parts[0] == "base" and len(parts) == 3) or (parts[0] == "pg_tblspc" and len(parts) == 5)


def holds_pages(path: str) -> bool:
    """Tell whether the file consists of pages with checksums."""
    parts = path.split("/")
    shared = parts[0] == "global" and len(parts) == 2
    return (shared or in_database(path)) and relation(parts[-1]) is not None


def folder_items(root: Path, path: str, *, checksums: bool) -> tuple[list[BackupItem], list[tuple[Path, str]]]:
    """List one folder: its items, and the folders below to list next. A folder that vanished is empty."""
    items: list[BackupItem] = []
    below: list[tuple[Path, str]] = []
    try:
        with os.scandir(root) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except FileNotFoundError:
        return items, below
    nodes = unlogged(entry.name for entry in entries) if in_database(f"{path}/x") else frozenset[str]()
    for entry in entries:
        inner = f"{path}/{entry.name}" if path else entry.name
        if left_out(inner, entry.name, nodes):
            continue
        try:
            stat = entry.stat(follow_symlinks=inner == "pg_wal")
        except FileNotFoundError:
            continue
        if inner == "pg_wal":
            items += [DirectoryItem("pg_wal"), DirectoryItem("pg_wal/archive_status")]
        elif entry.is_symlink():
            items.append(LinkItem(inner, str(Path(entry.path).readlink())))
        elif entry.is_dir(follow_symlinks=False):
            items.append(DirectoryItem(inner, stat.st_mode & 0o777))
            if not (path == "" and entry.name in EMPTY_FOLDERS):
                below.append((Path(entry.path), inner))
        elif entry.is_file(follow_symlinks=False):
            items.append(
                FileItem(
                    path=inner,
                    source=Path(entry.path),
                    size=stat.st_size,
                    mode=stat.st_mode & 0o777,
                    mtime=stat.st_mtime,
                    may_vanish=entry.name not in _STEADY,
                    inspect=checksums and holds_pages(inner),
                )
            )
    return items, below


def tablespaces(data: Path) -> Iterator[tuple[str, Path]]:
    """Yield oid and folder of each tablespace."""
    folder = data / "pg_tblspc"
    if not folder.is_dir():
        return
    for link in sorted(folder.iterdir()):
        if link.name.isdigit() and link.is_symlink():
            yield link.name, link.resolve()
