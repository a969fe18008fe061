"""The bench's operator on yoban.runtime: for each Card a ConfigMap that it owns, and a status that says so.

BENCH_SERVER, BENCH_TOKEN_FILE, BENCH_CA_FILE, BENCH_NAMESPACE and BENCH_WORKERS tell where and how. With BENCH_ONLY_CACHE it
fills a cache of Cards, trimmed by a transform, and does nothing else. BENCH_PROFILE names a file for what cProfile saw.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from yoban.kube.apply import Applier
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.conditions import Condition, Status, merge
from yoban.kube.config import ClusterConfig, TokenFile
from yoban.kube.objects import conditions_of, generation_of, is_deleting
from yoban.kube.ratelimit import RateLimiter
from yoban.kube.resource import CONFIG_MAP, Resource
from yoban.kube.status import StatusWriter
from yoban.runtime import Controller, Manager, ObjectKey, Result, intent_changed

CARD = Resource("bench.example.dev", "v1", "cards", "Card")
READY = Condition("Ready", Status.TRUE, "CardWritten")


def wanted_map(card: dict[str, Any]) -> dict[str, Any]:
    """The ConfigMap that a Card asks for."""
    name, namespace = card["metadata"]["name"], card["metadata"]["namespace"]
    metadata = {"name": f"{name}-card", "namespace": namespace, "labels": {"app": "bench"}}
    return {"metadata": metadata, "data": {"text": card["spec"]["text"]}}


async def operate(client: Client, manager: Manager, workers: int) -> None:
    """Work until a signal."""
    cards = manager.informer(CARD)
    if os.environ.get("BENCH_ONLY_CACHE"):
        await manager.run_until_signal()
        return
    maps = manager.informer(CONFIG_MAP, labels="app=bench")
    applier, status = Applier(client, "bench"), StatusWriter(client, "bench-status")
    clock = SystemClock()

    async def reconcile(key: ObjectKey) -> Result | None:
        card = cards.get(key)
        if card is None or is_deleting(card):
            return None  # the ConfigMap goes with its owner
        wanted = wanted_map(card)
        cached = maps.get(ObjectKey(key.namespace, wanted["metadata"]["name"]))
        await applier.ensure(CONFIG_MAP, wanted, cached=cached, owner=card)
        generation = generation_of(card)
        conditions = merge(conditions_of(card), [READY], known=["Ready"], generation=generation, now=clock.now())
        await status.write(CARD, card, {"observedGeneration": generation, "conditions": conditions})
        return None

    # Failures back off for each key; there is no limit over all of them.
    controller = Controller("bench", reconcile, workers=workers, limiter=RateLimiter())
    controller.watches(cards, predicate=intent_changed).owns(maps, CARD)
    manager.add(controller)
    await manager.run_until_signal()


async def main() -> None:
    """Connect as in a Pod: a token file and a CA file."""
    env = os.environ
    config = ClusterConfig(
        server=env["BENCH_SERVER"],
        credentials=TokenFile(Path(env["BENCH_TOKEN_FILE"])),
        ca_file=Path(env["BENCH_CA_FILE"]),
    )
    async with Client.connect(config) as client:
        await operate(client, Manager(client, namespaces=[env["BENCH_NAMESPACE"]]), int(env["BENCH_WORKERS"]))


if __name__ == "__main__":
    if profile := os.environ.get("BENCH_PROFILE"):
        import cProfile

        cProfile.run("asyncio.run(main())", profile)
    else:
        asyncio.run(main())
