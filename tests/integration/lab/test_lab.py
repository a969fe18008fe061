"""The lab cluster: Pods, names, volumes, images, repair, and no way out of the machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from deploy.lab import cluster, layout, network, state
from deploy.lab.cluster import Cluster
from deploy.lab.failure import LabError
from deploy.lab.images import OPERATOR, PREFIX, TOY
from deploy.lab.kubectl import kubectl
from deploy.lab.process import run, wait_until
from deploy.lab.proxy import FaultProxy
from deploy.lab.resizer import quantity

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def pod(name: str, image: str, command: list[str], **more: object) -> dict[str, object]:
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **more.pop("container", {}),  # type: ignore[dict-item]
    }
    security = {"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "runAsNonRoot": True}
    security["seccompProfile"] = {"type": "RuntimeDefault"}  # type: ignore[assignment]
    spec = {"terminationGracePeriodSeconds": 1, "securityContext": security, "containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def apply(lab: Cluster, namespace: str, *objects: Mapping[str, object]) -> None:
    # The service account of a new namespace comes a moment after it.
    def there() -> bool:
        return bool(lab.kubectl("get", "serviceaccount", "default", "-n", namespace, "-o", "name", check=False))

    assert wait_until(there, 90)
    content = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    lab.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=json.dumps(content))


def ready(lab: Cluster, namespace: str, name: str) -> None:
    lab.kubectl("wait", "--namespace", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=90s")


def output(lab: Cluster, namespace: str, name: str) -> str:
    """What a Pod printed that runs to its end, which must be a good one."""

    def phase() -> str:
        return lab.kubectl("get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.phase}")

    assert wait_until(lambda: phase() in ("Succeeded", "Failed"), 90, 0.3), lab.kubectl(
        "describe", "pod", name, "-n", namespace
    )
    printed = lab.kubectl("logs", "--all-containers", "--namespace", namespace, name)
    assert phase() == "Succeeded", printed
    return printed


def inside(lab: Cluster, namespace: str, name: str, script: str, *, check: bool = True) -> str:
    return lab.kubectl("exec", "--namespace", namespace, name, "-c", "main", "--", "bash", "-c", script, check=check)


def test_up_on_a_healthy_lab_changes_nothing_and_is_quick(own_lab: Cluster) -> None:
    before = {name: state.recorded(name) for name in state.names()}
    assert len(before) == 4 + 3 + 3 + 3 * 4
    begin = time.monotonic()
    cluster.up()
    assert time.monotonic() - begin < 8, "bringing it up anew takes longer"
    assert {name: state.recorded(name) for name in state.names()} == before
    assert cluster.healthy()


def test_pods_have_volumes_names_logs_and_services(own_lab: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "writer"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    # Perl is in every Debian base: a server of one answer.
    server = (
        "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1) or die;"
        'print "listening\\n"; $| = 1; while (my $c = $s->accept) { print $c "hello\\n"; close $c }'
    )
    writer = pod(
        "writer",
        TOY,
        ["perl", "-e", f"$| = 1; {server}"],
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    )
    reader = pod("reader", TOY, ["sleep", "infinity"])
    apply(own_lab, namespace, claim, service, writer, reader)
    ready(own_lab, namespace, "writer")
    ready(own_lab, namespace, "reader")
    # A volume that only root can write to would be of no use to a restricted Pod.
    inside(own_lab, namespace, "writer", "mkdir -m 700 /data/mine && echo kept > /data/mine/file")
    assert own_lab.kubectl("get", "pvc", "data", "-n", namespace, "-o", "jsonpath={.status.phase}") == "Bound"
    assert "listening" in own_lab.kubectl("logs", "--namespace", namespace, "writer")
    ask = "exec 3<>/dev/tcp/web/80 && head -1 <&3"
    assert wait_until(lambda: "hello" in inside(own_lab, namespace, "reader", ask, check=False), 60)
    address = own_lab.kubectl("get", "service", "web", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
    assert run(["bash", "-c", f"exec 3<>/dev/tcp/{address}/80 && head -1 <&3"], deadline=10) == "hello\n"


def test_volumes_grow_where_the_class_allows_it(own_lab: Cluster, namespace: str) -> None:
    def claim(kind: str) -> dict[str, object]:
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": kind},
            "spec": {
                "storageClassName": kind,
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }

    classes = ("lab-local", "lab-expandable")
    volumes = [{"name": kind, "persistentVolumeClaim": {"claimName": kind}} for kind in classes]
    mounts = [{"name": kind, "mountPath": f"/{kind}"} for kind in classes]
    user = pod("user", TOY, ["sleep", "infinity"], volumes=volumes, container={"volumeMounts": mounts})
    apply(own_lab, namespace, *(claim(kind) for kind in classes), user)
    ready(own_lab, namespace, "user")
    change = '{"spec": {"resources": {"requests": {"storage": "2Gi"}}}}'
    own_lab.kubectl("patch", "pvc", "lab-expandable", "-n", namespace, "--patch", change)

    def size() -> str:
        return own_lab.kubectl(
            "get", "pvc", "lab-expandable", "-n", namespace, "-o", "jsonpath={.status.capacity.storage}"
        )

    assert wait_until(lambda: size() == "2Gi", 20, 0.2)
    with pytest.raises(LabError, match=r"does not support resize|only dynamically provisioned"):
        own_lab.kubectl("patch", "pvc", "lab-local", "-n", namespace, "--patch", change)


@pytest.mark.parametrize(
    ("text", "size"), [("1Gi", 2**30), ("1.5Gi", 3 * 2**29), ("500M", 500_000_000), ("7", 7), ("2Ki", 2048)]
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, size: int) -> None:
    assert quantity(text) == size


def test_pods_get_no_outside_names(own_lab: Cluster, namespace: str) -> None:
    apply(own_lab, namespace, pod("asker", TOY, ["sleep", "infinity"]))
    ready(own_lab, namespace, "asker")
    assert layout.SERVICE_API in inside(own_lab, namespace, "asker", "getent hosts kubernetes.default")
    begin = time.monotonic()
    assert inside(own_lab, namespace, "asker", "getent hosts example.com", check=False) == ""
    assert time.monotonic() - begin < 5  # a definite no, no time-out


@contextmanager
def outside_witness() -> Iterator[list[int]]:
    """Counts packets with an address of the lab on any link that is not the lab's, the host forwarding meanwhile."""
    rule = f'oifname != {{ "{layout.BRIDGE}", "lo" }} ip saddr {layout.LAB_NETWORK}'
    run(
        ["nft", "-f", "-"],
        stdin="table inet yoban-lab-witness { counter seen { }\n"
        f"chain out {{ type filter hook postrouting priority 300; {rule} counter name seen\n}}\n}}\n",
    )
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    seen: list[int] = []
    try:
        forwarding.write_text("1")
        yield seen
        listed = json.loads(run(["nft", "--json", "list", "counters", "table", "inet", "yoban-lab-witness"]))
        seen.extend(entry["counter"]["packets"] for entry in listed["nftables"] if "counter" in entry)
    finally:
        forwarding.write_text(before)
        run(["nft", "delete", "table", "inet", "yoban-lab-witness"])


def test_no_packet_leaves_the_machine(own_lab: Cluster, namespace: str) -> None:
    apply(own_lab, namespace, pod("prisoner", TOY, ["sleep", "infinity"], nodeName="node-1"))
    ready(own_lab, namespace, "prisoner")
    # 192.0.2.1 is of a range for documentation (RFC 5737).
    attempt = "timeout 3 bash -c 'echo > /dev/udp/192.0.2.1/9; echo > /dev/tcp/192.0.2.1/80' 2>&1"
    assert "unreachable" in inside(own_lab, namespace, "prisoner", attempt, check=False)
    # Second wall: even where a node had a way to the host, and the host forwarded.
    route = ["ip", "-netns", network.namespace(1), "route"]
    escaped = network.counter("escaped")
    with outside_witness() as seen:
        run([*route, "add", "192.0.2.1/32", "via", layout.BRIDGE_ADDRESS])
        try:
            inside(own_lab, namespace, "prisoner", attempt, check=False)
        finally:
            run([*route, "del", "192.0.2.1/32"])
    assert network.counter("escaped") > escaped
    assert seen == [0]


def test_pods_reach_only_the_labs_ports_of_the_host(own_lab: Cluster, namespace: str) -> None:
    apply(own_lab, namespace, pod("knocker", TOY, ["sleep", "infinity"]))
    ready(own_lab, namespace, "knocker")
    script = (
        f"for port in {layout.API_PORT} {layout.STORE_PORT} 22 23790; do "
        f'timeout 2 bash -c "echo > /dev/tcp/{layout.BRIDGE_ADDRESS}/$port" 2>/dev/null && echo $port; done; true'
    )
    assert inside(own_lab, namespace, "knocker", script).split() == [str(layout.API_PORT), str(layout.STORE_PORT)]


async def test_exec_and_watch_pass_through_the_fault_proxy(own_lab: Cluster, namespace: str) -> None:
    await asyncio.to_thread(apply, own_lab, namespace, pod("echo", TOY, ["sleep", "infinity"]))
    await asyncio.to_thread(ready, own_lab, namespace, "echo")
    async with FaultProxy(own_lab, host=layout.BRIDGE_ADDRESS, port=6499) as proxy:
        command = ("exec", "--namespace", namespace, "echo", "--", "echo", "through")
        assert await asyncio.to_thread(kubectl, proxy.kubeconfig, *command) == "through\n"
        record = await proxy.wait_request("/exec", method="(GET|POST)")
        assert record.status == 101


def test_operator_image_starts_with_a_read_only_root_as_nobody(own_lab: Cluster, namespace: str) -> None:
    own_lab.load(OPERATOR)
    check = (
        "import asyncpg, aiohttp, zstandard, numpy, ssl, sqlite3, sys, yoban, zoneinfo, os; "
        "assert ssl.create_default_context().get_ca_certs(); zoneinfo.ZoneInfo('Asia/Tokyo'); "
        "print(sys.prefix, os.getuid())"
    )
    apply(own_lab, namespace, pod("operator", OPERATOR, [*PYTHON, "-c", check], **read_only(65532)))
    assert output(own_lab, namespace, "operator") == "/opt/yoban 65532\n"


PYTHON = ["/opt/yoban/bin/ld.so", "--library-path", "/opt/yoban/lib", "/opt/yoban/bin/python3"]


def read_only(uid: int) -> dict[str, object]:
    return {
        "container": {
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsUser": uid,
                "runAsGroup": uid,
            }
        },
        "restartPolicy": "Never",
    }


@pytest.mark.parametrize(("version", "debian"), [("17", "13"), ("15", "12")])
def test_runtime_works_injected_into_an_unmodified_image(
    own_lab: Cluster, namespace: str, version: str, debian: str
) -> None:
    image = f"{PREFIX}postgres:{version}"
    own_lab.load(OPERATOR, image)
    environment = {
        "PYTHONHOME": "/opt/yoban",
        "PYTHONPATH": "/opt/yoban/lib/site",
        "SSL_CERT_FILE": "/opt/yoban/etc/ssl/cert.pem",
        "OPENSSL_CONF": "/opt/yoban/etc/ssl/openssl.cnf",
    }
    volume = {"name": "runtime", "mountPath": "/opt/yoban", "readOnly": True}
    target = {"name": "runtime", "mountPath": "/target"}
    script = (
        "import yoban, aiohttp, asyncpg, zstandard, ssl, sys, socket, subprocess, os;"
        "print(open('/etc/debian_version').read().split('.')[0]);"
        "[os.environ.pop(k) for k in list(os.environ) if k.startswith('PYTHON')];"
        "print(subprocess.check_output(['postgres', '--version'], text=True).split()[2].split('.')[0]);"
        "print(socket.gethostbyname('kubernetes.default.svc'));"
        "print(sys.modules['zstandard'].__file__)"
    )
    injected = pod("injected", image, [*PYTHON, "-c", script], **read_only(999))
    spec = injected["spec"]
    assert isinstance(spec, dict)
    spec["volumes"] = [{"name": "runtime", "emptyDir": {}}]
    spec["initContainers"] = [
        {
            "name": "inject",
            "image": OPERATOR,
            "imagePullPolicy": "Never",
            "command": ["cp", "-r", "/opt/yoban/.", "/target/"],
            "securityContext": spec["containers"][0]["securityContext"],
            "volumeMounts": [target],
        }
    ]
    spec["containers"][0]["volumeMounts"] = [volume]
    spec["containers"][0]["env"] = [{"name": key, "value": value} for key, value in environment.items()]
    apply(own_lab, namespace, injected)
    printed = output(own_lab, namespace, "injected").split()
    assert printed[:3] == [debian, version, layout.SERVICE_API]
    assert printed[3].startswith("/opt/yoban/lib/site/zstandard/")


def test_postgres_image_is_laid_out_like_the_public_one(own_lab: Cluster, namespace: str) -> None:
    image = f"{PREFIX}postgres:17"
    own_lab.load(image)
    script = (
        "id -u; id -gn; command -v postgres pg_basebackup initdb; locale -a | sort | tr '\\n' ' '; echo; "
        "echo $PGDATA; stat -c '%U:%G %a' /var/lib/postgresql/data; ls /usr/lib/postgresql/17/lib | grep -c llvm; "
        "initdb -D /tmp/x --locale=en_US.UTF-8 >/dev/null 2>&1 && echo initialized; ls / | grep -c yoban; true"
    )
    apply(own_lab, namespace, pod("layout", image, ["bash", "-c", script], restartPolicy="Never"))
    programs = "/usr/lib/postgresql/17/bin/"
    assert output(own_lab, namespace, "layout").splitlines() == [
        "999",
        "postgres",
        f"{programs}postgres",
        "/usr/bin/pg_basebackup",
        f"{programs}initdb",
        "C C.utf8 en_US.utf8 POSIX ",
        "/var/lib/postgresql/data",
        "postgres:postgres 700",
        "0",
        "initialized",
        "0",
    ]


def test_up_repairs_what_crashed(own_lab: Cluster, namespace: str) -> None:
    own_lab.kubectl("create", "configmap", "kept", "--namespace", namespace)
    for process in (state.recorded("kube-apiserver"), own_lab.node(2).daemon("kubelet"), state.recorded("store")):
        assert process is not None
        process.signal(signal.SIGKILL)
    own_lab.node(3).kill()
    # A record that is lost must not lead to a second process of the kind.
    etcd = state.recorded("etcd")
    assert etcd is not None
    state.forget("etcd")
    assert wait_until(lambda: not cluster.healthy(), 60)
    cluster.up()
    assert cluster.healthy()
    assert not etcd.alive()
    assert "kept" in own_lab.kubectl("get", "configmap", "--namespace", namespace, "--output", "name")


def test_foreign_cluster_is_taken_only_by_explicit_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_lab: Cluster
) -> None:
    other = tmp_path / "other"
    other.write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(other))
    assert cluster.kubeconfig() == own_lab.kubeconfig
    monkeypatch.setenv(cluster.CHOICE, str(other))
    assert cluster.kubeconfig() == other
    foreign = cluster.current()
    assert not foreign.own
    with pytest.raises(LabError, match="no nodes"):
        foreign.node(1)
    monkeypatch.setenv(cluster.CHOICE, str(tmp_path / "absent"))
    with pytest.raises(LabError, match="no such file"):
        cluster.ensure()


def machine() -> dict[str, object]:
    """What of a lab could be left on the machine."""
    programs = str(layout.cache())
    left = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                command = (folder / "cmdline").read_text().replace("\0", " ")
                if "/yoban-api-" in command or "/yoban-s3-" in command:
                    continue  # the session's single servers are not the lab's
                if programs in command or "deploy.lab." in command or "/mnt/node" in command:
                    left.append(command)
    return {
        "processes": left,
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "namespaces": run(["ip", "netns", "list"]).split(),
        "tables": run(["nft", "list", "tables"]),
        "rules": run(["nft", "list", "ruleset"]),
        "routes": run(["ip", "route"]),
        "groups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("**/yoban*")),
        "folders": [str(path) for path in (layout.RUN, layout.lab_root()) if path.exists()],
    }


def test_down_leaves_nothing_and_up_comes_back(found_down: bool, own_lab: Cluster, namespace: str) -> None:
    if not found_down:
        pytest.skip("the lab was up before the tests and may be in use: take it down first, or set CI=true")
    apply(own_lab, namespace, pod("busy", TOY, ["sleep", "infinity"]))
    ready(own_lab, namespace, "busy")
    cluster.down()
    cluster.down()
    clean = machine()
    assert clean["processes"] == []
    assert clean["groups"] == []
    assert clean["folders"] == []
    assert "yoban" not in str(clean)
    cluster.up()
    own_lab.kubectl("create", "namespace", namespace)
    cluster.down()
    assert machine() == clean
    cluster.up()
    own_lab.kubectl("create", "namespace", namespace)


def test_command_line_reports_what_is_wrong(own_lab: Cluster) -> None:
    words = [str(Path(layout.REPOSITORY) / ".venv/bin/python"), "-m", "deploy.lab", "load", "nosuch"]
    done = subprocess.run(words, cwd=layout.REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no image is called nosuch" in done.stderr
