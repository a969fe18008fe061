"""Keeps the role label on our own Pod, by which Services find it.

Guarantees: the label is withdrawn as soon as the role is lost (as far as the API server answers), and set only for the role
that the server really has. It only routes: a late label must never matter, the server is fenced by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from yoban.agent.notice import Notice
from yoban.kube.client import Client
from yoban.kube.errors import ApiError, NotFound
from yoban.kube.resource import POD
from yoban.model.instance import ROLE_LABEL

log = logging.getLogger("yoban.agent.labels")
RETRY_AFTER = 2.0
LOOK_AGAIN = 30.0
FIRST_WORD = 5.0
"""Seconds that a new agent leaves the label of the one before it, until it knows the role: the server went on meanwhile,
and its Service must not lose it."""


class RoleLabel:
    """`run` keeps the label of Pod `namespace/pod` equal to what `role` returns ("" for none)."""

    def __init__(self, client: Client, namespace: str, pod: str, role: Callable[[], str], changed: Notice) -> None:
        self._client = client
        self._namespace = namespace
        self._pod = pod
        self._role = role
        self._changed = changed

    async def run(self) -> None:
        """Keep it for ever; what somebody else changed is found within 30 s."""
        written: str | None = None
        looked_at = 0.0
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            seen = self._changed.serial
            wanted = self._role()
            left = started + FIRST_WORD - loop.time()
            if not wanted and written is None and left > 0:
                await self._changed.wait(seen, left)
                continue
            pause = LOOK_AGAIN
            if wanted != written or loop.time() - looked_at >= LOOK_AGAIN:
                try:
                    await self._write(wanted)
                    written = wanted
                    looked_at = loop.time()
                except NotFound:
                    # Outside of a cluster, or the Pod is being deleted: nothing to route to.
                    written = wanted
                    looked_at = loop.time()
                except ApiError as error:
                    log.warning("the role label cannot be written: %s", error)
                    written, pause = None, RETRY_AFTER
            await self._changed.wait(seen, pause)

    async def _write(self, role: str) -> None:
        pod = await self._client.get(POD, self._pod, self._namespace, timeout=5.0)
        if (pod["metadata"].get("labels") or {}).get(ROLE_LABEL, "") == role:
            return
        patch = {"metadata": {"labels": {ROLE_LABEL: role or None}}}
        await self._client.patch(POD, self._pod, self._namespace, patch, timeout=5.0)
        log.info("role label is %r now", role)
