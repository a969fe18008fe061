"""The client of the Kubernetes API: verbs on plain dicts, each with a deadline and typed errors.

Guarantees: every call ends within its `timeout`, retries included; only what is safe to repeat is repeated, and only a few
times; an object given to a verb is not changed. Does not cache, and does not limit the rate: the server's own
priority-and-fairness does that, and its 429 is honoured.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
from opentelemetry import trace

from yoban.kube.backoff import BackoffPolicy, Random, default_random
from yoban.kube.config import ClusterConfig
from yoban.kube.errors import (
    ApiError,
    BadAnswer,
    NotFound,
    ServerError,
    Timeout,
    TooLargeResourceVersion,
    TooManyRequests,
    Unreachable,
    from_answer,
)
from yoban.kube.metrics import Tally
from yoban.kube.objects import Obj, describe, name_of, namespace_of
from yoban.kube.reach import Reach
from yoban.kube.resource import Resource, quoted
from yoban.kube.transport import HttpTransport, Transport
from yoban.kube.watch import WatchStream

CALL_TIMEOUT = 30.0  # seconds for a call, retries included
ATTEMPT_TIMEOUT = 10.0  # seconds for one try of it
LIST_TIMEOUT = 60.0  # seconds for one try of a list, which may be large
ATTEMPTS = 4
PARSE_AT_ONCE = 500  # objects decoded without giving the loop a turn

requests_total = Tally("yoban.kube.requests", "Requests to the API server", ("verb", "resource", "code"))
_tracer = trace.get_tracer("yoban.kube")
_RETRIES = BackoffPolicy(initial=0.1, factor=2.0, cap=2.0, jitter=0.5)
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


class Retry(Enum):
    """What may be repeated after a failure."""

    SAFE = "safe"  # the request is idempotent: any failure of the server or the way to it
    REFUSED = "refused"  # only when it is known that the server did not act
    NEVER = "never"  # the caller has its own back-off


@dataclass(frozen=True, slots=True)
class Call:
    """One request made, in RBAC's words."""

    verb: str
    group: str
    resource: str  # with the subresource: `databases/status`
    namespace: str
    name: str


class Writes:
    """Counts the requests sent that may have changed something, whatever was answered."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


writes: ContextVar[Writes | None] = ContextVar("yoban_writes", default=None)
"""Where the present context counts its writes: a controller sets one for each pass."""


@dataclass(frozen=True, slots=True)
class ObjectList:
    """The answer to a list: `resource_version` is where a watch goes on, `continue_token` "" on the last page."""

    items: list[Obj]
    resource_version: str
    continue_token: str = ""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _RawList(msgspec.Struct):
    metadata: _ListMeta
    kind: str = ""
    apiVersion: str = ""
    items: list[msgspec.Raw] | None = None


_LIST = msgspec.json.Decoder(_RawList)


class Client:
    """One connection pool to one API server; shared by everything in the process.

    Args:
        transport: the way to the server.
        field_manager: who we are in `managedFields`, unless a call says otherwise.
        on_call: told of each request before it is sent; a test compares them with the RBAC rules.
        random: jitter; for tests.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        field_manager: str = "yoban",
        on_call: Callable[[Call], None] | None = None,
        random: Random = default_random,
    ) -> None:
        self.transport = transport
        self.reach = Reach(transport, random)
        """Tells whoever waits because nobody was at the server's address when somebody is."""
        self.field_manager = field_manager
        self._on_call = on_call
        self._random = random

    @classmethod
    def connect(cls, config: ClusterConfig, **options: Any) -> Client:
        """A client over HTTP; call it inside the running loop and `close` it in the end."""
        return cls(HttpTransport(config), **options)

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self.reach.close()
        await self.transport.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    async def get(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> Obj:
        """The object, as stored now; with `resource_version="0"` maybe an older one from the server's cache.

        Raises `NotFound` and the other errors of `yoban.kube.errors`.
        """
        query = {"resourceVersion": resource_version} if resource_version is not None else None
        return await self._object("get", resource, namespace, name, query=query, timeout=timeout, retry=Retry.SAFE)

    async def find(
        self, resource: Resource, name: str, namespace: str | None = None, *, timeout: float = CALL_TIMEOUT
    ) -> Obj | None:
        """As `get`, with None for an object that is not there."""
        try:
            return await self.get(resource, name, namespace, timeout=timeout)
        except NotFound:
            return None

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        resource_version: str | None = None,
        match: str | None = None,
        limit: int | None = None,
        continue_token: str | None = None,
        timeout: float = CALL_TIMEOUT * 2,
        retry: Retry = Retry.SAFE,
        transform: Callable[[Obj], Obj] | None = None,
    ) -> ObjectList:
        """One page of the collection (all of it without `limit`), in one namespace or in all.

        Args:
            labels, fields: selectors in the API's syntax.
            resource_version: None reads consistently, "0" whatever the server's cache has, else something not older.
            match: `Exact` or `NotOlderThan`, how `resource_version` is meant.
            limit, continue_token: paging; the token of a page that took too long ends in `Gone`.
            timeout: seconds in all.
            retry: `NEVER` where the caller backs off by itself.
            transform: shrinks each object before the next is decoded, so that a long list is never whole in memory.
        """
        query = _query(
            labelSelector=labels,
            fieldSelector=fields,
            resourceVersion=resource_version,
            resourceVersionMatch=match,
            limit=limit,
            **{"continue": continue_token},
        )
        body = await self._call(
            "list", "GET", resource, namespace, None, query=query, timeout=timeout, attempt=LIST_TIMEOUT, retry=retry
        )
        return await _parse_list(body, resource, transform)

    @contextlib.asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str | None = None,
        fields: str | None = None,
        timeout_seconds: int,
        bookmarks: bool = True,
        initial_events: bool = False,
        timeout: float = ATTEMPT_TIMEOUT,
    ) -> AsyncIterator[WatchStream]:
        """The stream of events after `resource_version`; leaving the block closes the connection.

        Args:
            timeout_seconds: after which the server ends the stream.
            initial_events: ask for the present state first (KEP-3157); the end is a bookmark with an annotation.
            timeout: seconds until the headers must be there. No retries: the reflector has its own back-off.

        Raises ValueError for a version that would replay everything, and `ApiError`.
        """
        if not initial_events and resource_version in ("", "0"):
            raise ValueError("a watch from no version replays everything and misses deletions; list first")
        query = _query(
            watch="true",
            resourceVersion=resource_version or None,
            labelSelector=labels,
            fieldSelector=fields,
            allowWatchBookmarks="true" if bookmarks else None,
            timeoutSeconds=timeout_seconds,
            sendInitialEvents="true" if initial_events else None,
            resourceVersionMatch="NotOlderThan" if initial_events else None,
        )
        self._note("watch", resource, namespace, "", None)
        target = _target(resource.path(namespace), query)
        code = "0"
        try:
            async with self.transport.stream(target, deadline=timeout) as stream:
                code = str(stream.status)
                requests_total.add("watch", str(resource), code)
                self.reach.answered()
                if stream.status != 200:
                    body = await _read_some(stream, timeout)
                    raise from_answer(stream.status, stream.headers, body, object=describe(resource, namespace, None))
                yield WatchStream(stream)
        finally:
            if code == "0":
                requests_total.add("watch", str(resource), code)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def create(
        self,
        resource: Resource,
        obj: Obj,
        *,
        field_manager: str | None = None,
        dry_run: bool = False,
        timeout: float = CALL_TIMEOUT,
    ) -> Obj:
        """Store a new object and return it. Raises `AlreadyExists`; repeated only when the server surely did not act."""
        query = _query(fieldManager=field_manager or self.field_manager, dryRun="All" if dry_run else None)
        return await self._object(
            "create", resource, namespace_of(obj), None, query=query, body=obj, timeout=timeout, retry=Retry.REFUSED,
            content_type="application/json", method="POST",
        )  # fmt: skip

    async def apply(
        self,
        resource: Resource,
        obj: Obj,
        *,
        field_manager: str | None = None,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
        timeout: float = CALL_TIMEOUT,
    ) -> Obj:
        """Server-side apply: create the object or make the given fields so, and return it as stored.

        `obj` holds the **full** set of fields that `field_manager` owns; one that is left out is given up, and deleted when
        nobody else owns it. It must hold no `managedFields` (ValueError); `resourceVersion` makes it conditional. With
        `force` fields of other managers are taken over, without it that is a `Conflict`.
        """
        if "managedFields" in obj.get("metadata", {}):
            raise ValueError("apply takes the fields you own, not an object that was read")
        query = _query(
            fieldManager=field_manager or self.field_manager,
            force="true" if force else None,
            dryRun="All" if dry_run else None,
        )
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        return await self._object(
            "patch", resource, namespace_of(obj), name_of(obj), subresource, query=query, body=body, timeout=timeout,
            retry=Retry.SAFE, content_type="application/apply-patch+yaml", method="PATCH",
        )  # fmt: skip

    async def apply_status(self, resource: Resource, obj: Obj, *, field_manager: str | None = None) -> Obj:
        """Server-side apply of the status subresource; see `apply`."""
        return await self.apply(resource, obj, field_manager=field_manager, subresource="status")

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any] | Sequence[Any],
        *,
        resource_version: str | None = None,
        subresource: str | None = None,
        field_manager: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> Obj:
        """A merge patch (a mapping) or a JSON patch (a list of operations).

        With `resource_version` it is done only if the object still has that version, else `Conflict`: always give it when the
        patch holds a list, which a merge patch replaces as a whole.
        """
        body: Any = patch
        if isinstance(patch, Mapping):
            content_type = "application/merge-patch+json"
            if resource_version is not None:
                body = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": resource_version}}
        else:
            content_type = "application/json-patch+json"
            if resource_version is not None:
                # Writing the version makes the server compare it: a 409, where a failed test would be a 422.
                lock = {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version}
                body = [lock, *patch]
        return await self._object(
            "patch", resource, namespace, name, subresource, query={"fieldManager": field_manager or self.field_manager},
            body=body, timeout=timeout, retry=Retry.REFUSED, content_type=content_type, method="PATCH",
        )  # fmt: skip

    async def update(
        self,
        resource: Resource,
        obj: Obj,
        *,
        subresource: str | None = None,
        field_manager: str | None = None,
        timeout: float = CALL_TIMEOUT,
        retry: Retry = Retry.REFUSED,
    ) -> Obj:
        """Replace the object; for locks and hand-over only. `Conflict` when its `resourceVersion` is not the present one."""
        return await self._object(
            "update", resource, namespace_of(obj), name_of(obj), subresource,
            query={"fieldManager": field_manager or self.field_manager}, body=obj, timeout=timeout, retry=retry,
            content_type="application/json", method="PUT",
        )  # fmt: skip

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
        grace_seconds: int | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> bool:
        """Ask for the deletion of the object; False when it was not there already.

        Args:
            uid, resource_version: preconditions; `Conflict` when the object is another one by now.
            propagation: `Background`, `Foreground` or `Orphan` for its dependants.
            grace_seconds: for Pods, seconds until they are killed.
        """
        options: Obj = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid or resource_version:
            options["preconditions"] = _query(uid=uid, resourceVersion=resource_version)
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            # The second try of a deletion might hit the object's successor, unless the uid says which one is meant.
            retry = Retry.SAFE if uid else Retry.REFUSED
            await self._call(
                "delete", "DELETE", resource, namespace, name, body=options, timeout=timeout, retry=retry,
                content_type="application/json",
            )  # fmt: skip
        except NotFound:
            return False
        return True

    # -- the way there ---------------------------------------------------------------------------------------------

    async def _object(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        subresource: str | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float,
        retry: Retry,
        content_type: str | None = None,
        method: str = "GET",
    ) -> Obj:
        answer = await self._call(
            verb, method, resource, namespace, name, subresource, query=query, body=body, timeout=timeout, retry=retry,
            content_type=content_type,
        )  # fmt: skip
        try:
            return _OBJECT.decode(answer)
        except msgspec.DecodeError as error:
            raise BadAnswer(
                "the answer is no object", object=describe(resource, namespace, name), cause=str(error)
            ) from error

    async def _call(
        self,
        verb: str,
        method: str,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        subresource: str | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float,
        attempt: float = ATTEMPT_TIMEOUT,
        retry: Retry,
        content_type: str | None = None,
    ) -> bytes:
        target = _target(resource.path(namespace, name, subresource), query)
        data = msgspec.json.encode(body) if body is not None else None
        named = name or (name_of(body) if isinstance(body, dict) else None) or None
        span = trace.get_current_span()
        if not span.is_recording():
            return await self._tries(
                verb,
                method,
                resource,
                namespace,
                named,
                subresource,
                target,
                data,
                content_type,
                timeout,
                attempt,
                retry,
            )
        with _tracer.start_as_current_span(
            f"{verb} {resource}", attributes={"k8s.namespace.name": namespace or "", "k8s.object.name": named or ""}
        ):
            return await self._tries(
                verb,
                method,
                resource,
                namespace,
                named,
                subresource,
                target,
                data,
                content_type,
                timeout,
                attempt,
                retry,
            )

    async def _tries(
        self,
        verb: str,
        method: str,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        subresource: str | None,
        target: str,
        data: bytes | None,
        content_type: str | None,
        timeout: float,
        attempt: float,
        retry: Retry,
    ) -> bytes:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        tried = 0
        if method != "GET" and (count := writes.get()) is not None:
            count.total += 1
        while True:
            tried += 1
            self._note(verb, resource, namespace, name or "", subresource)
            error: ApiError
            try:
                answer = await self.transport.request(
                    method,
                    target,
                    body=data,
                    content_type=content_type,
                    deadline=min(attempt, max(0.001, end - loop.time())),
                )
            except ApiError as failure:
                error = failure
                requests_total.add(verb, str(resource), "0")
            else:
                requests_total.add(verb, str(resource), str(answer.status))
                self.reach.answered()
                if answer.status < 300:
                    return answer.body
                error = from_answer(
                    answer.status, answer.headers, answer.body, object=describe(resource, namespace, name)
                )
            delay = max(_RETRIES.delay(tried - 1, self._random), error.retry_after or 0.0)
            if tried >= ATTEMPTS or not _may_repeat(error, retry) or loop.time() + delay >= end:
                raise error
            if self.reach.away and isinstance(error, Unreachable):
                raise error  # known to be away for longer: the caller can wait for its return
            await asyncio.sleep(delay)

    def _note(self, verb: str, resource: Resource, namespace: str | None, name: str, subresource: str | None) -> None:
        if self._on_call is not None:
            plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
            self._on_call(Call(verb, resource.group, plural, namespace or "", name))


def _may_repeat(error: ApiError, retry: Retry) -> bool:
    if retry is Retry.NEVER:
        return False
    if isinstance(error, TooManyRequests):
        return True
    if isinstance(error, Unreachable) and not error.sent:
        return True
    return (
        retry is Retry.SAFE
        and isinstance(error, ServerError | Timeout)
        and not isinstance(error, TooLargeResourceVersion)
    )


def _query(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    if not query:
        return path
    return path + "?" + "&".join([f"{name}={quoted(str(value))}" for name, value in query.items()])


async def _parse_list(body: bytes, resource: Resource, transform: Callable[[Obj], Obj] | None = None) -> ObjectList:
    """The list in `body`, decoded in portions between which the loop gets its turn.

    A thread would not help: the decoder holds the interpreter's lock.
    """
    try:
        raw = _LIST.decode(body)
        kind = {"apiVersion": raw.apiVersion, "kind": raw.kind.removesuffix("List")}
        items: list[Obj] = []
        for number, item in enumerate(raw.items or ()):
            if number and number % PARSE_AT_ONCE == 0:
                await asyncio.sleep(0)
            # Items of built-in kinds come without apiVersion and kind; a watch gives them: make both look alike.
            obj = _OBJECT.decode(item)
            if "kind" not in obj:
                obj = kind | obj
            items.append(obj if transform is None else transform(obj))
    except msgspec.DecodeError as error:
        raise BadAnswer("the answer is no list", object=str(resource), cause=str(error)) from error
    if not raw.metadata.resource_version:
        raise BadAnswer("the list has no resource version", object=str(resource))
    return ObjectList(items, raw.metadata.resource_version, raw.metadata.continue_)


async def _read_some(stream: Any, timeout: float) -> bytes:
    body = b""
    with contextlib.suppress(TimeoutError, ApiError):
        async with asyncio.timeout(timeout):
            while len(body) < 65536 and (chunk := await stream.read()):
                body += chunk
    return body
