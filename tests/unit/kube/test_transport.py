"""Bytes over real connections to a server on loopback; credentials and configuration."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from yoban.errors import InvalidInput, Retryable
from yoban.kube.client import Client
from yoban.kube.config import ClusterConfig, StaticToken, TokenFile, in_cluster, load_config
from yoban.kube.errors import ServerError, Timeout, Unauthorized, Unreachable
from yoban.kube.kubeconfig import PluginToken, read_kubeconfig
from yoban.kube.resource import CONFIG_MAP
from yoban.kube.transport import HttpTransport
from yoban.kube.watch import IdleTimeout
from yoban.testing.clock import LoopClock

from tests.unit.reconcilers.watch.certificates import Authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Tokens:
    """Credentials that count."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.asked: list[bool] = []

    async def token(self, *, fresh: bool = False) -> str | None:
        self.asked.append(fresh)
        if fresh and len(self._tokens) > 1:
            self._tokens.pop(0)
        return self._tokens[0]


async def test_3_2_6_401_reloads_the_token_once() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers["Authorization"] != "Bearer new":
            return web.Response(status=401)
        if request.query.get("watch"):
            return web.Response(text="")
        return web.json_response({"metadata": {"name": "a"}, "ua": request.headers["User-Agent"]})

    async with served(handler) as url:
        tokens = Tokens("old", "new")
        async with Client.connect(ClusterConfig(url, tokens)) as client:
            assert (await client.get(CONFIG_MAP, "a", "ns"))["ua"] == "yoban"
        assert tokens.asked == [False, True]
        tokens = Tokens("old", "new")
        async with (
            Client.connect(ClusterConfig(url, tokens)) as client,
            client.watch(CONFIG_MAP, resource_version="5", timeout_seconds=60) as stream,
        ):
            assert await stream.batch(5) is None
        tokens = Tokens("old")
        async with Client.connect(ClusterConfig(url, tokens)) as client:
            with pytest.raises(Unauthorized):
                await client.get(CONFIG_MAP, "a", "ns")
        assert tokens.asked == [False, True], "once, not for ever"


async def test_a_server_that_does_not_answer_is_a_timeout_and_one_that_is_not_there_is_unreachable() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    async with served(handler) as url:
        transport = HttpTransport(ClusterConfig(url))
        with pytest.raises(Timeout, match=r"no answer within 2.0 s"):
            await transport.request("GET", "/api/v1/x?y=z", deadline=2.0)
        with pytest.raises(Timeout):
            async with transport.stream("/api/v1/x", deadline=2.0):
                pass
    with pytest.raises(Unreachable) as caught:
        await transport.request("GET", "/api/v1/x", deadline=5.0)
    assert not caught.value.sent
    with pytest.raises(Unreachable):
        async with transport.stream("/api/v1/x", deadline=5.0):
            pass
    await transport.close()
    await transport.close()


async def test_a_connection_that_breaks_within_a_watch_is_unreachable() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}\n')
        assert request.transport is not None
        await asyncio.sleep(1)
        request.transport.abort()
        return response

    async with (
        served(handler) as url,
        Client.connect(ClusterConfig(url)) as client,
        client.watch(CONFIG_MAP, resource_version="5", timeout_seconds=60) as stream,
    ):
        batch = await stream.batch(5)
        assert batch is not None
        assert batch[0].type == "BOOKMARK"
        with pytest.raises(Unreachable):
            await stream.batch(5)


async def test_3_2_11_leaving_a_watch_closes_its_connection() -> None:
    left = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"\n")
                await asyncio.sleep(1)
        finally:
            left.set()

    async with served(handler) as url, Client.connect(ClusterConfig(url)) as client:
        async with client.watch(CONFIG_MAP, resource_version="5", timeout_seconds=60) as stream:
            with pytest.raises(IdleTimeout):
                await stream.batch(10)
        async with asyncio.timeout(30):
            await left.wait()


async def test_redirects_are_not_followed_with_our_token() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.path != "/elsewhere"
        raise web.HTTPFound("/elsewhere")

    async with served(handler) as url, Client.connect(ClusterConfig(url, StaticToken("t"))) as client:
        with pytest.raises(Exception, match="302"):
            await client.get(CONFIG_MAP, "a", "ns")


async def test_a_refusal_of_a_watch_keeps_its_page_short() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=502, text="<html>" + "x" * 200_000)

    async with served(handler) as url, Client.connect(ClusterConfig(url)) as client:
        with pytest.raises(ServerError, match="502"):
            async with client.watch(CONFIG_MAP, resource_version="5", timeout_seconds=60):
                pass


# -- whom to trust ----------------------------------------------------------------------------------------------------


def present(tls: ssl.SSLContext, authority: Authority, folder: Path) -> None:
    """The server has a certificate of `authority` from now on."""
    pair = authority.issue("kube-apiserver", "127.0.0.1")
    (folder / "pair.pem").write_text(pair.certificate + pair.key)
    tls.load_cert_chain(folder / "pair.pem")


async def closing(_: web.BaseRequest) -> web.StreamResponse:
    """An answer after which the connection is closed."""
    response = web.Response(text="ok")
    response.force_close()
    return response


async def test_bug_after_the_clusters_ca_was_rotated_no_connection_was_trusted_any_more(tmp_path: Path) -> None:
    """The kubelet replaces ca.crt in the mount; agents kept what they had read at their start, and were all fenced."""
    before, after = Authority("kubernetes"), Authority("kubernetes")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    present(tls, before, tmp_path)
    ca_file = tmp_path / "ca.crt"
    ca_file.write_text(before.certificate)
    async with served(closing, tls) as url:
        transport = HttpTransport(ClusterConfig(url, ca_file=ca_file))
        assert (await transport.request("GET", "/x", deadline=5.0)).status == 200
        present(tls, after, tmp_path)
        for content in (None, "", "-----BEGIN CERTIFICATE-----\nnonsense"):  # not replaced yet; or badly
            if content is not None:
                ca_file.write_text(content)
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED") as caught:
                await transport.request("GET", "/x", deadline=5.0)
            assert not caught.value.sent
        ca_file.write_text(after.certificate)
        asking = [transport.request("GET", "/x", deadline=5.0) for _ in range(3)]
        assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 3
        async with transport.stream("/x", deadline=5.0) as stream:
            assert await stream.read() == b"ok"
        await transport.close()


async def test_a_ca_that_is_as_it_was_is_not_tried_twice(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    present(tls, Authority("kubernetes"), tmp_path)
    (tmp_path / "ca.crt").write_text(Authority("kubernetes").certificate)
    async with served(closing, tls) as url:
        for config in (
            ClusterConfig(url, ca_file=tmp_path / "ca.crt"),
            ClusterConfig(url, ca_data=(tmp_path / "ca.crt").read_text()),
        ):
            transport = HttpTransport(config)
            tried = 0
            connect = transport._pool._connect

            async def counted(connect: Callable[[], Awaitable[Any]] = connect) -> Any:
                nonlocal tried
                tried += 1
                return await connect()

            transport._pool._connect = counted  # type: ignore[method-assign]
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await transport.request("GET", "/x", deadline=5.0)
            assert tried == 1
            await transport.close()


# -- credentials and configuration ------------------------------------------------------------------------------------


async def test_3_12_a_token_file_is_read_anew_each_minute(tmp_path: Path, clock: LoopClock) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    tokens = TokenFile(path, clock)
    assert await tokens.token() == "one"
    path.write_text("two")
    await asyncio.sleep(59)
    assert await tokens.token() == "one"
    await asyncio.sleep(1)
    assert await tokens.token() == "two"
    path.write_text("three")
    assert await tokens.token(fresh=True) == "three"
    path.unlink()
    assert await tokens.token(fresh=True) == "three", "the last known one is better than none"
    with pytest.raises(OSError, match="token"):
        await TokenFile(tmp_path / "token", clock).token()


async def test_bug_a_token_that_could_not_be_had_ended_whoever_asked(tmp_path: Path, clock: LoopClock) -> None:
    """A plugin that failed once was an error that is never tried again: the key was given up, and the elector ended."""

    class Plugin:
        calls = 0

        async def token(self, *, fresh: bool = False) -> str | None:
            self.calls += 1
            if self.calls == 1:
                raise InvalidInput("its user's plugin gave no credentials", cause="exit code 1")
            return "t"

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"token": request.headers["Authorization"]})

    async with served(handler) as url:
        for method, found in (("GET", TokenFile(tmp_path / "none", clock)), ("POST", Plugin())):
            transport = HttpTransport(ClusterConfig(url, found))
            with pytest.raises(Unreachable, match=r"none|exit code 1") as caught:
                await transport.request(method, "/x", deadline=5.0)
            assert isinstance(caught.value, Retryable)
            assert not caught.value.sent
            await transport.close()
        async with Client.connect(ClusterConfig(url, Plugin())) as client:
            created = await client.create(CONFIG_MAP, {"metadata": {"name": "a", "namespace": "ns"}})
            assert created == {"token": "Bearer t"}, "what was not sent may be tried again"


async def test_in_a_pod_token_and_ca_are_all_there_is(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(InvalidInput, match="YOBAN_KUBECONFIG"):
        in_cluster(environ, folder=tmp_path)
    (tmp_path / "token").write_text("t")
    config = in_cluster(environ, folder=tmp_path)
    assert config.server == "https://[fd00::1]:443"
    assert config.namespace == "default"
    assert await config.credentials.token() == "t"
    (tmp_path / "namespace").write_text("shop\n")
    environ["KUBERNETES_SERVICE_HOST"] = "198.19.0.1"
    assert in_cluster(environ, folder=tmp_path).server == "https://198.19.0.1:443"
    assert in_cluster(environ, folder=tmp_path).namespace == "shop"
    with pytest.raises(InvalidInput):
        in_cluster({}, folder=tmp_path)


async def test_a_kubeconfig_is_read_only_when_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (tmp_path / "config").write_text("{}")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidInput, match="no in-cluster configuration"):
        await load_config()


def kubeconfig(tmp_path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path = tmp_path / "config"
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


async def test_kubeconfig_with_a_token(tmp_path: Path) -> None:
    config = await load_config(kubeconfig(tmp_path, {"token": "s3cret"}, **{"insecure-skip-tls-verify": True}))
    assert config.server == "https://127.0.0.1:6443"
    assert config.namespace == "shop"
    assert await config.credentials.token() == "s3cret"
    context = config.ssl_context()
    assert context is not None
    assert not context.check_hostname
    assert "s3cret" not in repr(config)
    (tmp_path / "t").write_text("from file")
    config = await read_kubeconfig(kubeconfig(tmp_path, {"tokenFile": "t"}))
    assert await config.credentials.token() == "from file"


async def test_kubeconfig_with_a_client_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=x", "-days", "1"]
    subprocess.run(command, check=True, capture_output=True)
    encoded = base64.b64encode(certificate.read_bytes()).decode()
    user = {"client-certificate-data": encoded, "client-key": "k.pem"}
    config = await read_kubeconfig(kubeconfig(tmp_path, user, **{"certificate-authority": "c.pem"}))
    assert config.client_cert is not None
    assert await config.credentials.token() is None
    context = config.ssl_context()
    assert context is not None
    assert context.cert_store_stats()["x509"] >= 1
    with pytest.raises(InvalidInput, match="without its key"):
        await read_kubeconfig(kubeconfig(tmp_path, {"client-certificate": "c.pem"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no kubeconfig"),
        ("{", "cannot be read"),
        ("current-context: x", "has no context 'x'"),
    ],
)
async def test_a_kubeconfig_that_is_wrong_says_how(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        await read_kubeconfig(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        await read_kubeconfig(tmp_path / "nobody")
    bad = kubeconfig(tmp_path, {"client-certificate-data": "***"})
    with pytest.raises(InvalidInput, match="unreadable client-certificate"):
        await read_kubeconfig(bad)


def test_3_1_kubernetes_asyncio_is_loaded_only_for_plugins(tmp_path: Path) -> None:
    """It costs 37 MB: a plain kubeconfig and a Pod do without."""
    path = kubeconfig(tmp_path, {"token": "t"})
    code = f"""
import asyncio, sys
from pathlib import Path
import yoban.runtime
from yoban.kube.client import Client
from yoban.kube.config import load_config
async def main():
    async with Client.connect(await load_config(Path({str(path)!r}))):
        pass
asyncio.run(main())
heavy = [m for m in sys.modules if m.split(".")[0] in ("kubernetes_asyncio", "pydantic", "pydantic_settings")]
assert heavy == [], heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exec_plugin_gives_a_token_and_is_asked_anew(tmp_path: Path) -> None:
    """In a process of its own: kubernetes_asyncio warns about its own imports on some versions."""
    counter = tmp_path / "count"
    counter.write_text("0")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        f"import json, pathlib\np = pathlib.Path({str(counter)!r})\nn = int(p.read_text()) + 1\np.write_text(str(n))\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
        " 'status': {'token': f'token-{n}'}}))\n"
    )
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(plugin)],
            "interactiveMode": "Never",
        }
    }
    path = kubeconfig(tmp_path, user)
    code = f"""
import asyncio
from pathlib import Path
from yoban.kube.config import load_config
async def main():
    config = await load_config(Path({str(path)!r}))
    print(await config.credentials.token())
    print(await config.credentials.token())
    print(await config.credentials.token(fresh=True))
asyncio.run(main())
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["token-1", "token-1", "token-2"]


def scripted_plugin(monkeypatch: pytest.MonkeyPatch, answers: list[str | Exception]) -> None:
    """The plugin of any kubeconfig answers so."""
    import types

    fake_client, fake_config = types.ModuleType("c"), types.ModuleType("f")

    class Configuration:
        def __init__(self) -> None:
            self.api_key: dict[str, str] = {}

    async def load_kube_config(**options: Any) -> None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        options["client_configuration"].api_key["BearerToken"] = answer

    fake_client.Configuration = Configuration  # type: ignore[attr-defined]
    fake_config.load_kube_config = load_kube_config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", types.ModuleType("k"))
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio.client", fake_client)
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio.config", fake_config)


async def test_an_exec_plugin_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_plugin(monkeypatch, [OSError("no such plugin"), "", "Bearer t"])
    tokens = PluginToken(tmp_path / "config", "c", LoopClock())
    with pytest.raises(InvalidInput, match="gave no credentials"):
        await tokens.token()
    with pytest.raises(InvalidInput, match="gave no token"):
        await tokens.token()
    assert await tokens.token() == "t"


async def test_bug_an_exec_plugin_that_failed_once_took_a_good_token_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: LoopClock
) -> None:
    scripted_plugin(monkeypatch, answers := ["Bearer one", OSError("no"), "Bearer two", OSError("no"), "Bearer three"])
    tokens = PluginToken(tmp_path / "config", "c", clock)
    assert await tokens.token() == "one"
    await asyncio.sleep(60)
    assert await tokens.token() == "one"
    await asyncio.sleep(59)
    assert await tokens.token() == "one", "it is not asked for each request"
    await asyncio.sleep(1)
    assert await tokens.token() == "two"
    with pytest.raises(InvalidInput, match="gave no credentials"):
        await tokens.token(fresh=True)  # the server refused it: it is good no more
    assert await tokens.token(fresh=True) == "three"
    assert answers == []
