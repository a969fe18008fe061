"""Log lines of the supervisor: one JSON object a line on standard error, no logging module (it costs memory).

Guarantees: never waits. Where nobody reads standard error, lines are lost; deadlines are not.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import time


def journal(level: str, message: str, **facts: object) -> None:
    """Write one line; a closed or full standard error is no reason to fail, nor to wait."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": level,
        "logger": "yoban.agent.supervisor",
        "message": message,
        **facts,
    }
    with contextlib.suppress(OSError):
        _write((json.dumps(line) + "\n").encode())


def _write(line: bytes) -> None:
    """Write what goes now. Raises OSError."""
    own: int | None = None
    # A file is never full for long, and opened anew it would be written at another place than our children do.
    if not stat.S_ISREG(os.fstat(2).st_mode):
        # Our children share the description behind 2 and count on its waiting; one that does not wait must be our own.
        with contextlib.suppress(OSError):
            own = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if own is not None:
        try:
            os.write(own, line)
        finally:
            os.close(own)
        return
    # A socket, or somebody else's terminal.
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if poll.poll(0):
        os.write(2, line[: select.PIPE_BUF])
