"""Names of objects in a repository. Pure.

Guarantees: every name that a server, a user or a plugin chose is percent-encoded, so that it can neither leave its folder
nor be confused with another; decoding gives it back. Does not guarantee that the order of encoded names is the order of
names: callers sort what they decoded.

::

    <root>/identity                                      who owns it
    <root>/terms/<term>                                  one record a promotion
    <root>/marks/<term>                                  up to which moment everything is stored
    <root>/log/<line>/<segment>                          whole segments
    <root>/tail/<line>/<term>/<segment>/<from>-<to>      what was flushed since the last whole segment
    <root>/backups/<id>/manifest                         written last: no manifest, no backup
    <root>/backups/<id>/data/<number>                    content
    <root>/backups/<id>/running                          somebody is making it
    <root>/expired/<id>                                  a backup that retention marked for removal
    <root>/restores/<id>                                 somebody restores from here
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from yoban.errors import InvalidInput

MAX_KEY_BYTES = 800
_DIGITS = 10
_OFFSET_DIGITS = 14


def encode(name: str) -> str:
    """Return `name` as one component of a key. Raises InvalidInput when it is empty or far too long."""
    if not name:
        raise InvalidInput("an empty name cannot be stored", fix="give it a name")
    text = quote(name, safe="")
    if set(text) == {"."}:  # "." and ".." mean folders elsewhere
        text = text.replace(".", "%2E")
    if len(text) > 400:
        raise InvalidInput("the name is too long to be stored", object=name[:60], fix="use at most 400 bytes")
    return text


def decode(component: str) -> str:
    """Return the name that `encode` made `component` of."""
    return unquote(component)


@dataclass(frozen=True, slots=True)
class TailKey:
    """A chunk's place: line, term, segment, and bytes [start, end) of the segment."""

    line: str
    term: int
    segment: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Keys below one root.

    Attributes:
        root: `<namespace>/<name>/<incarnation>`, relative to the store's prefix, without `/` at its ends.
    """

    root: str

    def __post_init__(self) -> None:
        parts = self.root.split("/")
        if not all(parts) or any(set(part) == {"."} for part in parts):
            raise InvalidInput(
                "not a path of a repository", object=self.root, fix="use <namespace>/<name>/<incarnation>"
            )
        if len(self.root.encode()) > 300:
            raise InvalidInput("the path of the repository is too long", object=self.root[:60], fix="use 300 bytes")

    def _key(self, *parts: str) -> str:
        key = "/".join((self.root, *parts))
        if len(key.encode()) > MAX_KEY_BYTES:
            raise InvalidInput("the key is too long to be stored", object=key[:100], fix="use shorter names")
        return key

    @property
    def everything(self) -> str:
        """Prefix of all keys."""
        return self.root + "/"

    @property
    def identity(self) -> str:
        """Key of the identity object."""
        return self._key("identity")

    def term(self, term: int) -> str:
        """Key of a term record."""
        return self._key("terms", number(term))

    @property
    def terms(self) -> str:
        """Prefix of term records."""
        return self._key("terms", "")

    def mark(self, term: int) -> str:
        """Key of a term's mark."""
        return self._key("marks", number(term))

    @property
    def marks(self) -> str:
        """Prefix of marks."""
        return self._key("marks", "")

    def segment(self, line: str, name: str) -> str:
        """Key of a segment."""
        return self._key("log", encode(line), encode(name))

    def log(self, line: str = "") -> str:
        """Prefix of a line's segments, or of all lines'."""
        return self._key("log", encode(line), "") if line else self._key("log", "")

    def chunk(self, tail: TailKey) -> str:
        """Key of a chunk of the tail."""
        span = f"{tail.start:0{_OFFSET_DIGITS}d}-{tail.end:0{_OFFSET_DIGITS}d}"
        return self._key("tail", encode(tail.line), number(tail.term), encode(tail.segment), span)

    def tail(self, line: str = "") -> str:
        """Prefix of a line's chunks, or of all lines'."""
        return self._key("tail", encode(line), "") if line else self._key("tail", "")

    def backup(self, backup: str) -> str:
        """Prefix of everything of one backup."""
        return self._key("backups", encode(backup), "")

    @property
    def backups(self) -> str:
        """Prefix of all backups."""
        return self._key("backups", "")

    def manifest(self, backup: str) -> str:
        """Key of a backup's manifest."""
        return self._key("backups", encode(backup), "manifest")

    def running(self, backup: str) -> str:
        """Key of the note that a backup is being made."""
        return self._key("backups", encode(backup), "running")

    def data(self, backup: str, index: int) -> str:
        """Key of a backup's data object."""
        return self._key("backups", encode(backup), "data", f"{index:08d}")

    def expired(self, backup: str) -> str:
        """Key of the note that a backup is to be removed."""
        return self._key("expired", encode(backup))

    def restore(self, restore: str) -> str:
        """Key of the note that a restore is under way."""
        return self._key("restores", encode(restore))

    @property
    def restores(self) -> str:
        """Prefix of the notes of restores."""
        return self._key("restores", "")

    def below(self, key: str) -> tuple[str, ...]:
        """Components of `key` below the root, still encoded; empty when it is not below it."""
        return tuple(key[len(self.root) + 1 :].split("/")) if key.startswith(self.root + "/") else ()


def number(value: int) -> str:
    """Return `value` so that byte order is numeric order. Raises InvalidInput when it is negative."""
    if value < 0:
        raise InvalidInput("a term cannot be negative", object=str(value), fix="count from 1")
    return f"{value:0{_DIGITS}d}"


def parse_number(component: str) -> int | None:
    """Return what `number` wrote, None for anything else."""
    return int(component) if component.isascii() and component.isdigit() else None


def parse_tail(parts: tuple[str, ...]) -> TailKey | None:
    """Return the chunk that components `("tail", line, term, segment, span)` name, None for anything else."""
    if len(parts) != 5 or parts[0] != "tail":
        return None
    start, dash, end = parts[4].partition("-")
    term, low, high = parse_number(parts[2]), parse_number(start), parse_number(end)
    if term is None or low is None or high is None or not dash or low >= high:
        return None
    return TailKey(decode(parts[1]), term, decode(parts[3]), low, high)
