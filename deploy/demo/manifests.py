"""The objects of the demo, as a user would write them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from deploy.demo.kubectl import Object

API = "yoban.dev/v1alpha1"


@dataclass(frozen=True)
class Bucket:
    """An S3 server and what opens it; `endpoint` as Pods reach it."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)


def namespace(name: str) -> Object:
    """Return a namespace that admits restricted Pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def credentials(name: str, bucket: Bucket) -> Object:
    """Return the Secret that an ObjectStore refers to."""
    entries = {"accessKeyId": bucket.access_key, "secretAccessKey": bucket.secret_key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()},
    }


def object_store(name: str, bucket: Bucket, bucket_name: str, secret: str, **more: object) -> Object:
    """Return an ObjectStore that makes its bucket."""
    spec = {
        "provider": "s3",
        "bucket": bucket_name,
        "endpoint": bucket.endpoint,
        "region": bucket.region,
        "credentials": {"secret": secret},
        "create": True,
        **more,
    }
    return {"apiVersion": API, "kind": "ObjectStore", "metadata": {"name": name}, "spec": spec}


def policy(name: str, store: str, **more: object) -> Object:
    """Return a BackupPolicy: 5 s of RPO, a base backup a day, a week of window."""
    spec = {
        "destinations": [{"objectStore": store}],
        "rpo": "5s",
        "maximumAge": "24h",
        "retention": {"window": "168h"},
        **more,
    }
    return {"apiVersion": API, "kind": "BackupPolicy", "metadata": {"name": name}, "spec": spec}


def database(name: str, engine: str, image: str, *, instances: int, policy: str = "", **more: object) -> Object:
    """Return a Database."""
    spec: Object = {
        "engine": engine,
        "image": image,
        "instances": instances,
        "storage": {"size": "4Gi"},
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        **({"backup": {"policy": policy}} if policy else {}),
        **more,
    }
    return {"apiVersion": API, "kind": "Database", "metadata": {"name": name}, "spec": spec}


def backup(name: str, database: str) -> Object:
    """Return a Backup: one base backup, now."""
    return {"apiVersion": API, "kind": "Backup", "metadata": {"name": name}, "spec": {"database": database}}


def restore_of(source: str | Object, target: Object) -> Object:
    """Return the bootstrap of a Database that begins as another was; `source` is its name, or a place in a store."""
    place = {"database": source} if isinstance(source, str) else source
    return {"restore": {"source": place, "target": target}}
