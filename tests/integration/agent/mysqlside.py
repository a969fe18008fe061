"""MySQL in tests of the agent: SQL beside the server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

from harness import PodProcess, World, until

SETTINGS = {
    "innodb_buffer_pool_size": str(32 << 20),
    "innodb_redo_log_capacity": str(32 << 20),
    "performance_schema_max_table_instances": "500",
    "table_open_cache": "200",
}
VERSION = "9.7"


def small(make_world: Callable[..., World], instances: int = 1) -> World:
    """A Database of small servers."""
    world = make_world("mysql", VERSION, instances=instances)
    world.change(settings=SETTINGS)
    return world


def start(pod: PodProcess) -> None:
    """Start an instance with the image's programs in its PATH."""
    program = shutil.which("mysqld")
    assert program is not None
    pod.start(PATH=f"{program.rpartition('/')[0]}:/usr/bin:/bin")


def sql(pod: PodProcess, text: str) -> str:
    """Run SQL beside the server, over its socket, as the agent's account."""
    running = client(pod, text)
    output, words = running.communicate(timeout=60)
    assert running.returncode == 0, words
    return output.strip()


def client(pod: PodProcess, text: str) -> subprocess.Popen[str]:
    """Begin to run SQL as `sql` does; it ends with 0 when the server has said yes."""
    program = shutil.which("mysql")
    assert program is not None
    argv = [program, "--no-defaults", f"--socket={pod.root / 'run/yoban/mysqld.sock'}", "--user=yoban", "-NBe", text]
    if pod.world.user:
        argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *argv]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")


async def covered(pod: PodProcess) -> None:
    """Wait until everything that was committed by now is stored."""
    moment = datetime.now(UTC)

    async def stored() -> bool:
        end = (await pod.status()).archive.window_end
        return end is not None and end > moment

    await until("it is stored", stored)
