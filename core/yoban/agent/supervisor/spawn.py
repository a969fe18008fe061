"""Start a program as a child of ours, in a session of its own.

Guarantees: when `spawn` returns the program runs (exec succeeded), with default signal handling and no descriptor of ours
but standard input (nothing), output and error. Does not wait for it, nor longer than a second for its exec. The process has
one thread, so fork is safe here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

EXEC_DEADLINE = 1.0
"""Seconds: an exec on a file system that hangs must not keep the caller from its deadlines."""


class SpawnError(Exception):
    """The program could not be started; the message says why."""


def spawn(argv: list[str], env: dict[str, str], cwd: str | None = None) -> int:
    """Start `argv` and return its process id, which is also that of its session and process group.

    Raises:
        SpawnError: no such program, no permission, no such working directory, no process or descriptor left, no exec in
            time.
    """
    if not argv:
        raise SpawnError("no program given")
    try:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise SpawnError(f"{argv[0]}: {error}") from error
    try:
        pid = os.fork()
    except OSError as error:
        os.close(read_end)
        os.close(write_end)
        raise SpawnError(f"{argv[0]}: {error}") from error
    if pid == 0:
        _become(argv, env, cwd, write_end)
    os.close(write_end)
    try:
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        if not poll.poll(EXEC_DEADLINE * 1000):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise SpawnError(f"{argv[0]}: it was not started in time")
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
