"""What every bench of a database runs on: real processes, a real S3 server on loopback, the API server played by a fake.

Everything lies in one folder that is removed at the end, also when the bench is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from yoban.agent.storage import store_config
from yoban.errors import YobanError
from yoban.kube.clock import SystemClock
from yoban.model.control import BackupResult
from yoban.model.instance import StoreDocument
from yoban.repository import Repository, RetryPolicy
from yoban_s3.provider import S3Provider

from deploy.lab.store import LocalStore
from tests.bench.found import Found
from tests.bench.machine import BenchError, say

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "agent"))

# Found at run time by the path above only; the type checker knows these modules under no such name.
from harness import INCARNATION, NAMESPACE, FakeCluster, PodProcess, World, until  # type: ignore[import-not-found]
from postgres import backup, restored  # type: ignore[import-not-found]

__all__ = ["FakeCluster", "PodProcess", "World", "restored", "until"]


@dataclass(frozen=True)
class Rig:
    """A folder, the fake API server, and the S3 server (over TLS)."""

    folder: Path
    cluster: FakeCluster
    store: LocalStore


@contextlib.asynccontextmanager
async def rig(*, keep: bool) -> AsyncIterator[Rig]:
    """Bring up what a bench runs on; leave nothing behind, unless the folder is to be kept."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix="yoban-bench-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = FakeCluster()
    await cluster.start()
    try:
        with LocalStore(tls=True) as store:
            yield Rig(folder, cluster, store)
    finally:
        await cluster.stop()
        if keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def known(error: BaseException) -> bool:
    """Whether an error says that a measure cannot go on, alone or as a group of such; any other is the bench's own. Pure."""
    if isinstance(error, BaseExceptionGroup):
        return all(known(one) for one in error.exceptions)
    return isinstance(error, (BenchError, AssertionError, YobanError))


@contextlib.asynccontextmanager
async def watched(found: Found, pod: PodProcess) -> AsyncIterator[None]:
    """End the instance afterwards, and show its log when something went wrong.

    A measure that cannot go on is noted in the facts: what was measured until then is worth having.
    """
    try:
        yield
    except BaseException as error:
        if pod.log.exists():
            print(f"--- log of the instance\n{pod.problems()}", file=sys.stderr)
        if not known(error):
            raise
        found.facts["ended"] = f"{error!r}"[:400]
    finally:
        await asyncio.to_thread(pod.kill)


async def make_bucket(store: LocalStore) -> StoreDocument:
    """A bucket in the S3 server, reached over TLS."""
    assert store.ca_file is not None
    document = StoreDocument(
        provider="s3",
        bucket=f"bench-{uuid.uuid4().hex[:10]}",
        endpoint=store.endpoint,
        region=store.region,
        ca_bundle=store.ca_file.read_text(),
        credentials={"accessKeyId": store.access_key, "secretAccessKey": store.secret_key},
    )
    async with S3Provider().open(store_config(document)) as opened:
        assert opened.bucket is not None
        await opened.bucket.create()
    return document


@contextlib.asynccontextmanager
async def repository(bucket: StoreDocument, incarnation: str = INCARNATION) -> AsyncIterator[Repository]:
    """Our repository in the bucket."""
    async with S3Provider().open(store_config(bucket)) as store:
        root = f"{NAMESPACE}/orders/{incarnation}"
        yield Repository(store, root, clock=SystemClock(), retry=RetryPolicy())


async def back_up(pod: PodProcess) -> BackupResult:
    """Take a full backup as the operator asks for it; return what the agent tells of it."""
    done = await backup(pod)
    if done.backup is None:
        raise BenchError(f"the backup failed: {done}")
    found: BackupResult = done.backup
    return found
