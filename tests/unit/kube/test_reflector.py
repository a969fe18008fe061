"""Rules 3.2: list and watch. Each test bears the number of its rule."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import Unreachable
from yoban.kube.objects import Obj, key_of, resource_version_of
from yoban.kube.reflector import Reflector, ReflectorSettings, Scope, bad_lines_total, failures_total
from yoban.kube.resource import CONFIG_MAP
from yoban.kube.transport import Answer
from yoban.kube.watch import LineSplitter
from yoban.testing.apirequest import Request
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer


class Sink:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.objects: dict[str, Obj] = {}
        self.log: list[tuple[str, Any]] = []

    def replace(self, items: list[Obj], scope: str | None) -> None:
        self.objects = {str(key_of(o)): o for o in items}
        self.log.append(("replace", sorted(self.objects)))

    def change(self, obj: Obj) -> None:
        self.objects[str(key_of(obj))] = obj
        self.log.append(("change", str(key_of(obj))))

    def delete(self, obj: Obj) -> None:
        self.objects.pop(str(key_of(obj)), None)
        self.log.append(("delete", str(key_of(obj))))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.log]


class Watching:
    """A reflector at work."""

    def __init__(self, server: FakeApiServer, client: Client, **settings: Any) -> None:
        self.server = server
        self.sink = Sink()
        self.reflector = Reflector(
            client, Scope(CONFIG_MAP), self.sink, settings=ReflectorSettings(**settings), random=lambda: 0.5
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Watching]:
        task = asyncio.create_task(self.reflector.run())
        await asyncio.sleep(0.1)
        try:
            yield self
        finally:
            assert not task.done(), "the reflector ended by itself"
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def names(self) -> list[str]:
        return sorted(self.sink.objects)

    def converged(self) -> bool:
        stored = {str(key_of(o)): resource_version_of(o) for o in self.server.objects(CONFIG_MAP)}
        return stored == {k: resource_version_of(o) for k, o in self.sink.objects.items()}


def made(server: FakeApiServer, name: str, **data: str) -> Obj:
    return server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": name}, "data": data})


def lists(server: FakeApiServer) -> list[dict[str, str]]:
    return [dict(r.query) for r in server.requests if r.verb == "list"]


def watches(server: FakeApiServer) -> list[dict[str, str]]:
    return [dict(r.query) for r in server.requests if r.verb == "watch"]


async def test_3_2_1_watch_starts_at_the_version_of_the_list(server: FakeApiServer, client: Client) -> None:
    made(server, "a")
    version = server.version
    async with Watching(server, client).run() as w:
        assert w.names() == ["ns/a"]
        assert [q["resourceVersion"] for q in watches(server)] == [version]


@pytest.mark.parametrize("version", ["", "0"])
async def test_3_2_1_a_watch_from_no_version_is_refused(client: Client, version: str) -> None:
    with pytest.raises(ValueError, match="list first"):
        async with client.watch(CONFIG_MAP, resource_version=version, timeout_seconds=5):
            pass


async def test_3_2_2_first_list_takes_the_cache_or_is_consistent(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run():
        assert lists(server)[0]["resourceVersion"] == "0"
    server.requests.clear()
    async with Watching(server, client, consistent=True).run():
        assert "resourceVersion" not in lists(server)[0]


async def test_3_2_2_relist_uses_the_last_version_and_no_limit(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        made(server, "a")
        await asyncio.sleep(1)
        version = server.version
        server.inject(b"no event\n")
        await asyncio.sleep(10)
        assert lists(server)[1]["resourceVersion"] == version
        assert all("limit" not in q for q in lists(server))
        assert w.converged()


async def test_3_2_2_after_410_the_list_is_consistent_and_at_once(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        server.expire_watches()
        made(server, "late")
        await asyncio.sleep(0.1)
        assert len(lists(server)) == 2
        assert "resourceVersion" not in lists(server)[1]
        assert w.names() == ["ns/late"]


async def test_3_2_2_too_large_version_is_listed_again_at_once_without_one(
    server: FakeApiServer, client: Client
) -> None:
    made(server, "a")
    async with Watching(server, client).run() as w:
        server._version += 1000
        made(server, "b")
        await asyncio.sleep(1)
        server._version -= 900  # as after the restore of an older etcd
        server.inject(b"bad line\n")
        await asyncio.sleep(10)
        assert [q.get("resourceVersion") for q in lists(server)] == ["0", "1102", None]
        assert w.names() == ["ns/a", "ns/b"]


async def test_3_2_2_a_410_answer_to_a_list_is_retried_at_once_without_version(
    server: FakeApiServer, client: Client
) -> None:
    server.fail(status_answer(410, "Expired"), verb="list")
    made(server, "a")
    async with Watching(server, client).run() as w:
        assert [q.get("resourceVersion") for q in lists(server)] == ["0", None]
        assert w.names() == ["ns/a"]


async def test_3_2_3_versions_are_opaque_and_never_compared(server: FakeApiServer, client: Client) -> None:
    """Events in the order 900, 100: the watch resumes from the last one seen, whatever number it is."""
    async with Watching(server, client).run():
        for version in ("900", "100"):
            obj = {"metadata": {"namespace": "ns", "name": f"n{version}", "resourceVersion": version, "uid": version}}
            server.inject(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")
        await asyncio.sleep(2)
        server.end_watches()
        await asyncio.sleep(2)
        assert watches(server)[1]["resourceVersion"] == "100"


async def test_3_2_3_a_bookmark_moves_the_version_on(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run():
        server.put(CONFIG_MAP.__class__("", "v1", "pods", "Pod"), {"metadata": {"namespace": "ns", "name": "p"}})
        version = server.version  # a change of another kind: only a bookmark tells
        await asyncio.sleep(61)
        server.end_watches()
        await asyncio.sleep(1)
        assert watches(server)[1]["resourceVersion"] == version


async def test_3_2_4_watch_asks_for_bookmarks_and_a_random_end(server: FakeApiServer, client: Client) -> None:
    seconds = set()
    for draw in (0.0, 0.3, 0.999):
        sink = Sink()
        reflector = Reflector(client, Scope(CONFIG_MAP), sink, random=lambda draw=draw: draw)
        task = asyncio.create_task(reflector.run())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for query in watches(server):
        assert query["allowWatchBookmarks"] == "true"
        assert 300 <= int(query["timeoutSeconds"]) <= 600
        seconds.add(query["timeoutSeconds"])
    assert len(seconds) == 3


async def test_3_2_5_a_normal_end_resumes_at_once_from_the_last_version(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        made(server, "a")
        await asyncio.sleep(0.1)
        server.end_watches()
        await asyncio.sleep(0.01)
        assert [q["resourceVersion"] for q in watches(server)][1:] == [server.version]
        assert len(lists(server)) == 1
        assert w.converged()


async def test_3_2_5_a_server_that_ends_every_watch_at_once_is_not_hammered(
    server: FakeApiServer, client: Client
) -> None:
    """6068 requests in 3 s were seen with another library."""

    def empty(request: Request) -> Answer | None:
        return Answer(200, {}, b"") if request.verb == "watch" else None

    server.faults.append(empty)
    async with Watching(server, client).run() as w:
        await asyncio.sleep(60)
        assert 3 <= len(watches(server)) <= 10
        assert len(lists(server)) == 1, "nothing says that the version is bad"
        assert "very short watch" in w.reflector.last_error


async def test_3_2_5_short_watches_that_bring_something_are_bounded_too(server: FakeApiServer, client: Client) -> None:
    def one_event(request: Request) -> Answer | None:
        if request.verb != "watch":
            return None
        obj = {"metadata": {"namespace": "ns", "name": "a", "resourceVersion": "101", "uid": "u"}}
        return Answer(200, {}, json.dumps({"type": "MODIFIED", "object": obj}).encode() + b"\n")

    server.faults.append(one_event)
    async with Watching(server, client).run():
        await asyncio.sleep(60)
        assert len(watches(server)) <= 16


@pytest.mark.parametrize("failure", [Unreachable("refused", sent=False), status_answer(429, "TooManyRequests")])
async def test_3_2_6_refused_and_429_rewatch_from_the_same_version(
    server: FakeApiServer, client: Client, failure: Answer | Exception
) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        server.fail(failure, verb="watch", times=3)
        version = server.version
        server.end_watches()
        await asyncio.sleep(30)
        made(server, "a")
        await asyncio.sleep(1)
        assert len(lists(server)) == 1
        assert {q["resourceVersion"] for q in watches(server)[1:5]} == {version}
        assert w.converged()


async def test_3_2_6_retry_after_is_honoured(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run():
        await asyncio.sleep(5)
        server.fail(status_answer(429, "TooManyRequests", retry_after=40), verb="watch")
        server.end_watches()
        await asyncio.sleep(39)
        before = len(watches(server))
        await asyncio.sleep(2)
        assert (before, len(watches(server))) == (2, 3)


async def test_3_2_6_connections_that_break_now_and_then_are_resumed_without_a_growing_delay(
    server: FakeApiServer, client: Client
) -> None:
    """A load balancer that cuts each connection after 30 s must not make us a minute late."""
    async with Watching(server, client).run() as w:
        for number in range(20):
            await asyncio.sleep(30)
            server.break_watches()
            made(server, f"n{number}")
            await asyncio.sleep(0.1)
            assert w.converged()
        assert len(lists(server)) == 1
        server.fail(Unreachable("refused", sent=False), verb="watch", times=10_000)
        before = len(watches(server))
        server.break_watches()
        await asyncio.sleep(300)
        assert len(watches(server)) - before <= 16


@pytest.mark.parametrize("how", ["event", "answer"])
async def test_3_2_6_410_as_event_or_as_answer_relists(server: FakeApiServer, client: Client, how: str) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        made(server, "a")
        if how == "event":
            server.expire_watches()
        else:
            server.fail(status_answer(410, "Gone"), verb="watch")
            server.end_watches()
        await asyncio.sleep(5)
        assert len(lists(server)) == 2
        assert w.converged()
        made(server, "b")
        await asyncio.sleep(0.1)
        assert w.converged()


async def test_3_2_6_410_to_every_version_is_backed_off_from(server: FakeApiServer, client: Client) -> None:
    server.fail(status_answer(410, "Gone"), verb="watch", times=10_000)
    async with Watching(server, client).run():
        await asyncio.sleep(60)
        assert len(lists(server)) <= 10


async def test_3_2_6_500_is_retried_for_a_bounded_time_then_relisted(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        server.fail(status_answer(500, "InternalError"), verb="watch", times=8)
        server.end_watches()
        await asyncio.sleep(10)
        assert len(lists(server)) == 1
        await asyncio.sleep(600)
        assert len(lists(server)) == 2
        made(server, "a")
        await asyncio.sleep(1)
        assert w.converged()


@pytest.mark.parametrize("code", [400, 401, 403, 404, 502, 503])
async def test_3_2_6_anything_else_relists_with_backoff(server: FakeApiServer, client: Client, code: int) -> None:
    html = Answer(code, {"Content-Type": "text/html"}, b"<html><body>Bad Gateway</body></html>\n")
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        server.fail(html, verb="watch", times=3)
        server.end_watches()
        made(server, "a")
        await asyncio.sleep(60)
        assert len(lists(server)) == 4
        assert w.converged()
        assert all(name.startswith("ns/") for name in w.names()), "a page is never taken for an event"


async def test_3_2_6_no_error_ends_the_loop(server: FakeApiServer, client: Client) -> None:
    codes = [429, 401, 403, 404, 500, 503, 410, 409, 422, 302]
    for code in codes:
        server.fail(status_answer(code), verb="list")
        server.fail(status_answer(code), verb="watch")
    server.fail(RuntimeError("a bug"), verb="list")
    server.fail(RuntimeError("a bug"), verb="watch")
    made(server, "a")
    async with Watching(server, client).run() as w:
        await asyncio.sleep(1200)
        assert w.converged()


async def test_3_2_6_a_sink_that_raises_does_not_end_the_loop(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        original = w.sink.change
        w.sink.change = lambda obj: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        made(server, "a")
        await asyncio.sleep(0.1)
        w.sink.change = original  # type: ignore[method-assign]
        await asyncio.sleep(10)
        assert w.converged()
        assert failures_total.value("configmaps", "ZeroDivisionError") >= 1


async def test_3_2_7_backoff_grows_to_its_cap_and_resets(server: FakeApiServer, client: Client) -> None:
    from yoban.kube.backoff import Backoff, BackoffPolicy

    backoff = Backoff(BackoffPolicy(), random=lambda: 0.0)
    now, delays = 0.0, []
    for _ in range(8):
        delays.append(backoff.next(now))
        now += delays[-1]
    assert delays == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert backoff.next(now + 119) == 30.0
    assert backoff.next(now + 119 + 30 + 121) == 0.8
    assert Backoff(BackoffPolicy(), random=lambda: 0.999).next(0.0) == pytest.approx(1.6, rel=0.01)
    assert Backoff(BackoffPolicy()).next(0.0, at_least=99.0) == 99.0


async def test_3_2_7_reconnects_of_a_dead_server_follow_the_backoff(server: FakeApiServer, client: Client) -> None:
    server.fail(Unreachable("refused", sent=False), times=10_000)
    async with Watching(server, client).run():
        await asyncio.sleep(300)
        assert 8 <= len(server.requests) <= 16


async def test_3_2_8_a_deletion_in_a_gap_is_in_the_next_list(server: FakeApiServer, client: Client) -> None:
    made(server, "a")
    made(server, "b")
    async with Watching(server, client).run() as w:
        await asyncio.sleep(5)
        with server.silence():
            server.remove(CONFIG_MAP, "ns", "a")
            server.compact()
        await asyncio.sleep(80)
        assert w.names() == ["ns/b"]
        assert w.converged()


async def test_3_2_9_silence_is_noticed_and_resumed_without_a_list(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        with server.silence():
            made(server, "a")
        await asyncio.sleep(65)
        assert w.names() == []
        await asyncio.sleep(10)
        assert w.names() == ["ns/a"]
        assert len(lists(server)) == 1
        assert len(watches(server)) == 2


async def test_3_2_9_bookmarks_keep_a_quiet_watch_open(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run():
        await asyncio.sleep(299)
        assert len(watches(server)) == 1


async def test_3_2_10_a_line_may_come_in_pieces_and_be_long(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        value = "x" * 5_000_000
        obj = {
            "metadata": {"namespace": "ns", "name": "big", "resourceVersion": "101", "uid": "u"},
            "data": {"v": value},
        }
        line = json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n"
        for start in range(0, len(line), 65536):
            server.inject(line[start : start + 65536])
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert w.sink.objects["ns/big"]["data"]["v"] == value


def test_3_2_10_splitter_keeps_only_the_unfinished_line_and_is_bounded() -> None:
    splitter = LineSplitter(max_line=10)
    assert splitter.feed(b"ab") == []
    assert splitter.feed(b"c\n\nde\nf") == [b"abc", b"de"]
    assert splitter.unfinished == 1
    assert splitter.feed(b"\r\n") == [b"f\r"]
    with pytest.raises(Exception, match="longer than 10"):
        splitter.feed(b"x" * 11)


@pytest.mark.parametrize(
    "line",
    [
        b"<html>502</html>\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"WRONG","object":{}}\n',
        b'{"type":"ADDED","object":[]}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}\n',
        b'{"type":"MODIFIED","object":{"metadata":{"na\n',
    ],
)
async def test_3_2_10_a_bad_line_is_counted_and_forces_a_relist(
    server: FakeApiServer, client: Client, line: bytes
) -> None:
    before = bad_lines_total.value("configmaps")
    async with Watching(server, client).run() as w:
        await asyncio.sleep(2)
        server.inject(line)
        made(server, "a")
        await asyncio.sleep(10)
        assert bad_lines_total.value("configmaps") == before + 1
        assert len(lists(server)) == 2
        assert w.converged()


async def test_3_2_10_a_line_cut_by_the_end_of_the_stream_is_bad(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(2)
        server.inject(b'{"type":"ADDED","object":{"metadata"')
        server.end_watches()
        made(server, "a")
        await asyncio.sleep(10)
        assert len(lists(server)) == 2
        assert w.converged()


async def test_3_2_11_a_stream_that_is_left_is_closed(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run():
        for _ in range(3):
            await asyncio.sleep(2)
            server.inject(b"bad\n")
            await asyncio.sleep(5)
        assert server.watchers == 1
    assert server.watchers == 0


async def test_3_2_12_the_reflector_knows_when_it_heard_last(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run() as w:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(200)
        assert loop.time() - w.reflector.last_heard <= 61
        server.fail(Unreachable("refused", sent=False), times=10_000)
        server.break_watches()
        await asyncio.sleep(600)
        assert loop.time() - w.reflector.last_heard >= 599


async def test_a_server_that_ignores_the_end_of_a_watch_is_left_after_a_while(
    server: FakeApiServer, client: Client
) -> None:
    async with Watching(server, client, watch_for=(100, 100)).run() as w:
        for watcher in server._watchers:
            watcher._end_at = float("inf")
        await asyncio.sleep(250)
        assert len(watches(server)) >= 2
        made(server, "a")
        await asyncio.sleep(1)
        assert w.converged()
