"""Threads that give way."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, threading
from yoban.repository.threads import yielding
with yielding(1) as pool:
    print(pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result())
"""


@pytest.mark.parametrize(("nice", "threads"), [(0, 10), (15, 15)])
def test_threads_never_take_back_what_their_process_gave(nice: int, threads: int) -> None:
    """To be less nice needs a right: in an agent of niceness 15 every fetch ahead failed with `BrokenThreadPool`."""
    words = ["nice", "-n", str(nice), sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    here = int(subprocess.run(["nice"], capture_output=True, text=True, timeout=10).stdout)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == max(threads, min(19, here + nice))
