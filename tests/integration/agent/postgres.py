"""PostgreSQL in tests of the agent: SQL beside the server, backups and restores asked for as the operator does."""

from __future__ import annotations

import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from harness import DATABASE, NAMESPACE, PodProcess, World, until
from yoban.agent.storage import store_config
from yoban.model.control import JobRequest, JobStatus
from yoban.model.instance import ArchiveDocument, RestoreDocument, StoreDocument, TargetDocument
from yoban_s3.provider import S3Provider

from deploy.lab.store import LocalStore

BINARIES = Path("/usr/lib/postgresql/15/bin")


def sql(pod: PodProcess, text: str, database: str = "postgres") -> str:
    """Run SQL beside the server, over its socket."""
    argv = [str(BINARIES / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(pod.root / "run/yoban")]
    argv += ["-p", str(pod.member.port), "-U", "postgres", "-d", database, "-c", text]
    if pod.world.user:
        argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def restored(world: World, target: TargetDocument, incarnation: str = "ba9876543210") -> None:
    """Make `world` the restore of the Database in its source store."""
    world.document = msgspec.structs.replace(
        world.document,
        incarnation=incarnation,
        uid="uid-2",
        restore=RestoreDocument(path=f"{NAMESPACE}/{DATABASE}/0123456789ab", target=target),
        archive=ArchiveDocument(path=f"{NAMESPACE}/{DATABASE}/{incarnation}"),
    )


def restoring(copy: World, source: StoreDocument, **target: str) -> PodProcess:
    """Start the first Pod of a Database that is restored from what another one stored there."""
    copy.source = copy.store = source
    restored(copy, TargetDocument(**target))
    pod = copy.pod()
    pod.start()
    return pod


async def backup(pod: PodProcess, shipper: str = "") -> JobStatus:
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    job = f"/v1/jobs/{uuid.uuid4()}"
    code, body = await pod.call("PUT", job, JobRequest(kind="backup", id=name, shipper=shipper))
    assert code == 200, body

    async def ended() -> JobStatus | None:
        _, body = await pod.call("GET", f"{job}?wait=5")
        status = msgspec.json.decode(body, type=JobStatus)
        return status if status.state != "running" else None

    status = await until("the backup ended", ended, 90)
    assert isinstance(status, JobStatus)
    return status


async def stored_after(pod: PodProcess, moment: datetime, seconds: float = 60) -> None:
    """Return when everything up to `moment` is proven to be stored."""

    async def covered() -> bool:
        end = (await pod.status()).archive.window_end
        return end is not None and end > moment

    await until("it is stored", covered, seconds)


async def up(world: World, bucket: StoreDocument) -> PodProcess:
    """The first Pod of a Database that archives, ready."""
    world.archive_to(bucket)
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready, 120)
    return pod


async def make_bucket(store: LocalStore) -> StoreDocument:
    """A bucket of its own in a store."""
    document = StoreDocument(
        provider="s3",
        bucket=f"agent-{uuid.uuid4().hex[:10]}",
        endpoint=store.endpoint,
        region=store.region,
        credentials={"accessKeyId": store.access_key, "secretAccessKey": store.secret_key},
    )
    async with S3Provider().open(store_config(document)) as opened:
        assert opened.bucket is not None
        await opened.bucket.create()
    return document


async def keys(bucket: StoreDocument, prefix: str = "") -> list[str]:
    """What is stored."""
    async with S3Provider().open(store_config(bucket)) as store:
        return [item.key async for item in store.list(prefix)]
