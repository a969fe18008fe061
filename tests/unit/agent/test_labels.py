"""The role label, by which Services find an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from yoban.agent.labels import RoleLabel
from yoban.agent.notice import Notice
from yoban.kube.client import Client
from yoban.kube.resource import POD
from yoban.model.instance import ROLE_LABEL
from yoban.testing.apiserver import FakeApiServer


class _Rig:
    def __init__(self, label: str) -> None:
        self.server = FakeApiServer()
        labels = {ROLE_LABEL: label} if label else {}
        self.server.put(POD, {"metadata": {"name": "orders-1-0", "namespace": "shop", "labels": labels}})
        self.role = ""
        self.changed = Notice()
        self.keeper = RoleLabel(Client(self.server), "shop", "orders-1-0", lambda: self.role, self.changed)

    def label(self) -> str:
        pod = self.server.find(POD, "shop", "orders-1-0")
        assert pod is not None
        return str((pod["metadata"].get("labels") or {}).get(ROLE_LABEL, ""))

    @contextmanager
    def running(self) -> Iterator[None]:
        task = asyncio.get_running_loop().create_task(self.keeper.run())
        try:
            yield
        finally:
            task.cancel()


async def test_a_new_agent_does_not_withdraw_the_label_before_it_knows_the_role() -> None:
    rig = _Rig("primary")
    with rig.running():
        await asyncio.sleep(0.05)
        assert rig.label() == "primary"
        writes = len(rig.server.writes())
        rig.role = "primary"
        rig.changed.ring()
        await asyncio.sleep(0.05)
        assert rig.label() == "primary"
        assert len(rig.server.writes()) == writes, "nothing had to be written"


async def test_a_role_that_was_lost_is_withdrawn_at_once() -> None:
    rig = _Rig("")
    rig.role = "primary"
    with rig.running():
        await asyncio.sleep(0.05)
        assert rig.label() == "primary"
        rig.role = ""
        rig.changed.ring()
        await asyncio.sleep(0.05)
        assert rig.label() == ""
