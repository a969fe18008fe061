"""Runs whole instances on this machine: supervisor, agent and server as real processes, the API server played by a fake."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yoban.kube.client import Client
from yoban.kube.resource import LEASE, POD
from yoban.model.control import AgentStatus
from yoban.model.instance import (
    ArchiveDocument,
    InstanceDocument,
    LeaseDocument,
    Member,
    StoreDocument,
)
from yoban.testing.apiserver import FakeApiServer

from deploy.lab.ports import free_port
from tests.integration.servers import scratch

REPO = Path(__file__).parents[3]
NAMESPACE = "shop"
DATABASE = "orders"
INCARNATION = "0123456789ab"


async def until(what: str, check: Callable[[], Awaitable[Any] | Any], seconds: float = 60.0) -> Any:
    """Wait until `check` gives something true, and return it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    last: Any = None
    while loop.time() < end:
        try:
            last = check()
            if asyncio.iscoroutine(last):
                last = await last
            if last:
                return last
        except (OSError, aiohttp.ClientError, AssertionError) as error:
            last = error
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what} (last: {last!r})")


def issue(folder: Path, cn: str, ca: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, name: str) -> Any:
    """Make a key and certificate; files `<name>.crt`, `<name>.key`."""
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
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(ca[1] if ca else key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key


class FakeCluster:
    """The fake API server behind a real port."""

    def __init__(self) -> None:
        self.api = FakeApiServer()
        self.client = Client(self.api)
        self.port = free_port()
        self.down = False
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _forward(self, request: web.Request) -> web.Response:
        if self.down:
            # Gone as a cut network is: no answer at all.
            await asyncio.sleep(3600)
        answer = await self.api.request(
            request.method,
            request.raw_path,
            body=await request.read() or None,
            content_type=request.headers.get("Content-Type"),
            deadline=10,
        )
        headers = {"Content-Type": "application/json", **dict(answer.headers)}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    def kubeconfig(self, file: Path) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "t", "user": {"token": "t"}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": NAMESPACE}}],
        }
        file.write_text(json.dumps(document))

    async def lease(self) -> dict[str, Any]:
        return await self.client.get(LEASE, f"{DATABASE}-primary", NAMESPACE)


class World:
    """One Database and its instances."""

    def __init__(
        self, cluster: FakeCluster, *, engine: str, version: str, instances: int = 1, on_disk: bool = False
    ) -> None:
        self.folder = scratch(on_disk=on_disk)
        self.cluster = cluster
        self.user = "postgres" if os.getuid() == 0 else ""
        self.pki = self.folder / "pki"
        self.pki.mkdir()
        self.ca = issue(self.pki, "test CA", None, "ca")
        issue(self.pki, "yoban-operator", self.ca, "operator")
        issue(self.pki, "yoban-replication", self.ca, "peer")
        self.ask = build_ask(self.folder)
        self.document = InstanceDocument(
            generation=1,
            namespace=NAMESPACE,
            database=DATABASE,
            uid="uid-1",
            incarnation=INCARNATION,
            engine=engine,
            version=version,
            founder=f"{DATABASE}-1",
            members=[
                Member(name=f"{DATABASE}-{n}", number=n, host="localhost", port=free_port(), control=free_port())
                for n in range(1, instances + 1)
            ],
            lease=LeaseDocument(name=f"{DATABASE}-primary"),
        )
        self.store = StoreDocument()
        self.source = StoreDocument()
        self.pods: dict[str, PodProcess] = {}

    def make_lease(self) -> None:
        self.cluster.api.put(LEASE, {"metadata": {"namespace": NAMESPACE, "name": f"{DATABASE}-primary"}, "spec": {}})

    def archive_to(self, store: StoreDocument) -> None:
        self.store = store
        self.change(archive=ArchiveDocument(path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}"))

    def change(self, **fields: Any) -> None:
        """A new revision of the document, as the kubelet would bring it."""
        self.document = msgspec.structs.replace(self.document, revision=self.document.revision + 1, **fields)
        for pod in self.pods.values():
            pod.mount()

    def pod(self, number: int = 1) -> PodProcess:
        name = f"{DATABASE}-{number}"
        if name not in self.pods:
            self.pods[name] = PodProcess(self, number)
        return self.pods[name]

    def close(self) -> None:
        for pod in self.pods.values():
            pod.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class PodProcess:
    """One instance: a supervisor process and all below it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"{DATABASE}-{number}"
        self.root = world.folder / str(number)
        self.member = world.document.members[number - 1]
        self.probe_port, self.metrics_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = world.folder / f"{self.name}.log"
        self.uid = f"pod-{number}-{time.monotonic_ns()}"
        for part in ("etc/yoban/spec", "etc/yoban/accounts", "etc/yoban/tls", "etc/yoban/store", "etc/yoban/source",
                     "run/yoban", "tmp", "var/lib"):  # fmt: skip
            (self.root / part).mkdir(parents=True)
        tls = self.root / "etc/yoban/tls"
        issue(tls, self.name, world.ca, "tls")
        issue(tls, "yoban-replication", world.ca, "client")
        shutil.copy(world.pki / "ca.crt", tls / "ca.crt")
        world.cluster.kubeconfig(self.root / "kubeconfig")
        world.cluster.api.put(POD, {"metadata": {"namespace": NAMESPACE, "name": f"{self.name}-0", "labels": {}}})
        self.mount()

    def mount(self) -> None:
        etc = self.root / "etc/yoban"
        for file, data in (
            (etc / "spec/document.json", msgspec.json.encode(self.world.document)),
            (etc / "store/store.json", msgspec.json.encode(self.world.store)),
            (etc / "source/store.json", msgspec.json.encode(self.world.source)),
        ):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(file)
        for purpose in ("owner",):
            (etc / "accounts" / purpose).write_text(f"secret-{purpose}")
        self.own()

    def own(self) -> None:
        if self.world.user:
            subprocess.run(["chown", "-R", f"{self.world.user}:", str(self.root)], check=True)
            subprocess.run(["chmod", "-R", "go-rwx", str(self.root / "etc/yoban/tls")], check=True)

    def start(self, **extra: str) -> None:
        env = {
            "PATH": "/usr/bin:/bin",
            "YOBAN_ROOT": str(self.root),
            "YOBAN_NAMESPACE": NAMESPACE,
            "YOBAN_POD": f"{self.name}-0",
            "YOBAN_POD_UID": self.uid,
            "YOBAN_INSTANCE": self.name,
            "YOBAN_INSTANCE_NUMBER": str(self.number),
            "YOBAN_DATABASE": DATABASE,
            "YOBAN_ASK": str(self.world.ask),
            "YOBAN_BIND": "127.0.0.1",
            "YOBAN_PROBE_PORT": str(self.probe_port),
            "YOBAN_METRICS_PORT": str(self.metrics_port),
            "YOBAN_CONTROL_PORT": str(self.member.control),
            "YOBAN_KUBECONFIG": str(self.root / "kubeconfig"),
            "YOBAN_GRACE_SECONDS": "40",
            "YOBAN_PLUGINS": f"{self.world.document.engine},s3",
            "PYTHONPATH": os.pathsep.join([str(toy_distribution(self.world.folder)), *tree()]),
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"COVERAGE_PROCESS_START": p} if (p := os.environ.get("COVERAGE_PROCESS_START")) else {}),
            **extra,
        }
        argv = [sys.executable, "-m", "yoban.agent.supervisor"]
        if self.world.user:
            user = self.world.user
            # The one capability lets that user read a Python which root installed for itself.
            caps = "+dac_read_search"
            as_user = [f"--reuid={user}", f"--regid={user}", "--init-groups"]
            argv = ["setpriv", *as_user, f"--inh-caps={caps}", f"--ambient-caps={caps}", *argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, cwd="/")

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        mounts = {"toy": "var/lib/toy", "mysql": "var/lib/mysql"}
        mount = mounts.get(self.world.document.engine, "var/lib/postgresql/data")
        return self.root / mount / "data"

    def supervised(self) -> dict[str, Any]:
        """What the supervisor says (anybody may ask)."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.root / "run/yoban/supervisor.sock"))
            sock.sendall(b'{"id":1,"do":"status"}\n')
            data = b""
            while not data.endswith(b"\n"):
                data += sock.recv(65536)
        answer: dict[str, Any] = json.loads(data)
        return answer

    @property
    def server_pid(self) -> int | None:
        server = self.supervised()["server"]
        return server["pid"] if server else None

    @property
    def agent_pid(self) -> int | None:
        pid: int | None = self.supervised()["agent"]
        return pid

    async def ready(self) -> Readiness:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session,
            session.get(f"http://127.0.0.1:{self.probe_port}/readyz") as response,
        ):
            return Readiness(self, response.status == 200)

    def tls(self, who: str = "operator") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.world.pki / "ca.crt"))
        context.load_cert_chain(str(self.world.pki / f"{who}.crt"), str(self.world.pki / f"{who}.key"))
        return context

    async def call(
        self, method: str, path: str, body: msgspec.Struct | None = None, who: str = "operator", total: float = 70
    ) -> tuple[int, bytes]:
        data = msgspec.json.encode(body) if body is not None else None
        url = f"https://localhost:{self.member.control}{path}"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=total)) as session,
            session.request(method, url, data=data, ssl=self.tls(who)) as response,
        ):
            return response.status, await response.read()

    async def status(self) -> AgentStatus:
        code, body = await self.call("GET", "/v1/status")
        assert code == 200, body
        return msgspec.json.decode(body, type=AgentStatus)

    async def label(self) -> str:
        pod = await self.world.cluster.client.get(POD, f"{self.name}-0", NAMESPACE)
        return str((pod["metadata"].get("labels") or {}).get("yoban.dev/role", ""))

    def problems(self) -> str:
        return self.log.read_text()[-40000:]

    # -- hurting -----------------------------------------------------------------------------------------------------

    async def stop(self, timeout: float = 50) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, timeout)

    def kill(self) -> None:
        """As a machine that loses power."""
        if self.process is None or self.process.poll() is not None:
            return
        below = descendants(self.process.pid)
        for pid in [self.process.pid, *below]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


@dataclass(frozen=True)
class Readiness:
    """What a readiness probe was answered; shows as what the instance said last."""

    pod: PodProcess
    ready: bool

    def __bool__(self) -> bool:
        return self.ready

    def __repr__(self) -> str:
        return f"{self.ready}, {self.pod.name} said:\n" + "\n".join(spoken(self.pod.log.read_text())[-8:])


def spoken(log: str) -> list[str]:
    """What each line of a log says, with its time; the agent's lines are JSON, the server's are plain."""
    said = []
    for line in log.splitlines():
        try:
            fields = json.loads(line)
            said.append(f"{fields['time']} {fields['message']}")
        except (ValueError, TypeError, KeyError):
            said.append(line)
    return said


def descendants(root: int) -> list[int]:
    table: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                table.setdefault(int(stat[1]), []).append(int(entry))
    found, stack = [], [root]
    while stack:
        children = table.get(stack.pop(), [])
        found += children
        stack += children
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def build_ask(folder: Path) -> Path:
    """The tiny client, as the image has it."""
    program = folder / "yoban-ask"
    source = REPO / "deploy/image/yoban_ask.c"
    subprocess.run(["cc", "-O1", "-o", str(program), str(source)], check=True)
    return program


def tree() -> list[str]:
    """Folders of the packages under test, wherever the environment's own come from."""
    found = [importlib.util.find_spec(name) for name in ("yoban", "yoban_mysql", "yoban_postgres", "yoban_s3")]
    return [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin is not None]


def toy_distribution(folder: Path) -> Path:
    """The toy as an installed distribution: its folder and an entry point."""
    site = folder / "site"
    if not site.exists():
        shutil.copytree(REPO / "tests/toy/yoban_toy", site / "yoban_toy", ignore=shutil.ignore_patterns("__pycache__"))
        info = site / "yoban_toy-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: yoban-toy\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[yoban.plugins]\ntoy = yoban_toy\n")
    return site


async def problem(pod: PodProcess, reason: str, seconds: float = 60) -> AgentStatus:
    """Wait until an agent tells a problem of this reason, and return what it told."""

    async def told() -> AgentStatus | None:
        status = await pod.status()
        return status if reason in [item.reason for item in status.problems] else None

    status = await until(f"{reason} is told", told, seconds)
    assert isinstance(status, AgentStatus)
    return status
