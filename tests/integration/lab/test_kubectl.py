"""The demo's kubectl, before a real API server: what it waits for it sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.demo.kubectl import Kubectl
from deploy.lab import kubeconfig
from deploy.lab.apiserver import LocalApiServer
from deploy.lab.fault_rules import Action, Fault
from deploy.lab.proxy import FaultProxy

pytestmark = pytest.mark.server


@pytest.fixture
async def proxy(local_apiserver: LocalApiServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(local_apiserver) as proxy:
        yield proxy


async def test_bug_a_change_between_kubectls_get_and_its_watch_was_never_seen(
    local_apiserver: LocalApiServer, proxy: FaultProxy, tmp_path: Path
) -> None:
    """kubectl gets an object by its name, then watches from now on and drops the first event as what it has shown."""
    direct = Kubectl(local_apiserver.kubeconfig)
    slow = Kubectl(
        kubeconfig.write(tmp_path / "kubeconfig", proxy.url, proxy.ca_file, token=local_apiserver.token, name="slow")
    )
    late = proxy.add(Fault(Action.DELAY, watch=True, seconds=3.0))
    await asyncio.to_thread(direct.run, "create", "configmap", "seen-late", "--from-literal=a=1")
    try:
        waiting = asyncio.create_task(
            asyncio.to_thread(slow.wait, "configmap", "seen-late", lambda v: v["data"]["a"] == "2", deadline=30)
        )
        await late.wait()  # it was shown, and its watch does not run yet
        await asyncio.to_thread(direct.run, "patch", "configmap", "seen-late", "-p", '{"data": {"a": "2"}}')
        assert (await waiting)["data"] == {"a": "2"}
    finally:
        await asyncio.to_thread(direct.delete, "configmap", "seen-late")
