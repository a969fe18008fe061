"""Tables that CLONE leaves empty: which there are, and their files, which are copied beside it.

Guarantees: tables of MyISAM, CSV and ARCHIVE are whole in plain files while writes are held back (FLUSH TABLES closes
them); that there are as many files as tables is checked. MEMORY tables are empty in a copy, as after a restart. A table of
any other engine, or with files elsewhere than in its schema's folder, is refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yoban.errors import Terminal, Unavailable
from yoban.plugins.files import make_folder

from yoban_mysql.session import Session

FILES = {"MyISAM": (".MYD", ".MYI"), "CSV": (".CSV", ".CSM"), "ARCHIVE": (".ARZ",)}
"""Endings of a table's files, by engine (MySQL reference manual, "Alternative Storage Engines")."""
MOST_NAMED = 20
FIX = "ALTER TABLE … ENGINE=InnoDB, or drop them"
_ENDINGS = tuple(ending for endings in FILES.values() for ending in endings)
_SYSTEM = frozenset({"mysql", "sys", "performance_schema", "information_schema", "ndbinfo"})
_PIECE = 4 << 20
_TABLES = (
    "SELECT table_schema AS `schema`, table_name AS name, engine FROM information_schema.tables"
    " WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB'"
    " AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'ndbinfo')"
    " ORDER BY table_schema, table_name"
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of another engine than InnoDB."""

    schema: str
    name: str
    engine: str


async def survey(session: Session) -> list[Table]:
    """Return the tables whose files must be copied.

    Raises:
        Terminal: there are tables that cannot be carried (reason `TablesNotCarried`): a copy would have them empty.
    """
    rows = await session.rows(_TABLES, deadline=60.0)
    found = [Table(str(row["schema"]), str(row["name"]), str(row["engine"])) for row in rows]
    refuse([f"{one.schema}.{one.name} ({one.engine})" for one in found if one.engine not in FILES])
    return found


def refuse(names: Sequence[str]) -> None:
    """Raise Terminal by the names of tables that cannot be carried, if there are any."""
    if not names:
        return
    raise Terminal(
        "tables would be empty in a backup",
        object=named(names),
        fix=FIX,
        reason="TablesNotCarried",
    )


def named(names: Sequence[str]) -> str:
    """Return names for a message: the first of them, where there are many."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def files(data: Path) -> list[Path]:
    """Return the tables' files, relative to the data folder. Blocking.

    Raises:
        Terminal: a file lies elsewhere (DATA DIRECTORY, INDEX DIRECTORY).
    """
    found: list[Path] = []
    for folder in sorted(data.iterdir()):
        if folder.name in _SYSTEM or folder.name.startswith("#") or not folder.is_dir():
            continue
        found += [one.relative_to(data) for one in sorted(folder.iterdir()) if one.name.endswith(_ENDINGS)]
    refuse([str(one) for one in found if (data / one).is_symlink()])
    return found


def take(data: Path, folder: Path, tables: Sequence[Table], given_up: threading.Event) -> None:
    """Copy the files of these tables from the data folder into another one, until `given_up`. Blocking.

    Raises:
        Terminal: a file lies elsewhere.
        Unavailable: there are not as many files as tables.
    """
    found = files(data)
    for engine, endings in FILES.items():
        wanted = sum(table.engine == engine for table in tables)
        for ending in endings:
            have = sum(one.name.endswith(ending) for one in found)
            if have != wanted:
                raise Unavailable(
                    f"there are {wanted} tables of {engine} and {have} files *{ending}",
                    object=str(data),
                    fix="CHECK TABLE, and remove files that belong to no table",
                    reason="TableFilesDiffer",
                )
    make_folder(folder)
    for one in found:
        (folder / one.parent).mkdir(exist_ok=True)
        with (data / one).open("rb") as source, (folder / one).open("wb") as target:
            while not given_up.is_set() and (piece := source.read(_PIECE)):
                target.write(piece)


def put(folder: Path, copy: Path) -> None:
    """Move the files that `take` has copied over the empty ones of a copy that CLONE made. Blocking."""
    for one in files(folder):
        (folder / one).replace(copy / one)
