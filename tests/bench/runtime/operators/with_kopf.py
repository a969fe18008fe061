"""The bench's operator on kopf: for each Card a ConfigMap that it owns, and a status that says so.

Runs in a virtual environment of its own, without anything of Yoban. The same variables as the others: BENCH_SERVER,
BENCH_TOKEN_FILE, BENCH_CA_FILE, BENCH_NAMESPACE, BENCH_ONLY_CACHE (an index of Cards and nothing else). BENCH_WORKERS does
not count: kopf works on all objects at once, as it does by default, since a limit would only slow it down.

Tuned as far as settings go: no events are posted, nothing is scanned, progress goes to annotations only, ConfigMaps are
selected by the server, a handler that failed is called again after a second. It writes ConfigMaps through one aiohttp
session, the quickest client there is for it.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import ssl
import warnings
from pathlib import Path

import aiohttp
import kopf

GROUP = "bench.example.dev"
SERVER, NAMESPACE = os.environ["BENCH_SERVER"], os.environ["BENCH_NAMESPACE"]
TOKEN, CA = Path(os.environ["BENCH_TOKEN_FILE"]).read_text().strip(), os.environ["BENCH_CA_FILE"]
RETRY = 1.0  # seconds after a failure, in the place of kopf's 60
MAPS = f"{SERVER}/api/v1/namespaces/{NAMESPACE}/configmaps"


@kopf.on.login()
def login(**_):
    return kopf.ConnectionInfo(server=SERVER, ca_path=CA, token=TOKEN, scheme="Bearer")


@kopf.on.startup()
async def startup(settings, memo, **_):
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage()
    settings.watching.label_selectors["configmaps"] = "app=bench"
    connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cafile=CA))
    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "bench-kopf"}
    memo.session = aiohttp.ClientSession(connector=connector, headers=headers)


@kopf.on.cleanup()
async def cleanup(memo, **_):
    await memo.session.close()


async def write_map(session, name, wanted, current):
    """Create or replace the ConfigMap, unless it is as it should be."""
    if current is not None and current["data"] == wanted["data"] and current["labels"].get("app") == "bench":
        return
    body = json.dumps(wanted)
    content = {"Content-Type": "application/json"}
    if current is None:
        async with session.post(MAPS, data=body, headers=content) as answer:
            if answer.status != 409:
                answer.raise_for_status()
                return
    async with session.put(f"{MAPS}/{name}", data=body, headers=content) as answer:
        answer.raise_for_status()


if os.environ.get("BENCH_ONLY_CACHE"):

    @kopf.index(GROUP, "v1", "cards")
    def cards(name, body, **_):
        return {name: {"metadata": dict(body["metadata"]), "spec": dict(body["spec"]), "status": dict(body["status"])}}

else:

    @kopf.index("", "v1", "configmaps", labels={"app": "bench"})
    def maps(name, body, **_):
        return {name: {"data": dict(body.get("data") or {}), "labels": dict(body["metadata"].get("labels") or {})}}

    @kopf.index(GROUP, "v1", "cards")
    def wanted_maps(name, body, **_):
        wanted = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-card", "labels": {"app": "bench"}},
            "data": {"text": body["spec"]["text"]},
        }
        kopf.adopt(wanted, owner=body)
        return {f"{name}-card": wanted}

    def one(index, name):
        return next(iter(index[name]), None) if name in index else None

    @kopf.on.resume(GROUP, "v1", "cards", backoff=RETRY)
    @kopf.on.create(GROUP, "v1", "cards", backoff=RETRY)
    @kopf.on.update(GROUP, "v1", "cards", backoff=RETRY)
    async def reconcile(name, meta, status, patch, memo, maps, wanted_maps, **_):
        child = f"{name}-card"
        await write_map(memo.session, child, one(wanted_maps, child), one(maps, child))
        generation = meta["generation"]
        known = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
        if known is not None and known["observedGeneration"] == generation:
            return
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "CardWritten",
            "message": "",
            "lastTransitionTime": known["lastTransitionTime"] if known else now,
            "observedGeneration": generation,
        }
        patch.status["observedGeneration"] = generation
        patch.status["conditions"] = [ready]

    @kopf.on.event("", "v1", "configmaps", labels={"app": "bench"})
    async def mend(event, name, body, memo, wanted_maps, **_):
        """What somebody else changed or deleted is put back."""
        wanted = one(wanted_maps, name)
        if wanted is None:
            return
        if event["type"] == "DELETED":
            await write_map(memo.session, name, wanted, None)
        elif body.get("data") != wanted["data"] and event["type"] is not None:
            labels = dict(body["metadata"].get("labels") or {})
            await write_map(memo.session, name, wanted, {"data": dict(body.get("data") or {}), "labels": labels})


async def main() -> None:
    """Run until a signal."""
    await kopf.operator(standalone=True, namespaces=[NAMESPACE])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kopf.configure(quiet=True)
    logging.getLogger("kopf").setLevel(logging.ERROR)
    asyncio.run(main())
