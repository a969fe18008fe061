"""`python -m yoban.agent.supervisor`: run one instance until it is told to stop."""

from __future__ import annotations

import os
import sys

from yoban.agent.supervisor.loop import Supervisor, agent_command


def _adopt_orphans() -> None:
    # PID 1 gets all orphans anyway. Outside of a container we must ask for them; ctypes is loaded only then.
    if os.getpid() == 1:
        return
    import ctypes

    set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def main() -> int:
    """Run to the end and return the exit status."""
    _adopt_orphans()
    root = os.environ.get("YOBAN_ROOT", "")
    run = os.environ.get("YOBAN_RUN_DIR") or f"{root}/run/yoban"
    return Supervisor(
        socket_path=f"{run}/supervisor.sock",
        agent=agent_command(),
        grace=float(os.environ.get("YOBAN_GRACE_SECONDS") or 60),
        frozen_after=float(os.environ.get("YOBAN_AGENT_FROZEN_SECONDS") or 6),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
