"""Self-describing objects: one line of JSON that says what follows, then the payload.

Guarantees: an object can be read with nothing but itself (`head -1`, then `tail -n +2 | zstd -d`); one with an unknown
format, codec or cipher is refused, one whose bytes are not what was written raises `IntegrityError`. Checksums are SHA-256
over stored bytes; zstd frames carry their own check of the plain bytes beside it. Does not encrypt: `cipher` is always
`none` and `keyId` empty in format 1; they stand there so that a reader that cannot decrypt says so.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import zstandard

from yoban.errors import IntegrityError, Unsupported
from yoban.model.instance import Struct
from yoban.plugins import Buffer

FORMAT = 1
ZSTD = "zstd"
PLAIN = "none"
LEVEL = 1
MAX_HEADER = 8192
BLOCK = 1 << 20
"""Bytes handled at once in a thread: large enough that hashing and compressing release the interpreter."""

AT_ONCE = 16 << 20
"""Bytes of a file that is held in memory as a whole: segments of the log, as most engines cut them."""

S = TypeVar("S", bound=Struct)


class Header(Struct, omit_defaults=False):
    """First line of every object.

    Attributes:
        yoban: format of the repository.
        kind: what the object is (`segment`, `tail`, `data`, `manifest`, `identity`, …).
        name: its logical name, so that an object under a wrong key is noticed.
        codec, cipher, key_id: how the payload was made; unknown means refuse.
        size: bytes of the plain content, -1 when it was not known yet.
        plain_sha256: of the plain content, "" when not known yet.
        sha256: of the payload as stored, "" when not known yet. Then the manifest has it for the whole object, or, of a file
            too large to be held, `plain_sha256` proves what comes out.
    """

    yoban: int
    kind: str
    name: str
    codec: str = ZSTD
    cipher: str = PLAIN
    key_id: str = ""
    size: int = -1
    plain_sha256: str = ""
    sha256: str = ""


class Probe(Struct):
    """The one field of a header that is read before the others may be trusted to mean anything."""

    yoban: int


class Compressor(Protocol):
    """Streaming compression: what `zstandard` and `_Copy` have in common."""

    def compress(self, data: Any) -> bytes:
        """Take in plain bytes and return stored ones, possibly none yet."""
        ...

    def flush(self) -> bytes:
        """Return the rest."""
        ...


class _Copy:
    def compress(self, data: Buffer) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""


def compressor(codec: str = ZSTD) -> Compressor:
    """Return a fresh compressor. Raises Unsupported for an unknown codec."""
    if codec == ZSTD:
        return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
    if codec == PLAIN:
        return _Copy()
    raise Unsupported(f"codec {codec!r} is unknown to this release", fix="use a newer release")


def header_bytes(header: Header) -> bytes:
    """Return the header as the first line of an object."""
    return msgspec.json.encode(header) + b"\n"


def parse_header(start: Buffer, key: str) -> tuple[Header, int] | None:
    """Read the header from an object's first bytes.

    Returns:
        the header and its length in bytes; None when more bytes are needed.

    Raises:
        IntegrityError: these are not the first bytes of an object of ours.
        Unsupported: it was written by a release with another format, or with a codec or cipher unknown here.
    """
    head = bytes(start[:MAX_HEADER])
    end = head.find(b"\n")
    if end < 0:
        if len(head) < MAX_HEADER and head[:1] in (b"{", b""):
            return None
        raise damaged(key, "it does not begin with a header")
    line = head[:end]
    try:
        if msgspec.json.decode(line, type=Probe).yoban != FORMAT:
            raise Unsupported("the object has a format that this release cannot read", object=key, fix=_UPGRADE)
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(key, f"its header cannot be read: {error}") from error
    if header.codec not in (ZSTD, PLAIN):
        raise Unsupported(f"the object has codec {header.codec!r}, unknown here", object=key, fix=_UPGRADE)
    if header.cipher != PLAIN:
        cause = f"cipher {header.cipher!r}, key {header.key_id!r}"
        raise Unsupported("the object is encrypted and this release cannot decrypt it", object=key, cause=cause)
    return header, end + 1


_UPGRADE = "use the release that wrote it, or a newer one"


def damaged(key: str, cause: str, fix: str = "") -> IntegrityError:
    """An error that says that the object under `key` is not what was written."""
    return IntegrityError("the object is damaged", object=key, cause=cause, fix=fix, reason="ObjectDamaged")


@dataclass(frozen=True, slots=True)
class Sealed:
    """An object ready to be stored: its bytes and its header."""

    blob: bytes
    header: Header


def seal(kind: str, name: str, data: Buffer, codec: str = PLAIN) -> Sealed:
    """Make an object of content in memory. Blocks: call it in a thread when `data` is larger than about 1 MiB."""
    payload = compressor_all(codec, data)
    header = Header(
        yoban=FORMAT,
        kind=kind,
        name=name,
        codec=codec,
        size=memoryview(data).nbytes,
        plain_sha256=hashlib.sha256(data).hexdigest(),
        sha256=hashlib.sha256(payload).hexdigest(),
    )
    return Sealed(b"".join([header_bytes(header), payload]), header)


def compressor_all(codec: str, data: Buffer) -> bytes:
    """Compress at once. Raises Unsupported for an unknown codec."""
    if codec == ZSTD:
        return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)
    stream = compressor(codec)
    return stream.compress(data) + stream.flush()


def seal_file(kind: str, name: str, path: Path, codec: str = ZSTD) -> Sealed:
    """Make an object of a file's content. Blocks: call it in a thread. Raises OSError.

    A file of common size is read and compressed at once, which takes a tenth less time than piece by piece.
    """
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= AT_ONCE:
            return seal(kind, name, file.readall(), codec)
        return _seal_pieces(kind, name, file, codec)


def _seal_pieces(kind: str, name: str, file: io.FileIO, codec: str) -> Sealed:
    stream = compressor(codec)
    plain, stored = hashlib.sha256(), hashlib.sha256()
    payload: list[bytes] = []
    size = 0
    buffer = memoryview(bytearray(BLOCK))
    while got := file.readinto(buffer):
        size += got
        plain.update(buffer[:got])
        out = stream.compress(buffer[:got])
        stored.update(out)
        payload.append(out)
    out = stream.flush()
    stored.update(out)
    payload.append(out)
    header = Header(
        yoban=FORMAT,
        kind=kind,
        name=name,
        codec=codec,
        size=size,
        plain_sha256=plain.hexdigest(),
        sha256=stored.hexdigest(),
    )
    # Joined once: a buffer that grows is copied again and again on the way.
    return Sealed(b"".join([header_bytes(header), *payload]), header)


class Opener:
    """Turns the stored bytes of one object back into plain ones, as they arrive.

    Nothing that `feed` returned may be relied upon before `finish` has returned.

    Args:
        key: the object's key, for messages.
        kind, name: what it must say of itself.
        sha256: of the whole object as stored, "" when only its header tells (the payload's).
        size: of the whole object as stored, -1 when not known.
    """

    def __init__(self, key: str, kind: str, name: str, *, sha256: str = "", size: int = -1) -> None:
        self._key, self._kind, self._name = key, kind, name
        self._want, self._want_size = sha256, size
        self._whole = hashlib.sha256() if sha256 else None
        # Of the two that a header may have the plain content's proves more: what comes out is what went in.
        self._payload: Any = None
        self._plain: Any = None
        self._start = bytearray()
        self._stored = 0
        self._plain_size = 0
        self._unzip: Any = None
        self.header: Header | None = None

    def feed(self, data: Buffer) -> bytes:
        """Take in stored bytes and return plain ones, possibly none yet. Blocks: use a thread for more than 1 MiB.

        Raises:
            IntegrityError, Unsupported: as `parse_header`; or the payload cannot be decompressed.
        """
        self._stored += len(data)
        if self._whole is not None:
            self._whole.update(data)
        if self.header is None:
            self._start += data
            parsed = parse_header(self._start, self._key)
            if parsed is None:
                return b""
            self.header, length = parsed
            if (self.header.kind, self.header.name) != (self._kind, self._name):
                raise damaged(self._key, f"it says that it is {self.header.kind} {self.header.name!r}")
            if self.header.plain_sha256:
                self._plain = hashlib.sha256()
            elif self.header.sha256:
                self._payload = hashlib.sha256()
            if self.header.codec == ZSTD:
                self._unzip = zstandard.ZstdDecompressor().decompressobj()
            data = bytes(self._start[length:])
            self._start.clear()
        if self._payload is not None:
            self._payload.update(data)
        if self._unzip is None:
            plain = bytes(data)
        else:
            try:
                plain = self._unzip.decompress(data)
            except (zstandard.ZstdError, EOFError) as error:
                raise damaged(self._key, str(error)) from error
        self._plain_size += len(plain)
        if 0 <= self.header.size < self._plain_size:
            raise damaged(self._key, f"it holds more than the {self.header.size} bytes that it announces")
        if self._plain is not None:
            self._plain.update(plain)
        return plain

    def finish(self) -> Header:
        """Check everything that only the end can tell and return the header.

        Raises:
            IntegrityError: the object was cut short, or its bytes are not what was written.
        """
        if self.header is None:
            raise damaged(self._key, "it ends within its header")
        if 0 <= self._want_size != self._stored:
            raise damaged(self._key, f"{self._stored} bytes where {self._want_size} were stored")
        if self._whole is not None and self._whole.hexdigest() != self._want:
            raise damaged(self._key, "its checksum is not the manifest's")
        if self._payload is not None and self._payload.hexdigest() != self.header.sha256:
            raise damaged(self._key, "its checksum is not the header's")
        if self._unzip is not None and not self._unzip.eof:
            raise damaged(self._key, "the compressed stream has no end")
        if self._unzip is not None and self._unzip.unused_data:
            raise damaged(self._key, "something follows the compressed stream")
        if 0 <= self.header.size != self._plain_size:
            raise damaged(self._key, f"{self._plain_size} plain bytes where {self.header.size} are announced")
        if self._plain is not None and self._plain.hexdigest() != self.header.plain_sha256:
            raise damaged(self._key, "the plain content has another checksum")
        return self.header


def unseal(blob: Buffer, key: str, kind: str, name: str) -> bytes:
    """Return the verified plain content of a whole object. Raises IntegrityError, Unsupported."""
    opener = Opener(key, kind, name)
    plain = opener.feed(blob)
    opener.finish()
    return plain


def seal_struct(kind: str, name: str, value: Struct, codec: str = PLAIN) -> bytes:
    """Make an object of a record."""
    return seal(kind, name, msgspec.json.encode(value), codec).blob


def unseal_struct(blob: Buffer, key: str, kind: str, name: str, type: type[S]) -> S:
    """Return the record in a whole object. Raises IntegrityError, Unsupported."""
    try:
        return msgspec.json.decode(unseal(blob, key, kind, name), type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(key, f"its content cannot be read: {error}") from error
