"""Start a program as a child of ours, in a session of its own.

Guarantees: when `spawn` returns the program runs (exec succeeded), with default signal handling and no descriptor of ours
but standard input (nothing), output and error. Does not wait for it. The process has one thread, so fork is safe here.
"""

from __future__ import annotations

import os
import signal


class SpawnError(Exception):
    """The program could not be started; the message says why."""


def spawn(argv: list[str], env: dict[str, str], cwd: str | None = None) -> int:
    """Start `argv` and return its process id, which is also that of its session and process group.

    Raises:
        SpawnError: no such program, no permission, no such working directory.
    """
    if not argv:
        raise SpawnError("no program given")
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(argv, env, cwd, write_end)
    os.close(write_end)
    try:
        failure = os.read(read_end, 4096)
    finally:
        os.close(read_end)
    if failure:
        os.waitpid(pid, 0)
        raise SpawnError(failure.decode(errors="replace"))
    return pid


def _become(argv: list[str], env: dict[str, str], cwd: str | None, report: int) -> None:
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        if cwd:
            os.chdir(cwd)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - a list, no shell
    except BaseException as error:
        os.write(report, f"{argv[0]}: {error}".encode())
    finally:
        os._exit(127)
