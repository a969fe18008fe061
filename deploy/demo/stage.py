"""Where the story plays: a cluster with our images on it, an S3 server, and, on the lab, handles for faults.

On the lab everything is built and loaded from the present tree. On a cluster that YOBAN_KUBECONFIG names nothing is built:
the images and the S3 server are named by the variables `YOBAN_DEMO_IMAGE`, `YOBAN_DEMO_S3_ENDPOINT`, `…_REGION`,
`…_ACCESS_KEY` and `…_SECRET_KEY`; faults are not to be had there.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deploy.demo.kubectl import Kubectl
from deploy.demo.manifests import Bucket
from deploy.lab import faults, images
from deploy.lab.audit import AuditLog
from deploy.lab.cluster import Cluster, chosen, current, ensure
from deploy.lab.failure import LabError

if TYPE_CHECKING:
    from yoban.plugins import ObjectStore, ObjectStoreProvider, StoreConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A cluster that is ready for Databases.

    Attributes:
        cluster: the lab, or the cluster that was chosen.
        operator_image: name of the operator's image, on all nodes.
        operator_identity: id of that image; changes with its content.
        bucket: the S3 server, as Pods reach it.
    """

    cluster: Cluster
    operator_image: str
    operator_identity: str
    bucket: Bucket

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.cluster.kubeconfig

    @property
    def description(self) -> str:
        """The cluster in a few words."""
        return "three nodes of the lab" if self.cluster.own else f"the cluster of {self.kubeconfig}"

    @property
    def chart_values(self) -> dict[str, object]:
        """Values by which the operator's Pods roll when the image's content changes under the same name."""
        return {"podAnnotations": {"yoban.dev/image": self.operator_identity[:32]}}

    # -- faults (of the lab only) ------------------------------------------------------------------------------------

    def cut(self, node: str) -> None:
        """Cut a node off the network, by its Kubernetes name."""
        faults.cut(self._number(node))

    def heal(self, node: str) -> None:
        """End of `cut`."""
        faults.heal(self._number(node))

    def store_stop(self) -> None:
        """Stop the S3 server."""
        self._own()
        faults.store_stop()

    def store_start(self) -> None:
        """Start the S3 server again."""
        self._own()
        faults.store_start()

    def signal_process(self, kubectl: Kubectl, pod: str, module: str, number: signal.Signals) -> int:
        """Send a signal to the process of a Pod whose command line has `module`, and return its pid on this machine.

        Raises:
            LabError: there is not exactly one such process.
        """
        pid = self.process(kubectl, pod, module)
        os.kill(pid, number)
        return pid

    def process(self, kubectl: Kubectl, pod: str, module: str) -> int:
        """Return the pid on this machine of the process of a Pod whose command line has `module`.

        Raises:
            LabError: there is not exactly one such process.
        """
        self._own()
        value = kubectl.get("pod", pod)
        uid = value["metadata"]["uid"] if value is not None else "?"
        found = [pid for pid in _processes() if _belongs(pid, uid) and module in _command(pid)]
        if len(found) != 1:
            raise LabError(f"{len(found)} processes of Pod {pod} run {module}")
        return found[0]

    def wait_process_gone(self, pid: int, *, deadline: float) -> None:
        """Return when a process has ended, by the kernel's word.

        Raises:
            LabError: it is still there after `deadline` seconds.
        """
        try:
            file = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        with os.fdopen(file, closefd=True) as watched:
            if not select.select([watched], [], [], deadline)[0]:
                raise LabError(f"process {pid} does not end")

    @property
    def audit(self) -> AuditLog:
        """What Pods wrote, by the lab's API server."""
        self._own()
        return AuditLog(self.cluster.plane.audit_file)

    def _number(self, node: str) -> int:
        self._own()
        return int(re.sub(r"\D", "", node))

    def _own(self) -> None:
        if not self.cluster.own:
            raise LabError("faults are of the lab only, and this is another cluster")

    # -- the store, seen from this machine ---------------------------------------------------------------------------

    def bucket_exists(self, name: str) -> bool:
        """Tell whether a bucket exists."""
        return bool(self._store(name, lambda store: store.bucket.exists()))  # type: ignore[union-attr]

    def make_bucket(self, name: str) -> None:
        """Make a bucket, without any mark of ours."""
        self._store(name, lambda store: store.bucket.create())  # type: ignore[union-attr]

    def objects(self, bucket: str, prefix: str) -> dict[str, bytes]:
        """Return the objects whose keys begin so, by key."""

        async def read(store: ObjectStore) -> dict[str, bytes]:
            keys = [info.key async for info in store.list(prefix)]
            return {key: b"".join([part async for part in store.get(key)]) for key in keys}

        return self._store(bucket, read)

    def put_object(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, or replace it."""
        self._store(bucket, lambda store: store.put(key, data))

    def delete_object(self, bucket: str, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        self._store(bucket, lambda store: store.delete([key]))

    def _store(self, name: str, call: Callable[[ObjectStore], Coroutine[Any, Any, T]]) -> T:
        from yoban.plugins import StoreConfig
        from yoban_s3.plugin import yoban_object_stores

        credentials = {"accessKeyId": self.bucket.access_key, "secretAccessKey": self.bucket.secret_key}
        config = StoreConfig(
            bucket=name, endpoint=self.bucket.endpoint, region=self.bucket.region, credentials=credentials
        )
        return asyncio.run(_called(config, call, next(iter(yoban_object_stores()))))


def prepare(
    servers: Sequence[str], progress: Callable[[str], None] = print, *, operator: str = images.OPERATOR
) -> Stage:
    """Bring the cluster up when it is the lab's, build the operator from the present tree, and load all images.

    `servers` are the images that Databases need; `operator` is the operator's image, ours or one made from it.
    """
    if chosen() is not None:
        return _foreign()
    cluster = ensure()
    progress("building the operator image")
    for name in dict.fromkeys((images.OPERATOR, operator)):
        images.build(name)
    images.ensure([images.full_name(name) for name in servers])
    progress("loading images into the nodes")
    cluster.load(operator, *servers)
    return _of_lab(cluster, operator)


def present() -> Stage | None:
    """Return the stage as it stands; None when the lab is not up."""
    if chosen() is not None:
        return _foreign()
    try:
        return _of_lab(current())
    except LabError:
        return None


def _of_lab(cluster: Cluster, operator: str = images.OPERATOR) -> Stage:
    store = cluster.store
    bucket = Bucket(store.endpoint, store.region, store.access_key, store.secret_key)
    return Stage(cluster, operator, images.identity(operator) or "", bucket)


def _foreign() -> Stage:
    def given(name: str) -> str:
        value = os.environ.get(f"YOBAN_DEMO_{name}", "")
        if not value:
            raise LabError(f"on a cluster of your own, set YOBAN_DEMO_{name} as well")
        return value

    bucket = Bucket(given("S3_ENDPOINT"), given("S3_REGION"), given("S3_ACCESS_KEY"), given("S3_SECRET_KEY"))
    image = given("IMAGE")
    return Stage(current(), image, image, bucket)


async def _called(
    config: StoreConfig, call: Callable[[ObjectStore], Coroutine[Any, Any, T]], provider: ObjectStoreProvider
) -> T:
    async with provider.open(config) as store, asyncio.timeout(30):
        return await call(store)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _belongs(pid: int, pod_uid: str) -> bool:
    try:
        return f"pod{pod_uid}" in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
