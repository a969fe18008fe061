"""Log lines of the supervisor: one JSON object a line on standard error, no logging module (it costs memory)."""

from __future__ import annotations

import contextlib
import json
import os
import time


def journal(level: str, message: str, **facts: object) -> None:
    """Write one line; a closed or full standard error is no reason to fail."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": level,
        "logger": "yoban.agent.supervisor",
        "message": message,
        **facts,
    }
    with contextlib.suppress(OSError):
        os.write(2, (json.dumps(line) + "\n").encode())
