"""What a base backup consists of. Written last, by conditional put: no manifest, no backup.

Guarantees: with the manifest alone every byte of the backup can be found, verified and put back. It holds no secret. Fields
are only ever added, each with a default that means "as before".
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from yoban.errors import IntegrityError
from yoban.model.instance import Struct
from yoban.plugins import BackupFacts, Position
from yoban.repository.codec import FORMAT, ZSTD, damaged, seal_struct, unseal

KIND = "manifest"


class BackupSummary(Struct):
    """A base backup without its files.

    Attributes:
        id: in the repository.
        engine, version: engine, and full version of the server.
        system_id: the engine's own id of the data.
        incarnation, instance, term: where it was made.
        begin_line, begin_position, begin_time: when the copy began (UTC).
        line, end_position, end_time: from here on it is consistent (UTC; never earlier than its last commit).
        first_segment, last_segment: segments between which everything is needed; "" without a log.
        segment_bytes: size of a full segment, 0 when segments have no fixed size.
        frozen_seconds: how long writes were held back.
        facts: the engine's notes.
        bytes, stored_bytes: plain and stored size.
        started, completed: when making it began and when the manifest was written (UTC).
        trace: id of the trace that made it, or "".
    """

    format: int = FORMAT
    id: str
    engine: str
    version: str = ""
    system_id: str = ""
    incarnation: str = ""
    instance: str = ""
    term: int = 0
    begin_line: str = ""
    begin_position: str
    begin_time: datetime
    line: str = ""
    end_position: str
    end_time: datetime
    first_segment: str = ""
    last_segment: str = ""
    segment_bytes: int = 0
    frozen_seconds: float = 0.0
    facts: dict[str, str] = msgspec.field(default_factory=dict)
    bytes: int = 0
    stored_bytes: int = 0
    started: datetime
    completed: datetime
    trace: str = ""

    def matching(self) -> BackupFacts:
        """Return what an engine's targets are matched with."""
        return BackupFacts(
            id=self.id,
            line=self.line,
            begin=Position(self.begin_position),
            end=Position(self.end_position),
            begin_time=self.begin_time,
            end_time=self.end_time,
            facts=dict(self.facts),
        )


class ManifestObject(Struct):
    """A data object: number, bytes stored, bytes plain, SHA-256 of the stored bytes (header included)."""

    number: int
    size: int
    plain: int
    sha256: str


class Piece(Struct, array_like=True, omit_defaults=False):
    """A part of a file: index in `Manifest.objects`, offset in that object's plain bytes, offset in the file, length."""

    object: int
    start: int
    offset: int
    length: int


class ManifestFile(Struct):
    """A file: path as the engine named it, size, permission bits, modification time (seconds), where its bytes are."""

    path: str
    size: int
    mode: int = 0o600
    mtime: float = 0.0
    pieces: list[Piece] = msgspec.field(default_factory=list)


class ManifestDirectory(Struct):
    """A folder that must exist."""

    path: str
    mode: int = 0o700


class ManifestLink(Struct):
    """A symbolic link and the text of its target."""

    path: str
    target: str


class Manifest(BackupSummary):
    """A base backup with everything in it. Folders stand before what lies in them."""

    directories: list[ManifestDirectory] = msgspec.field(default_factory=list)
    files: list[ManifestFile] = msgspec.field(default_factory=list)
    links: list[ManifestLink] = msgspec.field(default_factory=list)
    objects: list[ManifestObject] = msgspec.field(default_factory=list)


def seal_manifest(manifest: Manifest) -> bytes:
    """Make the manifest's object. Blocks; the same manifest always gives the same bytes."""
    return seal_struct(KIND, manifest.id, manifest, ZSTD)


def open_summary(blob: bytes, key: str, backup: str) -> BackupSummary:
    """Return the summary in a manifest object. Raises IntegrityError, Unsupported."""
    try:
        return msgspec.json.decode(unseal(blob, key, KIND, backup), type=BackupSummary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(key, f"its content cannot be read: {error}") from error


def open_manifest(blob: bytes, key: str, backup: str) -> Manifest:
    """Return a whole manifest, checked: every piece lies in an object and in its file, no path leads outside.

    Raises:
        IntegrityError: damaged, or it contradicts itself.
        Unsupported: written by a release with another format.
    """
    try:
        manifest = msgspec.json.decode(unseal(blob, key, KIND, backup), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(key, f"its content cannot be read: {error}") from error
    check(manifest, key)
    return manifest


def check(manifest: Manifest, key: str) -> None:
    """Check that a manifest does not contradict itself. Pure. Raises IntegrityError."""
    seen: set[str] = set()
    paths = [entry.path for entry in manifest.directories] + [entry.path for entry in manifest.files]
    for path in paths + [entry.path for entry in manifest.links]:
        check_path(path, key)
        if path in seen:
            raise damaged(key, f"{path!r} is in it twice")
        seen.add(path)
    for file in manifest.files:
        end = 0
        for piece in file.pieces:
            if piece.length <= 0 or piece.offset < end or piece.offset + piece.length > file.size:
                raise damaged(key, f"the pieces of {file.path!r} do not fit")
            end = piece.offset + piece.length
            if not 0 <= piece.object < len(manifest.objects):
                raise damaged(key, f"{file.path!r} lies in an object that is not listed")
            if not 0 <= piece.start <= manifest.objects[piece.object].plain - piece.length:
                raise damaged(key, f"{file.path!r} lies outside its object")


def check_path(path: str, key: str) -> None:
    """Check that a path is relative and stays inside. Pure. Raises IntegrityError."""
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise IntegrityError(f"{path!r} is no path of a backup", object=key, reason="ObjectDamaged")
