"""A small HTTP interface to a fault proxy of another process, on loopback only, without authentication.

`POST /faults` with a JSON object of `Fault`'s fields adds a rule and returns its number; `GET /faults` lists the rules
with their hits; `DELETE /faults` ends all; `GET /requests` lists what came; `POST /cut`, `/pause`, `/resume`,
`/refuse`, `/listen` do what `FaultProxy`'s methods of that name do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deploy.lab import wire
from deploy.lab.fault_rules import Action, Fault
from deploy.lab.proxy import FaultProxy

_FIELDS = {field.name for field in dataclasses.fields(Fault)} - {"hits", "happened"}


@asynccontextmanager
async def control(proxy: FaultProxy, port: int = 0) -> AsyncIterator[int]:
    """Serve the interface on 127.0.0.1 while the body runs; yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            async with asyncio.timeout(30):
                request = await wire.read_head(reader)
                if request is not None:
                    body = await wire.read_body(reader, request)
                    writer.write(await _answer(proxy, request, body))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # the caller left; nobody is there to be told
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(proxy: FaultProxy, request: wire.Head, body: bytes) -> bytes:
    try:
        status, content = 200, await _work(proxy, request.method, request.target, body)
    except LookupError as error:
        status, content = 404, {"error": f"nothing is served at {error}"}
    except (ValueError, TypeError) as error:
        status, content = 400, {"error": str(error)}
    payload = json.dumps(content).encode() + b"\n"
    head = wire.Head(f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}")
    head.headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(payload))),
        ("Connection", "close"),
    ]
    return head.encoded() + payload


async def _work(proxy: FaultProxy, method: str, path: str, body: bytes) -> Any:
    match method, path:
        case "POST", "/faults":
            proxy.add(_fault(json.loads(body)))
            return {"number": len(proxy.faults) - 1}
        case "GET", "/faults":
            return [{**{key: getattr(f, key) for key in _FIELDS}, "hits": f.hits} for f in proxy.faults]
        case "DELETE", "/faults":
            proxy.clear()
        case "GET", "/requests":
            return [
                {"method": r.method, "path": r.path, "status": r.status, "events": r.events} for r in proxy.requests
            ]
        case "POST", "/cut":
            return {"connections": proxy.cut()}
        case "POST", "/pause":
            proxy.pause()
        case "POST", "/resume":
            proxy.resume()
        case "POST", "/refuse":
            await proxy.refuse()
        case "POST", "/listen":
            await proxy.listen()
        case _:
            raise LookupError(f"{method} {path}")
    return {}


def _fault(given: Any) -> Fault:
    if not isinstance(given, dict) or "action" not in given:
        raise ValueError("a rule is a JSON object with at least `action`")
    unknown = set(given) - _FIELDS
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)}; there are {sorted(_FIELDS)}")
    return Fault(**{**given, "action": Action(given["action"])})
