"""A CRD to work with, on the real API server and on the fake one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from yoban.kube.client import Call, Client
from yoban.kube.config import load_config
from yoban.kube.errors import NotFound
from yoban.kube.objects import conditions_of
from yoban.kube.resource import CUSTOM_RESOURCE_DEFINITION, NAMESPACE, Resource
from yoban.testing.apiserver import FakeApiServer

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

WIDGET = Resource("kube.yoban.test", "v1", "widgets", "Widget")
_STRING = {"type": "string"}
_CONDITION = {"type": "object", "required": ["type"], "x-kubernetes-preserve-unknown-fields": True}
_CONDITION["properties"] = {"type": _STRING}
WIDGET_CRD: dict[str, Any] = {
    "metadata": {"name": "widgets.kube.yoban.test"},
    "spec": {
        "group": WIDGET.group,
        "names": {"plural": "widgets", "kind": "Widget", "singular": "widget", "listKind": "WidgetList"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "maximum": 100},
                                    "color": _STRING,
                                    "tags": {"type": "object", "additionalProperties": _STRING},
                                },
                            },
                            "status": {
                                "type": "object",
                                "properties": {
                                    "phase": _STRING,
                                    "count": {"type": "integer"},
                                    "conditions": {
                                        "type": "array",
                                        "items": _CONDITION,
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["type"],
                                    },
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}


def widget(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": WIDGET.api_version,
        "kind": WIDGET.kind,
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def _too_large(obj: dict[str, Any]) -> str | None:
    return "spec.size: must be at most 100" if obj.get("spec", {}).get("size", 0) > 100 else None


async def install(client: Client) -> None:
    """Make the CRD and wait until it is served."""
    await client.apply(CUSTOM_RESOURCE_DEFINITION, WIDGET_CRD)
    async with asyncio.timeout(30):
        while True:
            crd = await client.get(CUSTOM_RESOURCE_DEFINITION, "widgets.kube.yoban.test")
            conditions = {c["type"]: c["status"] for c in conditions_of(crd)}
            if conditions.get("Established") == "True":
                try:
                    await client.list(WIDGET, "default")
                    return
                except NotFound:
                    pass
            await asyncio.sleep(0.05)


@pytest.fixture
def namespace() -> str:
    return f"kube-{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.server)])
async def any_client(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Client]:
    """A client of the fake API server, then of the real one: both are held to the same tests."""
    calls: list[Call] = []
    if request.param == "fake":
        server = FakeApiServer()
        server.register(WIDGET, validate=_too_large)
        client = Client(server, on_call=calls.append)
    else:
        api: LocalApiServer = request.getfixturevalue("local_apiserver")
        client = Client.connect(await load_config(api.kubeconfig), on_call=calls.append)
    async with client:
        await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        if request.param == "real":
            await install(client)
        yield client


@pytest.fixture
async def real_client(local_apiserver: LocalApiServer, namespace: str) -> AsyncIterator[Client]:
    async with Client.connect(await load_config(local_apiserver.kubeconfig)) as client:
        await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        await install(client)
        yield client
