"""Whose the repository is, as a decision needs it while the Lease has no mark of data.

Guarantees: the store is asked at most every few seconds, and not at all once the Lease says that the data exists; a store
that does not answer makes it unknown, never free.
"""

from __future__ import annotations

import asyncio
import logging

from yoban.agent.decisions import Identity
from yoban.agent.instance import Instance
from yoban.agent.lease import LeaseView
from yoban.errors import YobanError

log = logging.getLogger("yoban.agent.ownership")
KNOWN_FOR = 5.0
DEADLINE = 15.0


class Ownership:
    """Remembers what the store said last."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._known: tuple[float, Identity] = (-KNOWN_FOR, Identity.NO_STORE)

    async def look(self, view: LeaseView) -> Identity:
        """Return whose the repository is."""
        instance = self._instance
        document = instance.document
        if document.archive is None:
            return Identity.NO_STORE
        if not view.known or view.initialized:
            return Identity.UNKNOWN
        at, known = self._known
        if instance.clock.monotonic() - at < KNOWN_FOR:
            return known
        try:
            async with asyncio.timeout(DEADLINE):
                repository = await instance.storage.archive(instance.configuration)
                found = await repository.identity.read() if repository is not None else None
            if repository is None:
                known = Identity.UNKNOWN
            elif found is None or (found.incarnation == document.incarnation and not found.initialized):
                known = Identity.FREE
            else:
                ours = found.incarnation == document.incarnation
                known = Identity.INITIALIZED if ours else Identity.FOREIGN
        except (YobanError, TimeoutError) as error:
            log.warning("the repository's identity cannot be read: %s", error or "no answer in time")
            known = Identity.UNKNOWN
        except Exception:
            # A plugin that breaks its contract must not keep a decision from being made: there may be a server to end.
            log.exception("the repository's identity cannot be read")
            known = Identity.UNKNOWN
        self._known = (instance.clock.monotonic(), known)
        return known
