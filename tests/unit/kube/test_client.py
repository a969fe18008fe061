"""The client: deadlines, retries, errors, records of calls."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from yoban.kube.client import ATTEMPTS, PARSE_AT_ONCE, Call, Client, Retry, _parse_list
from yoban.kube.errors import (
    AlreadyExists,
    ApiError,
    BadAnswer,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Rejected,
    ServerError,
    Timeout,
    TooLargeResourceVersion,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    from_answer,
    from_status,
)
from yoban.kube.informer import drop_bookkeeping
from yoban.kube.objects import Obj
from yoban.kube.resource import CONFIG_MAP, NAMESPACE, NODE, Resource
from yoban.kube.transport import Answer
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer

A: Obj = {"metadata": {"namespace": "ns", "name": "a"}}


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", Rejected),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (410, "Gone", Gone),
        (413, "", Rejected),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ServerError),
        (503, "", ServerError),
        (302, "", ApiError),
    ],
)
def test_each_answer_has_its_error(code: int, reason: str, kind: type[ApiError]) -> None:
    error = from_status({"code": code, "reason": reason, "message": "m"}, object="ConfigMap ns/a")
    assert type(error) is kind
    assert error.status == code
    assert str(error) == "ConfigMap ns/a: m"


def test_an_answer_that_is_no_status_is_quoted_in_short() -> None:
    error = from_answer(502, {"Retry-After": "7"}, b"<html>" + b"x" * 500)
    assert type(error) is ServerError
    assert error.retry_after == 7.0
    assert "<html>" in str(error)
    assert len(str(error)) < 300
    assert type(from_answer(404, {}, b"[1]")) is NotFound
    assert from_answer(503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"").retry_after is None


def test_details_are_read() -> None:
    details = {"causes": [{"field": "spec.x", "message": "bad"}], "retryAfterSeconds": 3}
    error = from_status({"code": 422, "details": details})
    assert isinstance(error, Invalid)
    assert error.causes == [("spec.x", "bad")]
    assert error.retry_after == 3.0
    large = {"code": 504, "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}
    assert type(from_status(large)) is TooLargeResourceVersion
    assert type(from_status({"code": 504, "message": "Too large resource version: 5"})) is TooLargeResourceVersion
    assert type(from_status({})) is ApiError


async def test_safe_verbs_are_retried_a_few_times(server: FakeApiServer, client: Client) -> None:
    server.put(CONFIG_MAP, A)
    server.fail(status_answer(503), times=2)
    await client.get(CONFIG_MAP, "a", "ns")
    assert len(server.requests) == 3
    server.fail(status_answer(500), times=1000)
    with pytest.raises(ServerError):
        await client.apply(CONFIG_MAP, A)
    assert len(server.requests) == 3 + ATTEMPTS


async def test_retry_after_is_waited_within_the_deadline(server: FakeApiServer, client: Client) -> None:
    loop = asyncio.get_running_loop()
    server.put(CONFIG_MAP, A)
    server.fail(status_answer(429, retry_after=5))
    start = loop.time()
    await client.get(CONFIG_MAP, "a", "ns")
    assert loop.time() - start == pytest.approx(5)
    server.fail(status_answer(429, retry_after=500))
    start = loop.time()
    with pytest.raises(TooManyRequests) as caught:
        await client.get(CONFIG_MAP, "a", "ns")
    assert loop.time() == start, "what does not fit into the deadline is not waited for"
    assert caught.value.retry_after == 500


async def test_what_may_have_been_done_is_not_repeated(server: FakeApiServer, client: Client) -> None:
    for failure in (status_answer(500), Unreachable("lost"), Timeout("late")):
        server.requests.clear()
        server.fail(failure, verb="create")
        with pytest.raises(ApiError):
            await client.create(CONFIG_MAP, A)
        assert len(server.requests) == 1
    for refused in (status_answer(429), Unreachable("refused", sent=False)):
        server.fail(refused, verb="create")
    server.requests.clear()
    await client.create(CONFIG_MAP, A)
    assert len(server.requests) == 3
    server.fail(status_answer(429), verb="list")
    with pytest.raises(TooManyRequests):
        await client.list(CONFIG_MAP, retry=Retry.NEVER)


async def test_a_deletion_is_repeated_only_when_the_uid_says_which(server: FakeApiServer, client: Client) -> None:
    made = server.put(CONFIG_MAP, A)
    server.fail(status_answer(500), verb="delete")
    with pytest.raises(ServerError):
        await client.delete(CONFIG_MAP, "a", "ns")
    server.fail(status_answer(500), verb="delete")
    assert await client.delete(
        CONFIG_MAP, "a", "ns", uid=made["metadata"]["uid"], propagation="Foreground", grace_seconds=0
    )
    assert server.requests[-1].body["gracePeriodSeconds"] == 0
    assert server.requests[-1].body["propagationPolicy"] == "Foreground"


async def test_every_call_ends_by_its_deadline(server: FakeApiServer, client: Client) -> None:
    server.faults.append(lambda request: asyncio.sleep(1e9))  # type: ignore[arg-type,return-value]
    loop = asyncio.get_running_loop()
    for timeout in (3.0, 25.0):
        start = loop.time()
        with pytest.raises(Timeout):
            await client.get(CONFIG_MAP, "a", "ns", timeout=timeout)
        assert loop.time() - start <= timeout + 0.1
    with pytest.raises(Timeout):
        async with client.watch(CONFIG_MAP, resource_version="5", timeout_seconds=60):
            pass


async def test_calls_are_recorded_in_the_words_of_rbac(server: FakeApiServer) -> None:
    calls: list[Call] = []
    client = Client(server, on_call=calls.append)
    widget = Resource("kube.yoban.test", "v1", "widgets", "Widget")
    server.register(widget)
    await client.apply(widget, A)
    await client.apply_status(widget, {**A, "status": {}})
    await client.list(widget)
    async with client.watch(widget, "ns", resource_version=server.version, timeout_seconds=60):
        pass
    await client.find(NODE, "n")
    await client.create(CONFIG_MAP, A)
    await client.delete(CONFIG_MAP, "a", "ns")
    assert calls == [
        Call("patch", "kube.yoban.test", "widgets", "ns", "a"),
        Call("patch", "kube.yoban.test", "widgets/status", "ns", "a"),
        Call("list", "kube.yoban.test", "widgets", "", ""),
        Call("watch", "kube.yoban.test", "widgets", "ns", ""),
        Call("get", "", "nodes", "", "n"),
        Call("create", "", "configmaps", "ns", "a"),
        Call("delete", "", "configmaps", "ns", "a"),
    ]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
async def test_an_answer_that_is_no_object_is_bad(server: FakeApiServer, client: Client, body: bytes) -> None:
    server.fail(Answer(200, {}, body), times=2)
    with pytest.raises(BadAnswer):
        await client.get(CONFIG_MAP, "a", "ns")
    with pytest.raises(BadAnswer):
        await client.list(CONFIG_MAP)


async def test_a_list_without_a_version_is_bad(server: FakeApiServer, client: Client) -> None:
    server.fail(Answer(200, {}, b'{"metadata":{},"items":[]}'))
    with pytest.raises(BadAnswer, match="no resource version"):
        await client.list(CONFIG_MAP)
    server.fail(Answer(200, {}, b'{"metadata":{"resourceVersion":"7"},"items":null}'))
    assert (await client.list(CONFIG_MAP)).items == []


async def test_3_12_a_large_list_gives_the_loop_its_turn() -> None:
    items = [{"metadata": {"name": f"n{n}"}} for n in range(PARSE_AT_ONCE * 4)]
    body = msgspec.json.encode({"kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": items})
    turns = 0
    done = False

    async def count() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    listed = await _parse_list(body, CONFIG_MAP)
    done = True
    await counter
    assert len(listed.items) == PARSE_AT_ONCE * 4
    assert turns >= 3


async def test_a_large_list_is_never_whole_in_memory() -> None:
    """Each object is shrunk before the next is decoded: what is dropped (`managedFields`) is never there twice."""
    import tracemalloc

    def item(number: int) -> dict[str, Any]:
        return {"metadata": {"name": f"n{number}", "managedFields": [{"f": {f"f{i}": {} for i in range(50)}}]}}

    items = [item(number) for number in range(PARSE_AT_ONCE)]
    body = msgspec.json.encode({"kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": items})
    tracemalloc.start()
    try:
        listed = await _parse_list(body, CONFIG_MAP, drop_bookkeeping)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [obj["metadata"] for obj in listed.items] == [{"name": f"n{n}"} for n in range(PARSE_AT_ONCE)]
    assert peak < 2 * kept


async def test_an_object_given_is_not_changed(server: FakeApiServer, client: Client) -> None:
    made = server.put(CONFIG_MAP, A)
    before = msgspec.json.encode(made)
    await client.patch(CONFIG_MAP, "a", "ns", {"metadata": made["metadata"]})
    patch: dict[str, Any] = {"metadata": {"labels": {"x": "y"}}}
    version = made["metadata"]["resourceVersion"]
    await client.patch(CONFIG_MAP, "a", "ns", patch, resource_version=version)
    assert patch == {"metadata": {"labels": {"x": "y"}}}
    assert msgspec.json.encode(made) == before


def test_paths_are_quoted_and_checked() -> None:
    assert CONFIG_MAP.path("ns", "a") == "/api/v1/namespaces/ns/configmaps/a"
    assert CONFIG_MAP.path("ns", "../x") == "/api/v1/namespaces/ns/configmaps/..%2Fx"
    widget = Resource("kube.yoban.test", "v1", "widgets", "Widget")
    assert widget.path("ns", "a", "status") == "/apis/kube.yoban.test/v1/namespaces/ns/widgets/a/status"
    assert NAMESPACE.path(None, "a") == "/api/v1/namespaces/a"
    assert str(widget) == "widgets.kube.yoban.test"
    for namespace, name in ((None, "a"), ("ns", ""), ("ns", "..")):
        with pytest.raises(ValueError, match=r"namespace|no name"):
            CONFIG_MAP.path(namespace, name)
    with pytest.raises(ValueError, match="cluster-scoped"):
        NODE.path("ns")


async def test_an_api_call_within_a_span_has_a_span() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from yoban.kube import client as module

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    kept, module._tracer = module._tracer, provider.get_tracer("test")
    try:
        client = Client(FakeApiServer())
        await client.find(CONFIG_MAP, "a", "ns")
        assert exporter.get_finished_spans() == (), "nothing outside of one"
        with provider.get_tracer("test").start_as_current_span("reconcile"):
            await client.find(CONFIG_MAP, "a", "ns")
    finally:
        module._tracer = kept
    call, parent = exporter.get_finished_spans()
    assert call.name == "get configmaps"
    assert call.parent is not None
    assert parent.context is not None
    assert call.parent.span_id == parent.context.span_id


async def test_a_watch_that_is_refused_tells_why(server: FakeApiServer, client: Client) -> None:
    server.fail(status_answer(403, "Forbidden", "no"), verb="watch")
    with pytest.raises(Forbidden, match="no"):
        async with client.watch(CONFIG_MAP, "ns", resource_version="5", timeout_seconds=60):
            pass
    with pytest.raises(NotFound):
        async with client.watch(Resource("x.test", "v1", "things", "Thing"), resource_version="5", timeout_seconds=60):
            pass
