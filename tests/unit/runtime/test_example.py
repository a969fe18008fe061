"""The example of docs/runtime.md on the fake API server."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from yoban.kube.client import Client
from yoban.kube.resource import CONFIG_MAP
from yoban.runtime import Manager
from yoban.testing.apiserver import FakeApiServer

ROOT = Path(__file__).parents[3]


def example() -> dict[str, Any]:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/runtime.md").read_text(), re.S)
    assert code is not None
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(code[1], "docs/runtime.md", "exec"), namespace)
    return namespace


async def test_the_example_of_the_docs_works_and_a_second_pass_writes_nothing(
    server: FakeApiServer, client: Client
) -> None:
    ns = example()
    server.register(ns["GREETING"])
    server.put(ns["GREETING"], {"metadata": {"namespace": "shop", "name": "ann"}, "spec": {"who": "Ann"}})
    manager = Manager(client, detect_mutation=True)
    task = asyncio.create_task(ns["operate"](client, manager))
    await asyncio.sleep(5)
    card = server.find(CONFIG_MAP, "shop", "ann-card")
    assert card is not None
    assert card["data"] == {"text": "Hello Ann"}
    greeting = server.find(ns["GREETING"], "shop", "ann")
    assert greeting is not None
    assert greeting["status"]["conditions"][0]["type"] == "Ready"
    assert len(server.writes()) == 2
    await asyncio.sleep(3600)
    assert len(server.writes()) == 2
    server.edit(CONFIG_MAP, "shop", "ann-card", lambda o: o["data"].update(text="Bye"))
    await asyncio.sleep(5)
    card = server.find(CONFIG_MAP, "shop", "ann-card")
    assert card is not None
    assert card["data"] == {"text": "Hello Ann"}
    server.remove(CONFIG_MAP, "shop", "ann-card")
    await asyncio.sleep(5)
    assert server.find(CONFIG_MAP, "shop", "ann-card") is not None
    manager.stop()
    await task
