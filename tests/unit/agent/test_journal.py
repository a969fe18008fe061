"""The supervisor's log lines, and a standard error that nobody reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FULL = """
import fcntl, os, socket, sys
from yoban.agent.supervisor.journal import journal
if sys.argv[1] == "pipe":
    read_end, write_end = os.pipe()
else:
    pair = socket.socketpair()
    read_end, write_end = (one.fileno() for one in pair)
os.set_blocking(write_end, False)
try:
    while True:
        os.write(write_end, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(write_end, True)
os.dup2(write_end, 2)
journal("warning", "nobody reads")
assert os.get_blocking(2), "a server below us would lose its own lines"
print("went on", flush=True)
os._exit(0)
"""


def run(code: str, *arguments: str, stderr: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=20
    )


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_bug_a_full_standard_error_stopped_the_supervisor(kind: str) -> None:
    done = run(FULL, kind)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_a_line_is_one_json_object() -> None:
    done = run("from yoban.agent.supervisor.journal import journal; journal('info', 'started', pid=7)")
    line = json.loads(done.stderr)
    assert (line["level"], line["message"], line["pid"]) == ("info", "started", 7)


def test_lines_in_a_file_follow_what_others_wrote(tmp_path: Path) -> None:
    code = """
import os
from yoban.agent.supervisor.journal import journal
os.write(2, b"before\\n")
journal("info", "ours")
os.write(2, b"after\\n")
"""
    file = tmp_path / "log"
    with file.open("wb") as out:
        run(code, stderr=out.fileno())
    before, ours, after = file.read_text().splitlines()
    assert (before, json.loads(ours)["message"], after) == ("before", "ours", "after")


@pytest.mark.parametrize("close", ["os.close(2)", "r, w = os.pipe(); os.dup2(w, 2); os.close(r)"])
def test_a_standard_error_that_is_gone_is_no_failure(close: str) -> None:
    code = f"""
import os, signal
from yoban.agent.supervisor.journal import journal
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
{close}
journal("info", "nobody is there")
print("went on")
"""
    assert run(code).stdout == "went on\n"
