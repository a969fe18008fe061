"""The single servers that other tests lean on: real, restartable, and gone when they are closed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.ports import free_port
from deploy.lab.process import Leash, handle, spawn, stop, wait_until
from deploy.lab.store import LocalStore, accepts


def test_bug_two_servers_were_given_the_same_port() -> None:
    """A port that was only looked up was given to somebody else before its server had started."""
    ours = {free_port() for _ in range(200)}
    assert len(ours) == 200
    # Another process is given one of 200 ports about once in 70 times, unless they are reserved.
    look = (
        "import socket\n"
        "for n in range(5000):\n"
        "    for reuse in (0, 1):\n"
        "        with socket.socket() as one:\n"
        "            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)\n"
        "            one.bind((('127.0.0.1', '')[n % 2], 0))\n"
        "            print(one.getsockname()[1])\n"
    )
    others = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stdout.split()
    assert not ours & {int(port) for port in others}
    for address in ("127.0.0.1", ""):
        with socket.create_server((address, ours.pop())) as server, socket.create_connection(server.getsockname()):
            pass


@pytest.mark.server
def test_api_server_keeps_objects_over_a_kill(local_apiserver: LocalApiServer) -> None:
    local_apiserver.kubectl("create", "namespace", "lab-kept")
    local_apiserver.kill()
    assert not accepts("127.0.0.1", local_apiserver.port)
    local_apiserver.start()
    assert "lab-kept" in local_apiserver.kubectl("get", "namespaces", "--output", "name")


@pytest.mark.server
def test_api_server_reports_the_version_that_go_mod_names(local_apiserver: LocalApiServer) -> None:
    assert '"gitVersion": "v1.35.' in local_apiserver.kubectl("get", "--raw", "/version")


@pytest.mark.server
def test_issued_user_has_no_rights_of_its_own(local_apiserver: LocalApiServer) -> None:
    user = local_apiserver.user("nobody-special")
    answer = local_apiserver.kubectl("auth", "can-i", "get", "secrets", "--as", "nobody-special", check=False)
    assert answer.strip() == "no"
    assert user.key.stat().st_mode & 0o077 == 0


@pytest.mark.server
def test_store_refuses_connections_while_stopped(local_store: LocalStore) -> None:
    assert accepts("127.0.0.1", local_store.port)
    local_store.stop()
    assert not accepts("127.0.0.1", local_store.port)
    local_store.start()
    assert accepts("127.0.0.1", local_store.port)


@pytest.mark.server
def test_credentials_are_private_and_in_no_command_line(local_store: LocalStore) -> None:
    assert local_store.credentials_file.stat().st_mode & 0o077 == 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                assert local_store.secret_key.encode() not in (folder / "cmdline").read_bytes()
            except OSError:
                continue


@pytest.mark.server
def test_closed_servers_leave_nothing(local_store: LocalStore) -> None:
    store = LocalStore()
    store.start()
    port, folder = store.port, store.folder
    store.close()
    store.close()
    assert not folder.exists()
    assert not accepts("127.0.0.1", port)


def test_a_leashed_process_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from deploy.lab.process import Leash\n"
            "leash = Leash(['sleep', '600'], pathlib.Path(sys.argv[1])); print(leash.pid, flush=True); time.sleep(600)",
            str(tmp_path / "sleep.log"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    with owner:
        assert owner.stdout is not None
        sleeper = handle(int(owner.stdout.readline()))
        assert sleeper is not None
        assert sleeper.alive()
        owner.kill()
    assert wait_until(lambda: not sleeper.alive(), 60)


def test_a_leash_reports_that_its_process_died(tmp_path: Path) -> None:
    leash = Leash(["sleep", "600"], tmp_path / "sleep.log")
    assert leash.alive()
    os.kill(leash.pid, signal.SIGKILL)
    assert wait_until(lambda: not leash.alive(), 60)
    leash.stop()


def test_spawned_process_is_known_by_start_time(tmp_path: Path) -> None:
    spawned = spawn(["sleep", "600"], tmp_path / "sleep.log")
    assert spawned.alive()
    assert not type(spawned)(spawned.pid, spawned.started - 1).alive()
    begin = time.monotonic()
    stop([spawned])
    assert not spawned.alive()
    assert time.monotonic() - begin < 5
