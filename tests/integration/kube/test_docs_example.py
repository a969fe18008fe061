"""The 40-line controller of docs/runtime.md, exactly as it stands there, against a real API server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import NotFound
from yoban.kube.objects import copy
from yoban.kube.resource import CONFIG_MAP, CUSTOM_RESOURCE_DEFINITION

from tests.integration.kube.conftest import WIDGET_CRD

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[3]


def code() -> str:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/runtime.md").read_text(), re.S)
    assert found is not None
    return found[1]


def test_it_is_short() -> None:
    body = code().partition("GREETING =")[2].partition("if __name__")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


async def test_it_works(local_apiserver: LocalApiServer, real_client: Client, namespace: str) -> None:
    crd = copy(WIDGET_CRD)
    crd["metadata"]["name"] = "greetings.example.yoban.dev"
    crd["spec"]["group"] = "example.yoban.dev"
    crd["spec"]["names"] = {"plural": "greetings", "kind": "Greeting"}
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"] = {"who": {"type": "string"}}
    await real_client.apply(CUSTOM_RESOURCE_DEFINITION, crd)
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(code(), "docs/runtime.md", "exec"), scope)
    greeting = scope["GREETING"]
    async with asyncio.timeout(30):
        while True:
            try:
                await real_client.list(greeting)
                break
            except NotFound:
                await asyncio.sleep(0.05)
    operator = asyncio.create_task(scope["main"](local_apiserver.kubeconfig))
    try:
        obj = {"metadata": {"namespace": namespace, "name": "ann"}, "spec": {"who": "Ann"}}
        await real_client.apply(greeting, obj, field_manager="user")
        async with asyncio.timeout(30):
            while True:
                card = await real_client.find(CONFIG_MAP, "ann-card", namespace)
                stored = await real_client.get(greeting, "ann", namespace)
                conditions = stored.get("status", {}).get("conditions") or [{}]
                if card and card["data"] == {"text": "Hello Ann"} and conditions[0].get("status") == "True":
                    break
                assert not operator.done()
                await asyncio.sleep(0.05)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await operator
