"""Faults of nodes and store are real: the cluster notices them, and their end heals."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import EndpointConnectionError

from deploy.lab import cgroups, faults
from deploy.lab.cluster import Cluster
from deploy.lab.images import TOY
from deploy.lab.process import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def node_ready(lab: Cluster, number: int) -> str:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return lab.kubectl("get", "node", f"node-{number}", "--output", f"jsonpath={path}")


def counter(lab: Cluster, namespace: str, number: int) -> None:
    """A Pod on a node that counts into its volume, ten times a second."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    script = "n=$(cat /data/n 2>/dev/null || echo 0); while :; do n=$((n+1)); echo $n > /data/n; sleep 0.1; done"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "counter"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": f"node-{number}"},
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "main",
                    "image": TOY,
                    "imagePullPolicy": "Never",
                    "command": ["bash", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": [claim, pod]})

    def there() -> bool:
        return bool(lab.kubectl("get", "serviceaccount", "default", "-n", namespace, "-o", "name", check=False))

    assert wait_until(there, 90)
    lab.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=content)
    lab.kubectl("wait", "--namespace", namespace, "pod/counter", "--for=condition=Ready", "--timeout=90s")
    assert wait_until(lambda: count(lab, number) > 0, 60)


def count(lab: Cluster, number: int) -> int:
    """What it counted, read from the node's disk."""
    found = list((lab.node(number).folder / "yoban-volumes").glob("*counter*/n")) or list(
        (lab.node(number).folder / "yoban-volumes").glob("*/n")
    )
    text = max(found, key=lambda path: path.stat().st_mtime).read_text().strip() if found else ""
    return int(text or 0)


def test_a_cut_node_is_noticed_goes_on_alone_and_comes_back(own_lab: Cluster, namespace: str) -> None:
    counter(own_lab, namespace, 3)
    faults.cut(3)
    try:
        assert wait_until(lambda: node_ready(own_lab, 3) == "Unknown", 120, 0.5)
        at = count(own_lab, 3)
        assert wait_until(lambda: count(own_lab, 3) > at, 60)
    finally:
        faults.heal(3)
    assert wait_until(lambda: node_ready(own_lab, 3) == "True", 120, 0.5)


def test_a_frozen_node_does_nothing_until_it_is_thawed(own_lab: Cluster, namespace: str) -> None:
    counter(own_lab, namespace, 2)
    faults.freeze(2)
    try:
        at = count(own_lab, 2)
        assert wait_until(lambda: node_ready(own_lab, 2) == "Unknown", 120, 0.5)
        assert count(own_lab, 2) == at
    finally:
        faults.thaw(2)
    assert wait_until(lambda: count(own_lab, 2) > at, 60)
    assert wait_until(lambda: node_ready(own_lab, 2) == "True", 120, 0.5)


def test_a_killed_node_loses_its_processes_and_keeps_its_disk(own_lab: Cluster, namespace: str) -> None:
    counter(own_lab, namespace, 1)
    faults.kill(1)
    try:
        assert cgroups.processes(1) == set()
        at = count(own_lab, 1)
        assert at > 0
    finally:
        faults.restart(1)
    assert wait_until(lambda: count(own_lab, 1) > at, 60)
    assert wait_until(lambda: node_ready(own_lab, 1) == "True", 120, 0.5)


@pytest.fixture
async def s3(own_lab: Cluster) -> AsyncIterator[Any]:
    store = own_lab.store
    async with get_session().create_client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
    ) as client:
        await client.create_bucket(Bucket="lab-faults")
        yield client
        for item in (await client.list_objects_v2(Bucket="lab-faults")).get("Contents", []):
            await client.delete_object(Bucket="lab-faults", Key=item["Key"])
        await client.delete_bucket(Bucket="lab-faults")


async def test_objects_survive_a_stop_of_the_store(own_lab: Cluster, s3: Any) -> None:
    await s3.put_object(Bucket="lab-faults", Key="kept", Body=b"content")
    faults.store_stop()
    try:
        with pytest.raises(EndpointConnectionError):
            await s3.get_object(Bucket="lab-faults", Key="kept")
    finally:
        faults.store_start()
    got = await s3.get_object(Bucket="lab-faults", Key="kept")
    assert await got["Body"].read() == b"content"


async def test_a_slow_store_is_slow_until_told_otherwise(own_lab: Cluster, s3: Any) -> None:
    async def seconds() -> float:
        begin = time.monotonic()
        await s3.list_objects_v2(Bucket="lab-faults")
        return time.monotonic() - begin

    faults.store_slow(300)
    try:
        slow = [await seconds() for _ in range(4)]
        assert slow[-1] >= 0.6  # there and back
    finally:
        faults.store_slow(0)
    quick = [await seconds() for _ in range(6)]
    assert quick[-1] < 0.3


async def test_store_speaks_tls_with_the_labs_certificate(own_lab: Cluster, s3: Any) -> None:
    store = own_lab.store
    async with get_session().create_client(
        "s3",
        endpoint_url=store.tls_endpoint,
        region_name=store.region,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        verify=str(own_lab.ca_file),
    ) as client:
        names = [bucket["Name"] for bucket in (await client.list_buckets())["Buckets"]]
    assert "lab-faults" in names
    assert store.credentials_file.stat().st_mode & 0o077 == 0
