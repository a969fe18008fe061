"""The API server as the user, the garbage collector and the judge of the simulation see it, for a real one.

It shows what the last look found, and queues what is asked of it: those who were written for a model need no await.
"""

from __future__ import annotations

import contextlib
from typing import Any

from yoban.kube.client import Client
from yoban.kube.errors import ApiError, NotFound
from yoban.kube.objects import Obj, key_of, uid_of
from yoban.kube.resource import CONFIG_MAP, Resource

from tests.simulation.operator import CARD_LABEL, WIDGET

DEADLINE = 10.0


class Seen:
    """The way of everybody but the operator, past all proxies."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, list[Obj]] = {}
        self._asked: list[tuple[str, str, bytes | None, str | None]] = []

    def objects(self, resource: Resource) -> list[Obj]:
        """What the last look found."""
        return self._known.get(resource.plural, [])

    def find(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """One of them."""
        return next((o for o in self.objects(resource) if key_of(o) == (namespace, name)), None)

    def serve(self, method: str, target: str, body: bytes | None = None, content_type: str | None = None) -> None:
        """Ask for something; `carry_out` does it."""
        self._asked.append((method, target, body, content_type))

    async def carry_out(self) -> None:
        """Do what was asked for; what is refused, or meets a server that is away, is left."""
        asked, self._asked = self._asked, []
        for method, target, body, content_type in asked:
            with contextlib.suppress(ApiError):
                await self._client.transport.request(
                    method, target, body=body, content_type=content_type, deadline=DEADLINE
                )

    async def look(self) -> None:
        """See what is stored now. Cards first: an owner that is not among the Widgets then is gone."""
        cards = await self._client.list(CONFIG_MAP, labels=CARD_LABEL, timeout=DEADLINE)
        widgets = await self._client.list(WIDGET, timeout=DEADLINE)
        self._known = {CONFIG_MAP.plural: cards.items, WIDGET.plural: widgets.items}

    async def collect_garbage(self) -> None:
        """Delete each card whose owner is gone, as a real cluster's controller does."""
        await self.look()
        living = {uid_of(widget) for widget in self.objects(WIDGET)}
        for card in self.objects(CONFIG_MAP):
            owners: list[Any] = card["metadata"].get("ownerReferences") or []
            if owners and not any(owner["uid"] in living for owner in owners):
                key = key_of(card)
                with contextlib.suppress(NotFound):
                    await self._client.delete(CONFIG_MAP, key.name, key.namespace, uid=uid_of(card))
