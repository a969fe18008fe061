"""What the fault proxy does to which requests: rules, and the choice among them. No I/O.

Guarantees that a rule with `times=N` acts on exactly N requests, in the order in which they came.
"""

from __future__ import annotations

import asyncio
import enum
import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus

from deploy.lab.wire import Head


class Action(enum.StrEnum):
    """What happens to a request."""

    DELAY = "delay"  # wait `seconds`, then go on
    DROP = "drop"  # break the connection, the API server never sees the request
    LOSE = "lose"  # the API server works on it, the connection breaks before the answer
    ANSWER = "answer"  # answer with `status` in the API server's place
    SILENCE = "silence"  # nothing more comes: at once, or on a watch after `after` events
    END = "end"  # a watch ends cleanly after `after` events
    CUT = "cut"  # a watch's connection breaks after `after` events
    CORRUPT = "corrupt"  # the line after `after` events of a watch is garbage, cut in the middle
    EXPIRE = "expire"  # a watch gets an ERROR event with `status` (410) after `after` events, and ends


_STREAM = {Action.END, Action.CUT, Action.CORRUPT, Action.EXPIRE}


@dataclass(eq=False)
class Fault:
    """One rule. `method` must match whole, `path` anywhere in path and query; both are regular expressions."""

    action: Action
    method: str = ".*"
    path: str = ".*"
    times: int | None = 1
    """How many requests it acts on; `None` is all until it is removed."""
    seconds: float = 0.0
    status: int = 500
    reason: str = ""
    retry_after: int | None = None
    html: bool = False
    """Answer with a load balancer's HTML page instead of a Status object."""
    after: int = 0
    watch: bool | None = None
    """True: watches only, false: anything else only."""
    hits: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set when it acted on all its requests (or on the first, when `times` is `None`)."""

    def matches(self, request: Head) -> bool:
        """Whether it would act on this request now."""
        if self.times is not None and self.hits >= self.times:
            return False
        if self.action in _STREAM and not request.is_watch:
            return False
        if self.watch is not None and self.watch != request.is_watch:
            return False
        return bool(re.fullmatch(self.method, request.method) and re.search(self.path, request.target))

    def take(self) -> None:
        """Count one request."""
        self.hits += 1
        if self.times is None or self.hits >= self.times:
            self.happened.set()

    async def wait(self, deadline: float = 30.0) -> None:
        """Until it acted on all its requests; raises `TimeoutError` after `deadline` seconds."""
        async with asyncio.timeout(deadline):
            await self.happened.wait()


def choose(faults: list[Fault], request: Head) -> tuple[Fault | None, Fault | None]:
    """The delay and the other action for a request, first rule first; both are counted."""
    delay = next((f for f in faults if f.action is Action.DELAY and f.matches(request)), None)
    other = next((f for f in faults if f.action is not Action.DELAY and f.matches(request)), None)
    for chosen in (delay, other):
        if chosen is not None:
            chosen.take()
    return delay, other


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def status_object(code: int, reason: str = "", retry_after: int | None = None) -> bytes:
    """A Kubernetes Status of failure as JSON."""
    status: dict[str, object] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"answered by the fault proxy with {code}",
        "reason": reason or _REASONS.get(code, ""),
        "code": code,
    }
    if retry_after is not None:
        status["details"] = {"retryAfterSeconds": retry_after}
    return json.dumps(status).encode()


def answer(fault: Fault) -> bytes:
    """The whole answer of an `ANSWER` rule, as bytes on the wire."""
    phrase = HTTPStatus(fault.status).phrase
    if fault.html:
        body = f"<html><head><title>{fault.status} {phrase}</title></head><body>{phrase}</body></html>".encode()
    else:
        body = status_object(fault.status, fault.reason, fault.retry_after)
    head = Head(f"HTTP/1.1 {fault.status} {phrase}")
    head.headers = [
        ("Content-Type", "text/html" if fault.html else "application/json"),
        ("Content-Length", str(len(body))),
    ]
    if fault.retry_after is not None:
        head.headers.append(("Retry-After", str(fault.retry_after)))
    return head.encoded() + body


def expired_event(code: int) -> bytes:
    """The line of a watch that says that it cannot go on."""
    return b'{"type":"ERROR","object":%b}\n' % status_object(code or 410)
