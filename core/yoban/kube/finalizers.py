"""Cleaning up what lives outside Kubernetes before an object goes.

Guarantees: the finalizer is there before anything external may be made (the pass that writes it ends with it); it is
never added to an object that is being deleted; only ours is removed, others' entries are safe; removal is repeated
until it is proven. The clean-up must be idempotent: it may run many times. Somebody may end the wait for a dead
external system by an annotation.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from enum import Enum

from yoban.kube.client import Client
from yoban.kube.errors import Conflict, NotFound
from yoban.kube.objects import Obj, annotations_of, is_deleting, key_of, resource_version_of, uid_of
from yoban.kube.resource import Resource

log = logging.getLogger(__name__)

SKIP_CLEANUP = "yoban.dev/skip-cleanup"
_TRIES = 5


class Step(Enum):
    """What `Finalizer.handle` found or did."""

    ADDED = "added"  # written now: end this pass, the watch brings the next
    PRESENT = "present"  # go on with the work
    CLEANED = "cleaned"  # the object is on its way out: nothing more to do
    LEAVING = "leaving"  # being deleted, not (or no longer) our business

    @property
    def proceed(self) -> bool:
        """Whether this pass goes on with the object's work."""
        return self is Step.PRESENT


class Finalizer:
    """Our entry in `metadata.finalizers` of one kind.

    Args:
        client: the way to the API server.
        resource: the kind.
        name: domain-qualified, `yoban.dev/bucket`; ValueError otherwise.
        skip_annotation: with any value but "false", deletion does not wait for the clean-up.
    """

    def __init__(
        self, client: Client, resource: Resource, name: str, *, skip_annotation: str | None = SKIP_CLEANUP
    ) -> None:
        domain, _, word = name.partition("/")
        if "." not in domain or not word:
            raise ValueError(f"a finalizer's name is domain/word, not {name!r}")
        self._client = client
        self._resource = resource
        self.name = name
        self._skip = skip_annotation

    def is_on(self, obj: Obj) -> bool:
        """Whether our entry is there."""
        return self.name in (obj["metadata"].get("finalizers") or ())

    def is_skipped(self, obj: Obj) -> bool:
        """Whether somebody asked not to wait for the clean-up."""
        return self._skip is not None and annotations_of(obj).get(self._skip, "false").lower() != "false"

    async def handle(
        self,
        obj: Obj,
        cleanup: Callable[[], Awaitable[None]],
        *,
        on_failure: Callable[[Exception], Awaitable[None]] | None = None,
    ) -> Step:
        """Do what the finalizer needs in this pass; see `Step`.

        A `cleanup` that raises leaves the finalizer in place; `on_failure` is awaited first (write the condition
        there), then the error goes on to the workqueue's back-off.
        """
        if not is_deleting(obj):
            return Step.ADDED if await self.add(obj) else Step.PRESENT
        if not self.is_on(obj):
            return Step.LEAVING
        if self.is_skipped(obj):
            log.warning("%s: clean-up is skipped on request", key_of(obj))
        else:
            try:
                await cleanup()
            except Exception as error:
                if on_failure is not None:
                    await on_failure(error)
                raise
        await self.remove(obj)
        return Step.CLEANED

    async def add(self, obj: Obj) -> bool:
        """Write our entry; False when it is there. `Conflict` when the object changed meanwhile: the next pass sees it."""
        if self.is_on(obj) or is_deleting(obj):
            return False
        finalizers = [*(obj["metadata"].get("finalizers") or ()), self.name]
        await self._write(obj, finalizers)
        return True

    async def remove(self, obj: Obj) -> bool:
        """Take our entry out, and only ours; False when it, or the object, is gone already.

        A conflict is answered by reading again, a few times; then `Conflict`.
        """
        key, uid = key_of(obj), uid_of(obj)
        for attempt in range(_TRIES):
            finalizers = obj["metadata"].get("finalizers") or []
            if self.name not in finalizers or uid_of(obj) != uid:
                return False
            try:
                await self._write(obj, [f for f in finalizers if f != self.name])
            except NotFound:
                return False
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
                fresh = await self._client.find(self._resource, key.name, key.namespace or None)
                if fresh is None:
                    return False
                obj = fresh
            else:
                return True
        return False

    async def _write(self, obj: Obj, finalizers: list[str]) -> None:
        # A merge patch replaces the list, so it is done only on exactly the object that was read.
        key = key_of(obj)
        await self._client.patch(
            self._resource,
            key.name,
            key.namespace or None,
            {"metadata": {"finalizers": finalizers}},
            resource_version=resource_version_of(obj),
        )
