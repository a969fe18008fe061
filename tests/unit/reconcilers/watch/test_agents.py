"""The client of the control API against a real server on loopback, with and without mutual TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from yoban.errors import AccessDenied, DeadlineExceeded, InvalidInput, NotFound, Retryable, Terminal, Unavailable
from yoban.model.control import AgentStatus, JobRequest, JobStatus, Problem, Push, ShipAnswer, ShipRequest
from yoban.model.instance import Member
from yoban.reconcilers import agents as module
from yoban.reconcilers.agents import Agents, tls_context
from yoban.reconcilers.database.ports import Credentials

from tests.unit.reconcilers.watch.certificates import Authority
from tests.unit.reconcilers.watch.test_observers import push

NONE = Credentials("", "", "")


@dataclass
class Control:
    """A control API that answers what it is told to, and remembers what it was asked."""

    member: Member
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    seen: list[tuple[str, str, bytes, dict[str, str]]] = field(default_factory=list)


async def serve(context: ssl.SSLContext | None = None) -> tuple[Control, web.AppRunner]:
    async def handle(request: web.Request) -> web.StreamResponse:
        control.seen.append((request.method, request.path_qs, await request.read(), dict(request.headers)))
        return await control.answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]

    async def nothing(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    control = Control(Member(name="orders-1", number=1, host="127.0.0.1", port=1, control=port), nothing)
    return control, runner


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    made, runner = await serve()
    yield made
    await runner.cleanup()


@pytest.fixture
async def agents() -> AsyncIterator[Agents]:
    made = Agents(scheme="http")
    yield made
    await made.close()
    await made.close()


def says(body: Any = None, status: int = 200) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=b"" if body is None else msgspec.json.encode(body))

    return answer


async def test_each_call_is_what_the_contract_says(control: Control, agents: Agents):
    member = control.member
    control.answer = says(AgentStatus(serial=7))
    assert (await agents.status(member, NONE, after=3, wait=30)).serial == 7
    control.answer = says(status=204)
    assert await agents.push(member, NONE, push()) is True
    control.answer = says(JobStatus(state="running"))
    request = JobRequest(kind="backup", id="b")
    assert (await agents.start_job(member, NONE, "uid", request)).state == "running"
    assert (await agents.job(member, NONE, "uid", wait=20)).state == "running"
    control.answer = says(status=204)
    await agents.cancel_job(member, NONE, "uid")
    await agents.restart_agent(member, NONE)
    control.answer = says(ShipAnswer(segment="s"))
    assert (await agents.ship(member, NONE, ShipRequest(line="1", segment="s"))).segment == "s"
    assert [(method, path) for method, path, _, _ in control.seen] == [
        ("GET", "/v1/status?after=3&wait=30"),
        ("PUT", "/v1/document"),
        ("PUT", "/v1/jobs/uid"),
        ("GET", "/v1/jobs/uid?wait=20"),
        ("DELETE", "/v1/jobs/uid"),
        ("POST", "/v1/agent/restart"),
        ("POST", "/v1/ship"),
    ]
    assert msgspec.json.decode(control.seen[1][2], type=Push) == push()
    assert msgspec.json.decode(control.seen[2][2], type=JobRequest) == request


async def test_the_trace_goes_along(control: Control, agents: Agents):
    control.answer = says(AgentStatus())
    with TracerProvider().get_tracer("test").start_as_current_span("x") as span:
        await agents.status(control.member, NONE)
    assert control.seen[0][3]["traceparent"].split("-")[1] == f"{span.get_span_context().trace_id:032x}"


@pytest.mark.parametrize(
    "status, kind, retryable",
    [
        (400, Terminal, False),
        (401, AccessDenied, False),
        (403, AccessDenied, False),
        (404, NotFound, False),
        (408, Unavailable, True),
        (429, Unavailable, True),
        (500, Unavailable, True),
        (503, Unavailable, True),
        (302, Unavailable, True),
    ],
)
async def test_errors_keep_their_words_and_say_whether_to_try_again(control, agents, status, kind, retryable):
    control.answer = says(Problem(reason="Because", message="it is so", fix="change it"), status)
    with pytest.raises(kind) as caught:
        await agents.job(control.member, NONE, "uid")
    error = caught.value
    assert (error.reason, error.message, error.fix) == ("Because", "it is so", "change it")
    assert error.object == "agent of orders-1"
    assert isinstance(error, Retryable) is retryable


async def test_errors_without_words(control: Control, agents: Agents):
    control.answer = says({"no": "problem"}, 500)
    with pytest.raises(Unavailable, match="answers 500"):
        await agents.status(control.member, NONE)
    control.answer = says("what", 422)
    with pytest.raises(Terminal, match="answers 422"):
        await agents.status(control.member, NONE)


async def test_a_newer_document_in_force_is_no_error(control: Control, agents: Agents):
    control.answer = says(Problem(reason="Newer", message="there is a newer one"), 409)
    assert await agents.push(control.member, NONE, push()) is False


async def test_a_job_that_is_not_known_counts_as_cancelled(control: Control, agents: Agents):
    control.answer = says(Problem(reason="NotFound", message="no such job"), 404)
    await agents.cancel_job(control.member, NONE, "uid")


async def test_an_answer_that_cannot_be_read_may_be_tried_again(control: Control, agents: Agents):
    control.answer = says(["nonsense"])
    with pytest.raises(Unavailable, match="cannot be read"):
        await agents.status(control.member, NONE)


async def test_an_answer_is_bounded(control, agents, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    control.answer = says({"x": "y" * 2000})
    with pytest.raises(Unavailable, match="too large"):
        await agents.status(control.member, NONE)


async def test_nobody_there_may_be_tried_again(agents: Agents):
    nobody = Member(name="orders-9", number=9, host="127.0.0.1", port=1, control=1)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await agents.status(nobody, NONE)


async def test_every_call_has_a_deadline(control, agents, monkeypatch):
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)
    forever = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        await forever.wait()
        return web.Response()

    control.answer = never
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        await agents.status(control.member, NONE, wait=0.1)
    forever.set()


# -- mutual TLS ------------------------------------------------------------------------------------------------------


def server_context(tmp_path: Path, authority: Authority, *, address: str = "127.0.0.1") -> ssl.SSLContext:
    pair = authority.issue("orders-1", address)
    (tmp_path / "pair.pem").write_text(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    context.load_verify_locations(cadata=authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def operator(authority: Authority, *, trusted: Authority | None = None) -> Credentials:
    pair = authority.issue("yoban-operator")
    return Credentials((trusted or authority).certificate, pair.certificate, pair.key)


async def ask(credentials: Credentials, context: ssl.SSLContext) -> AgentStatus:
    control, runner = await serve(context)
    control.answer = says(AgentStatus(serial=1))
    client = Agents()
    try:
        first = await client.status(control.member, credentials)
        return await client.status(control.member, credentials) if first else first
    finally:
        await client.close()
        await runner.cleanup()


async def test_both_sides_prove_who_they_are(tmp_path: Path):
    authority = Authority()
    assert (await ask(operator(authority), server_context(tmp_path, authority))).serial == 1


async def test_an_agent_of_another_database_is_not_believed(tmp_path: Path):
    ours, theirs = Authority(), Authority("CA of shop/other")
    with pytest.raises(AccessDenied, match="not its own") as caught:
        await ask(operator(theirs, trusted=ours), server_context(tmp_path, theirs))
    assert caught.value.reason == "AgentUntrusted"


async def test_an_agent_with_another_name_is_not_believed(tmp_path: Path):
    authority = Authority()
    with pytest.raises(AccessDenied, match="not its own"):
        await ask(operator(authority), server_context(tmp_path, authority, address="127.0.0.2"))


async def test_an_operator_of_another_database_is_not_let_in(tmp_path: Path):
    ours, theirs = Authority(), Authority("CA of shop/other")
    with pytest.raises(Unavailable):
        await ask(operator(theirs, trusted=ours), server_context(tmp_path, ours))


def test_certificates_that_are_none_are_told_without_their_content():
    with pytest.raises(InvalidInput) as caught:
        tls_context(Credentials("nonsense", "certificate", "key=hunter2"))
    assert caught.value.reason == "CertificatesInvalid" and "hunter2" not in str(caught.value)
    pair, other = Authority().issue("a"), Authority().issue("b")
    with pytest.raises(InvalidInput):
        tls_context(Credentials(Authority().certificate, pair.certificate, other.key))


async def test_contexts_are_kept_and_bounded(monkeypatch):
    authority = Authority()
    client = Agents()
    first = operator(authority)
    assert client._context(first) is client._context(first)
    monkeypatch.setattr(module, "CONTEXTS", 1)
    client._context(operator(authority))
    assert len(client._contexts) == 1
