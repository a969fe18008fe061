"""Connections to a real API server over TLS: none outlives its client."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from yoban.kube.client import Client
from yoban.kube.config import load_config
from yoban.kube.resource import CONFIG_MAP

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

pytestmark = pytest.mark.server


def _sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue  # the listing's own descriptor
        if target.startswith("socket:"):
            found.add(target)
    return found


async def test_no_socket_outlives_a_client_whose_watches_and_requests_were_cancelled(
    local_apiserver: LocalApiServer,
) -> None:
    before = _sockets()
    client = Client.connect(await load_config(local_apiserver.kubeconfig))
    watching = asyncio.Event()

    async def watch() -> None:
        version = (await client.list(CONFIG_MAP)).resource_version
        async with client.watch(CONFIG_MAP, resource_version=version, timeout_seconds=60):
            watching.set()
            await asyncio.Event().wait()

    watcher = asyncio.create_task(watch())
    await asyncio.wait_for(watching.wait(), 20)
    requests = [asyncio.create_task(client.list(CONFIG_MAP)) for _ in range(8)]
    # Cancelled at different depths: some connect, some shake hands, some wait for the answer.
    for task in requests:
        await asyncio.sleep(0.002)
        task.cancel()
    watcher.cancel()
    await asyncio.gather(watcher, *requests, return_exceptions=True)
    await client.close()
    assert _sockets() == before
