"""pgBackRest, tuned: zstd level 1, asynchronous archiving, two processes, bundled small files, 16 MiB upload chunks.

It uses the same S3 server as ours, over TLS, path-style. It is not made to wait for the log at the end of a backup and
does not check the archive there, which is in its favour: ours does.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from yoban.agent.storage import store_config
from yoban.model.instance import StoreDocument
from yoban_s3.provider import S3Provider

from deploy.lab.store import LocalStore
from tests.bench.machine import USER, as_user, own, run

STANZA = "main"


class Peer:
    """One repository of pgBackRest's, and what is done with it."""

    def __init__(self, folder: Path, store: LocalStore, bucket: StoreDocument) -> None:
        self.folder = folder
        self.config = folder / "pgbackrest.conf"
        self.spool = folder / "spool"
        self._store = store
        self._bucket = bucket

    async def prepare(self) -> str:
        """Write the configuration; return the version."""
        for name in ("spool", "lock", "log"):
            (self.folder / name).mkdir(parents=True)
        assert self._store.ca_file is not None
        authority = self.folder / "ca.crt"
        shutil.copy(self._store.ca_file, authority)
        options = {
            "repo1-type": "s3",
            "repo1-path": "/peer",
            "repo1-s3-bucket": self._bucket.bucket,
            "repo1-s3-endpoint": "localhost",
            "repo1-s3-region": self._store.region,
            "repo1-s3-key": self._store.access_key,
            "repo1-s3-key-secret": self._store.secret_key,
            "repo1-s3-uri-style": "path",
            "repo1-storage-host": "localhost",
            "repo1-storage-port": str(self._store.port),
            "repo1-storage-ca-file": str(authority),
            "repo1-storage-upload-chunk-size": "16MiB",
            "repo1-bundle": "y",
            "compress-type": "zst",
            "compress-level": "1",
            "process-max": "2",
            "archive-async": "y",
            "archive-get-queue-max": "256MiB",
            "archive-mode-check": "n",
            "start-fast": "y",
            "expire-auto": "n",
            "spool-path": str(self.spool),
            "lock-path": str(self.folder / "lock"),
            "log-path": str(self.folder / "log"),
            "log-level-console": "warn",
            "log-level-file": "off",
        }
        text = "[global]\n" + "".join(f"{name}={value}\n" for name, value in options.items())
        self.config.touch(mode=0o600)
        self.config.write_text(f"{text}\n[global:backup]\narchive-check=n\n\n[{STANZA}]\npg1-user=postgres\n")
        await own(self.folder)
        return (await run(["pgbackrest", "version"])).split()[-1]

    def command(self, verb: str, data: Path, *extra: str) -> list[str]:
        """A command line of pgBackRest's, as the server runs it."""
        return ["pgbackrest", f"--config={self.config}", f"--stanza={STANZA}", f"--pg1-path={data}", *extra, verb]

    async def create(self, data: Path, socket: Path, port: int) -> None:
        """Begin the repository of a running server."""
        await run(as_user(*self.command("stanza-create", data, *_server(socket, port))))

    async def backup(self, data: Path, socket: Path, port: int) -> None:
        """Take a full backup of a running server."""
        await run(as_user(*self.command("backup", data, "--type=full", *_server(socket, port))))

    async def restore(self, data: Path) -> None:
        """Restore the newest backup into an empty folder."""
        await run(as_user(*self.command("restore", data, "--type=standby")))

    async def info(self) -> tuple[int, int, str]:
        """Of the newest backup: plain bytes, stored bytes, first segment of the log that it needs."""
        words = ["pgbackrest", f"--config={self.config}", f"--stanza={STANZA}", "--output=json", "info"]
        newest = json.loads(await run(as_user(*words)))[0]["backup"][-1]
        sizes = newest["info"]
        return int(sizes["size"]), int(sizes["repository"]["delta"]), str(newest["archive"]["start"])

    async def forget_log(self, names: list[str]) -> None:
        """Take segments out of the repository again."""
        async with S3Provider().open(store_config(self._bucket)) as store:
            folder = f"peer/archive/{STANZA}/15-1/"
            wanted = set(names)
            found = [item.key async for item in store.list(folder)]
            doomed = [key for key in found if key.rsplit("/", 1)[1][:24] in wanted]
            if doomed:
                await store.delete(doomed)

    async def forget_spool(self) -> None:
        """Forget what the asynchronous helper noted, once it has ended."""
        await asyncio.sleep(0.5)
        shutil.rmtree(self.spool, ignore_errors=True)
        self.spool.mkdir()
        if USER:
            shutil.chown(self.spool, USER, USER)

    async def pretend_stored(self, names: list[str]) -> None:
        """Note segments as stored, as the asynchronous helper does when it was ahead of the server."""
        out = self.spool / "archive" / STANZA / "out"
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            (out / f"{name}.ok").touch()
        await own(self.spool)


def _server(socket: Path, port: int) -> tuple[str, str]:
    return f"--pg1-socket-path={socket}", f"--pg1-port={port}"
