"""The watches of the fake API server: which change means which event, bookmarks, and ends in time.

Guarantees: an object that stops matching a selector is DELETED for that watch, one that begins to is ADDED; events come
in the order of the changes. Time is the running loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from yoban.kube.objects import Obj, ObjectKey, copy, key_of
from yoban.kube.resource import Resource
from yoban.kube.transport import Answer

BOOKMARK_EVERY = 60.0  # seconds, as the real one


@dataclass(frozen=True, slots=True)
class Change:
    """One write: what was stored before and after. `final` is the last state of what was deleted."""

    version: int
    resource: Resource
    old: Obj | None
    new: Obj | None
    final: Obj | None = None  # of a deletion: the last state with the deletion's version

    @property
    def key(self) -> ObjectKey:
        """Of the object that was written."""
        return key_of(self.new or self.old or {})


class Whole:
    """A complete answer, read as a stream."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._body = answer.body

    async def read(self) -> bytes:
        """See `Stream.read`."""
        body, self._body = self._body, b""
        return body


class Watcher:
    """One open watch."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(
        self,
        version: Callable[[], str],
        resource: Resource,
        namespace: str,
        matches: Callable[[Obj], bool],
        query: Mapping[str, str],
    ) -> None:
        self._version = version
        self._resource = resource
        self._namespace = namespace
        self._matches = matches
        self._bookmarks = query.get("allowWatchBookmarks") == "true"
        self._pieces: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self.muted = False
        loop = asyncio.get_running_loop()
        self._bookmark_at = loop.time() + BOOKMARK_EVERY
        self._end_at = loop.time() + float(query.get("timeoutSeconds") or 1800)

    def notice(self, change: Change) -> None:
        """Send what `change` means for this watch, if anything."""
        if change.resource != self._resource:
            return
        was = change.old is not None and self._wants(change.old)
        is_ = change.new is not None and self._wants(change.new)
        if is_ and change.new is not None:
            self.send("MODIFIED" if was else "ADDED", change.new)
        elif was and change.old is not None:
            last = copy(change.final or change.old)
            last["metadata"]["resourceVersion"] = str(change.version)
            self.send("DELETED", last)

    def _wants(self, obj: Obj) -> bool:
        return (not self._namespace or key_of(obj).namespace == self._namespace) and self._matches(obj)

    def send(self, kind: str, obj: Obj) -> None:
        """Send an event."""
        self.push(msgspec.json.encode({"type": kind, "object": obj}) + b"\n")

    def push(self, data: bytes) -> None:
        """Send raw bytes."""
        if not self.muted and not self._ended:
            self._pieces.append(data)
            self._wake.set()

    def end(self, error: Exception | None = None) -> None:
        """End the stream, in order or with an error."""
        if not self.muted:
            self._ended = True
            self._error = error
            self._wake.set()

    async def read(self) -> bytes:
        """See `Stream.read`."""
        loop = asyncio.get_running_loop()
        while True:
            if self._pieces:
                data = b"".join(self._pieces)
                self._pieces.clear()
                return data
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._wake.clear()
            due = min(self._end_at, self._bookmark_at if self._bookmarks else self._end_at)
            try:
                async with asyncio.timeout_at(None if self.muted else due):
                    await self._wake.wait()
            except TimeoutError:
                if loop.time() >= self._end_at:
                    self.end()
                else:
                    self._bookmark_at = loop.time() + BOOKMARK_EVERY
                    resource = self._resource
                    mark = {"metadata": {"resourceVersion": self._version(), "creationTimestamp": None}}
                    self.send("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, **mark})
