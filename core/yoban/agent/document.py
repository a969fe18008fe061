"""The document in force and what is mounted beside it: stores, account passwords, certificates.

Guarantees: a file is read from one revision of its mount (the kubelet swaps the `..data` link; the folder is resolved once
for each reading); of two documents the one with the greater (generation, revision) wins, pushed or mounted. Does not
judge what a document asks for.

Changes are found by a look at the folders each 2 s and not by inotify: the kubelet itself brings changes a minute late,
what is urgent is pushed over the control API, and the look costs a few system calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from yoban.agent.environment import Environment
from yoban.agent.notice import Notice
from yoban.errors import InvalidInput
from yoban.model.control import Push
from yoban.model.instance import DOCUMENT_FILE, STORE_FILE, InstanceDocument, StoreDocument

log = logging.getLogger("yoban.agent.document")
LOOK_EVERY = 2.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that is asked of this instance, at one moment. `passwords` by purpose; `tls` changes with the certificates."""

    document: InstanceDocument
    store: StoreDocument | None = None
    source: StoreDocument | None = None
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: str = ""


def newer(a: InstanceDocument, b: InstanceDocument) -> bool:
    """Whether `a` is to replace `b`."""
    return (a.generation, a.revision) > (b.generation, b.revision)


def decode_document(data: bytes, where: str) -> InstanceDocument:
    """Parse a document. Raises InvalidInput."""
    try:
        document = msgspec.json.decode(data, type=InstanceDocument)
    except msgspec.MsgspecError as error:
        raise InvalidInput("the document cannot be read", object=where, cause=str(error)) from error
    if document.format != 1:
        raise InvalidInput(
            f"the document has format {document.format}, this agent reads 1", object=where, fix="upgrade the Pod"
        )
    return document


class Configurations:
    """Holds the configuration in force; `changed` rings when it is replaced."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._pushed: Push | None = None
        self.current: Configuration | None = None
        self.changed = Notice()

    async def run(self) -> None:
        """Look for changes for ever."""
        while True:
            try:
                found = await asyncio.to_thread(self._read)
                if found is not None:
                    self._merge(found)
            except (OSError, InvalidInput) as error:
                log.warning("configuration cannot be read, the last one stays in force: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        """Read what is mounted now and put it in force if it is newer, or has other secrets. Blocks; for the start.

        Raises OSError or InvalidInput.
        """
        found = self._read()
        if found is not None:
            self._merge(found)

    def _read(self) -> Configuration | None:
        environment = self._environment
        document_file = environment.spec.resolve() / DOCUMENT_FILE
        if not document_file.exists():
            return None
        mounted = decode_document(document_file.read_bytes(), str(document_file))
        folder = environment.accounts.resolve()
        passwords = {
            item.name: item.read_text().rstrip("\n")
            for item in sorted(folder.iterdir() if folder.is_dir() else ())
            if item.is_file() and not item.name.startswith(".")
        }
        return Configuration(
            document=mounted,
            store=_store(environment.store),
            source=_store(environment.source),
            passwords=passwords,
            tls=_digest(environment.tls),
        )

    def push(self, push: Push) -> bool:
        """Take a pushed document; False when the one in force is newer. The same one again changes nothing."""
        current = self.current
        if current is not None and newer(current.document, push.document):
            return False
        self._pushed = push
        if current is not None:
            self._merge(current)
        return True

    def _merge(self, found: Configuration) -> None:
        pushed = self._pushed
        if pushed is not None and newer(found.document, pushed.document):
            self._pushed = pushed = None
        if pushed is not None:
            found = Configuration(
                document=pushed.document,
                store=pushed.store if pushed.store is not None else found.store,
                source=pushed.source if pushed.source is not None else found.source,
                passwords=found.passwords,
                tls=found.tls,
            )
        if self.current is not None and newer(self.current.document, found.document):
            # An older mount after a push by an operator that was replaced: never go back.
            return
        if found != self.current:
            self.current = found
            self.changed.ring()


def _store(folder: Path) -> StoreDocument | None:
    file = folder.resolve() / STORE_FILE
    if not file.exists():
        return None
    try:
        store = msgspec.json.decode(file.read_bytes(), type=StoreDocument)
    except msgspec.MsgspecError as error:
        raise InvalidInput("the store's configuration cannot be read", object=str(file), cause=str(error)) from error
    return store if store.provider else None


def _digest(folder: Path) -> str:
    resolved = folder.resolve()
    if not resolved.is_dir():
        return ""
    digest = hashlib.sha256()
    for item in sorted(resolved.iterdir()):
        if item.is_file() and not item.name.startswith("."):
            digest.update(item.name.encode() + b"\0" + item.read_bytes() + b"\0")
    return digest.hexdigest()
