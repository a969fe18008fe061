"""Having the log stored through a segment: here, or by the primary's agent over the control API.

Guarantees: an answer means that everything on the line through the segment is stored. A segment still being written is
ended first, on the primary.
"""

from __future__ import annotations

import asyncio
import ssl

import msgspec

from yoban.agent.instance import Instance
from yoban.agent.shipper import Shipper
from yoban.errors import Terminal, Unavailable, Unsupported, YobanError
from yoban.kube.http import Broken, NotConnected, Pool
from yoban.model.control import Problem, ShipAnswer, ShipRequest
from yoban.plugins import TlsFiles
from yoban.telemetry import traceparent

SLACK = 5.0
"""Seconds that the asker waits beyond the deadline it gave."""


class Shipping:
    """Both sides of `POST /v1/ship`."""

    def __init__(self, instance: Instance, shipper: Shipper) -> None:
        self._instance = instance
        self._shipper = shipper

    async def here(self, request: ShipRequest) -> ShipAnswer:
        """Return when the log is stored through the segment. The caller sets the deadline.

        Raises:
            Unsupported: the engine has no log.
            YobanError: what the store or the server says, when that cannot pass by itself.
        """
        source = self._shipper.source
        if source is None:
            raise Unsupported("the engine has no log", object=f"engine {self._instance.engine.name}")
        if self._shipper.reigning:
            await source.end_segment(self._instance.context, request.segment)
        while True:
            seen = self._shipper.progress.serial
            self._shipper.kick.ring()
            waiting = [
                segment.name.name
                for segment in await source.pending(self._instance.context)
                if segment.name.line == request.line
                and segment.name.name <= request.segment
                and not self._shipper.is_stored(segment.name.name)
            ]
            try:
                if not waiting and await self._shipper.ensure_stored(request.line, request.segment):
                    return ShipAnswer(segment=request.segment)
            except Terminal:
                raise
            except YobanError:
                # Not now; the deadline is the caller's.
                self._shipper.kick.ring()
            await self._shipper.progress.wait(seen, 0.5)

    async def at(self, address: str, request: ShipRequest) -> None:
        """Ask the agent at `host:port` to do it. Raises Unavailable, or Terminal when it refuses."""
        tls = self._instance.context.tls
        context = await asyncio.to_thread(client_context, tls)
        pool = Pool(f"https://{address}", context, headers={"Content-Type": "application/json"})
        try:
            async with asyncio.timeout(request.deadline_seconds + SLACK):
                connection = await pool.exchange(
                    "POST", "/v1/ship", {"traceparent": traceparent()}, msgspec.json.encode(request)
                )
                status = connection.status
                body = await connection.body()
        except (Broken, NotConnected, TimeoutError) as error:
            raise Unavailable("the primary's agent does not answer", object=address, cause=str(error)) from error
        finally:
            await pool.close()
        if status == 200:
            return
        try:
            problem = msgspec.json.decode(body, type=Problem)
        except msgspec.MsgspecError:
            problem = Problem(reason="Unavailable", message=f"status {status}")
        kind = Terminal if 400 <= status < 500 else Unavailable
        raise kind(problem.message, object=address, fix=problem.fix, reason=problem.reason)


def client_context(tls: TlsFiles) -> ssl.SSLContext:
    """Return the TLS settings with which an agent asks another one. Blocking."""
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.load_cert_chain(str(tls.client_certificate), str(tls.client_key))
    return context
