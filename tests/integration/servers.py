"""What tests with real database servers need: an unprivileged user, folders of its own, ports, certificates.

The servers refuse to run as root: then programs run as the user `postgres`, or as `nobody` where there is none, by setpriv.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from yoban.errors import DeadlineExceeded, NotFound
from yoban.plugins import Finished, Processes, TlsFiles

MIB = 1024 * 1024
ROOM = 4096 * MIB


def scratch(*, on_disk: bool = False) -> Path:
    """A folder for servers and programs: in memory where there is room, else on disk; with a short name, for sockets."""
    memory = Path("/dev/shm")
    usable = memory.is_mount() and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    roomy = usable and shutil.disk_usage(memory).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="yo-", dir="/tmp" if on_disk or not roomy else memory))
    folder.chmod(0o755)
    return folder


def server_user() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def give(path: Path) -> None:
    """Give a tree to the server's user."""
    if os.geteuid() != 0:
        return
    user = server_user()
    for folder, names, files in os.walk(path):
        for name in [".", *names, *files]:
            os.chown(os.path.join(folder, name), user.pw_uid, user.pw_gid, follow_symlinks=False)


def as_server(argv: Sequence[str]) -> list[str]:
    if os.geteuid() != 0:
        return list(argv)
    user = server_user()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *argv]


class ServerUserProcesses(Processes):
    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Finished:
        if not Path(argv[0]).exists():
            raise NotFound("there is no such program", object=argv[0])
        process = await asyncio.create_subprocess_exec(
            *as_server(argv),
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **(env or {})},
            cwd=cwd or "/tmp",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(deadline):
                out, err = await process.communicate(stdin or b"")
        except TimeoutError as error:
            raise DeadlineExceeded("too slow", object=argv[0]) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Finished(process.returncode or 0, out, err)


def make_certificates(folder: Path) -> TlsFiles:
    """A CA, one certificate for all servers on localhost, one for the replication user."""
    folder.mkdir(parents=True)

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test ca",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, subject in (("tls", "orders"), ("client", "yoban-replication")):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
        (folder / "ext").write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-out", f"{name}.crt", "-extfile", "ext")  # fmt: skip
        (folder / f"{name}.key").chmod(0o600)
    give(folder)
    return TlsFiles(
        ca=folder / "ca.crt",
        certificate=folder / "tls.crt",
        key=folder / "tls.key",
        client_certificate=folder / "client.crt",
        client_key=folder / "client.key",
    )
