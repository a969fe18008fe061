"""What the in-memory engine keeps: records of 128 bytes in segments of 4096, on lines that fork; and who runs.

Guarantees that what was appended is on disk when the call returns. One process only, no locks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yoban.errors import InvalidInput, Unavailable
from yoban.plugins import InstanceContext, Position, Role

RECORD = 128
SEGMENT = 4096
PER_SEGMENT = SEGMENT // RECORD


@dataclass
class Data:
    """What a folder holds: rows and records since `start`, read whole. `lines` are the forks, oldest first."""

    system: str
    line: int
    start: int
    rows: set[str]
    records: list[tuple[datetime, str | None]]
    forks: list[list[Any]]

    @property
    def count(self) -> int:
        """Number of records of the whole log."""
        return self.start + len(self.records)

    @property
    def position(self) -> Position:
        """End of the log."""
        return Position(str(self.count * RECORD))

    @property
    def texts(self) -> set[str]:
        """All texts."""
        return self.rows | {text for _, text in self.records if text is not None}


def name(line: int, segment: int) -> str:
    """Name of a log segment."""
    return f"{line:04d}-{segment:08d}"


def load(folder: Path) -> Data:
    """Read a data folder. Raises Unavailable when there is none."""
    try:
        base = json.loads((folder / "base.json").read_text())
    except FileNotFoundError as error:
        raise Unavailable("there is no data", object=str(folder)) from error
    data = Data(base["system"], base["line"], base["start"], set(base["rows"]), [], base["forks"])
    segment = data.start // PER_SEGMENT
    skip = data.start % PER_SEGMENT
    while (file := _segment_file(folder, data.line, segment)) is not None:
        data.records += decode(file.read_bytes())[skip:]
        segment, skip = segment + 1, 0
    return data


def save(folder: Path, data: Data) -> None:
    """Write everything but the log, atomically."""
    base = {
        "system": data.system,
        "line": data.line,
        "start": data.start,
        "rows": sorted(data.rows),
        "forks": data.forks,
    }
    (folder / "base.new").write_text(json.dumps(base))
    (folder / "base.new").replace(folder / "base.json")


def append(folder: Path, data: Data, records: Sequence[tuple[datetime, str | None]]) -> None:
    """Add records to the log; a segment that becomes full is noted as waiting to be archived."""
    for moment, text in records:
        segment = data.count // PER_SEGMENT
        with (folder / "log" / name(data.line, segment)).open("ab") as file:
            file.write(encode(moment, text))
        data.records.append((moment, text))
        if data.count % PER_SEGMENT == 0:
            (folder / "ready" / name(data.line, segment)).touch()


def fork(folder: Path, data: Data) -> None:
    """Leave the line: go on with a copy of the last segment on a new one."""
    parent = data.line
    data.line += 1
    data.forks.append([str(data.line), str(parent), str(data.position)])
    _go_on(folder, data, parent)


def _go_on(folder: Path, data: Data, parent: int) -> None:
    segment = data.count // PER_SEGMENT
    old = _segment_file(folder, parent, segment)
    if old is not None:
        whole = old.read_bytes()[: data.count % PER_SEGMENT * RECORD]
        (folder / "log" / name(data.line, segment)).write_bytes(whole)
    save(folder, data)


def encode(moment: datetime, text: str | None) -> bytes:
    """A record of the log. Raises InvalidInput for a text that does not fit."""
    line = json.dumps([moment.isoformat(), text]).encode()
    if len(line) >= RECORD:
        raise InvalidInput("the text is too long", fix="write less")
    return line.ljust(RECORD - 1) + b"\n"


def decode(data: bytes) -> list[tuple[datetime, str | None]]:
    """Records of a segment, up to padding or the end."""
    found = []
    for start in range(0, len(data) - RECORD + 1, RECORD):
        if data[start] == 0:
            break
        moment, text = json.loads(data[start : start + RECORD])
        found.append((datetime.fromisoformat(moment), text))
    return found


def _segment_file(folder: Path, line: int, segment: int) -> Path | None:
    """The file of a segment on a line, or on the nearest of its ancestors."""
    for number in range(line, 0, -1):
        file = folder / "log" / name(number, segment)
        if file.exists():
            return file
    return None


@dataclass
class World:
    """Every server that runs in this process, by data folder; and where an instance of a name has its data."""

    running: dict[Path, Data] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def start(self, ctx: InstanceContext) -> None:
        """Start the server of `ctx`, as it was configured."""
        self.running[ctx.data] = load(ctx.data)
        self.folders[ctx.name] = ctx.data

    def stop(self, ctx: InstanceContext) -> None:
        """End it; what was written is on disk already."""
        self.running.pop(ctx.data, None)

    def server(self, folder: Path) -> Data:
        """The running server of a folder. Raises Unavailable."""
        if folder not in self.running:
            raise Unavailable("the server does not run", object=str(folder))
        return self.running[folder]

    def role(self, folder: Path) -> tuple[Role, str]:
        """Configured role and upstream."""
        try:
            found = json.loads((folder / "role.json").read_text())
        except FileNotFoundError as error:
            raise Unavailable("it was never configured", object=str(folder)) from error
        return Role(found["role"]), found["upstream"]

    def follow(self, folder: Path) -> bool:
        """On a replica: take what the upstream has. Returns whether it is connected."""
        role, upstream = self.role(folder)
        source = self.running.get(self.folders.get(upstream, Path("/nowhere")))
        data = self.server(folder)
        if role is not Role.REPLICA or source is None:
            return False
        if data.line < source.line:
            parent, data.line, data.forks = data.line, source.line, [*source.forks]
            _go_on(folder, data, parent)
        append(folder, data, source.records[data.count - source.start :])
        return True

    def write(self, ctx: InstanceContext, text: str | None) -> None:
        """Commit a record on a primary. Raises Unavailable elsewhere."""
        data = self.server(ctx.data)
        if self.role(ctx.data)[0] is not Role.PRIMARY:
            raise Unavailable("the server is read-only", object=ctx.name)
        append(ctx.data, data, [(datetime.now(UTC), text)])
