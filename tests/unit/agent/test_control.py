"""The control API over real mutual TLS, and an agent asking another one to ship."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rig import Rig, until
from yoban.agent.control import Control
from yoban.agent.jobs import Jobs
from yoban.agent.shipping import Shipping
from yoban.errors import IntegrityError, Terminal, Unavailable
from yoban.model.control import AgentStatus, JobRequest, Problem, Push, ShipAnswer, ShipRequest
from yoban.plugins import TlsFiles


def issue(folder: Path, name: str, cn: str, ca: Any = None) -> Any:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca[0].subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
    )
    if ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(ca[1] if ca else key, hashes.SHA256())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / f"{name}.key").write_bytes(key.private_bytes(encoding, pkcs8, serialization.NoEncryption()))
    return certificate, key


class Api:
    """A control API and its callers."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.agent = rig.agent()
        self.rig = rig
        self.tls_folder = self.agent.environment.tls
        ca = issue(self.tls_folder, "ca", "CA")
        issue(self.tls_folder, "tls", "orders-1", ca)
        issue(self.tls_folder, "client", "yoban-replication", ca)
        issue(folder, "operator", "yoban-operator", ca)
        issue(folder, "stranger", "somebody", ca)
        other = issue(folder, "otherca", "CA")
        issue(folder, "foreign", "yoban-operator", other)
        self.folder = folder
        self.restarts = 0
        self.shipped: list[ShipRequest] = []
        self.ship_error: Exception | None = None
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]

    @property
    def tls(self) -> TlsFiles:
        return self.agent.context.tls

    async def ship(self, request: ShipRequest) -> ShipAnswer:
        self.shipped.append(request)
        if self.ship_error:
            raise self.ship_error
        if request.segment == "slow":
            await asyncio.sleep(60)
        return ShipAnswer(segment=request.segment)

    async def restart(self) -> None:
        self.restarts += 1

    async def call(self, method: str, path: str, body: Any = None, who: str = "operator") -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.tls.ca))
        folder = self.tls_folder if who == "client" else self.folder
        context.load_cert_chain(str(folder / f"{who}.crt"), str(folder / f"{who}.key"))
        data = body if isinstance(body, bytes) else msgspec.json.encode(body) if body is not None else None
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"https://localhost:{self.port}{path}", data=data, ssl=context) as response,
        ):
            return response.status, await response.read()


@pytest.fixture
async def api(make_rig: Callable[..., Rig], tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(make_rig(), tmp_path / "pki")
    agent = api.agent
    async with asyncio.TaskGroup() as group:
        control = Control(
            agent.instance.board,
            agent.instance.configurations,
            Jobs(group, {}),
            ship=api.ship,
            restart=api.restart,
            peer="yoban-replication",
            bind="127.0.0.1",
            port=api.port,
        )
        task = group.create_task(control.run(api.tls))

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", api.port)
            except OSError:
                return False
            writer.close()
            return True

        await until("it listens", listens)
        yield api
        task.cancel()


async def test_who_may_ask_what(api: Api) -> None:
    ship = ShipRequest(line="1", segment="s")
    for who, path, method, body, code in (
        ("operator", "/v1/status", "GET", None, 200),
        ("client", "/v1/status", "GET", None, 200),
        ("stranger", "/v1/status", "GET", None, 403),
        ("client", "/v1/ship", "POST", ship, 200),
        ("operator", "/v1/ship", "POST", ship, 200),
        ("client", "/v1/agent/restart", "POST", None, 403),
        ("operator", "/v1/agent/restart", "POST", None, 202),
        ("client", "/v1/document", "PUT", Push(document=api.rig.document), 403),
        ("stranger", "/v1/ship", "POST", ship, 403),
    ):
        assert (await api.call(method, path, body, who))[0] == code, (who, path)
    assert api.restarts == 1
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await api.call("GET", "/v1/status", who="foreign")


async def test_a_long_poll_wakes_by_what_is_worth_telling(api: Api) -> None:
    status = msgspec.json.decode((await api.call("GET", "/v1/status"))[1], type=AgentStatus)
    waiting = asyncio.create_task(api.call("GET", f"/v1/status?after={status.serial}&wait=30"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    api.agent.instance.board.problem("x", Problem(reason="Trouble", message="m"))
    code, body = await asyncio.wait_for(waiting, 5)
    told = msgspec.json.decode(body, type=AgentStatus)
    assert told.serial > status.serial
    assert told.problems[0].reason == "Trouble"
    assert told.problems[0].since is not None
    assert (await api.call("GET", f"/v1/status?after={told.serial}&wait=0.05"))[0] == code


async def test_documents(api: Api) -> None:
    newer = msgspec.structs.replace(api.rig.document, revision=5)
    assert (await api.call("PUT", "/v1/document", Push(document=newer)))[0] == 204
    assert api.agent.instance.document.revision == 5
    code, body = await api.call("PUT", "/v1/document", Push(document=api.rig.document))
    assert code == 409
    assert msgspec.json.decode(body, type=Problem).reason == "Stale"
    assert (await api.call("PUT", "/v1/document", b"nonsense"))[0] == 400


async def test_jobs(api: Api) -> None:
    assert (await api.call("PUT", "/v1/jobs/u", JobRequest(kind="unheard of", id="x")))[0] == 422
    assert (await api.call("GET", "/v1/jobs/u"))[0] == 404
    assert (await api.call("DELETE", "/v1/jobs/u"))[0] == 204


async def test_errors_say_whether_to_try_again(api: Api) -> None:
    request = ShipRequest(line="1", segment="s", deadline_seconds=0.1)
    for error, code in ((Unavailable("x"), 503), (IntegrityError("x"), 422)):
        api.ship_error = error
        assert (await api.call("POST", "/v1/ship", request))[0] == code
    api.ship_error = None
    slow = ShipRequest(line="1", segment="slow", deadline_seconds=0.1)
    assert (await api.call("POST", "/v1/ship", slow))[0] == 504


async def test_an_agent_asks_another_to_ship(api: Api) -> None:
    shipping = Shipping(api.agent.instance, api.agent.parts.shipper)
    address = f"localhost:{api.port}"
    await shipping.at(address, ShipRequest(line="1", segment="s"))
    assert [request.segment for request in api.shipped] == ["s"]
    api.ship_error = IntegrityError("x", reason="SegmentConflict")
    with pytest.raises(Terminal) as refused:
        await shipping.at(address, ShipRequest(line="1", segment="s"))
    assert refused.value.reason == "SegmentConflict"
    api.ship_error = Unavailable("x")
    with pytest.raises(Unavailable):
        await shipping.at(address, ShipRequest(line="1", segment="s"))
    with pytest.raises(Unavailable, match="does not answer"):
        await shipping.at("localhost:1", ShipRequest(line="1", segment="s"))
