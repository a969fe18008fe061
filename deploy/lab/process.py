"""Running programs: to the end (`run`), detached from us (`spawn`), or tied to our life (`Leash`).

Guarantees that a detached process is known by pid **and** start time, so that a recycled pid is never signalled, and
that a leashed one ends when this process ends, however it ends. Does not capture what a program printed before it was
asked to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.failure import LabError

# The program runs beside a reader of our pipe: when the pipe ends (we closed it, or died), the program is ended.
_LEASH = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
echo $child >"$LEASH_PID_FILE.new" && mv "$LEASH_PID_FILE.new" "$LEASH_PID_FILE"
{ cat <&3 >/dev/null; kill -TERM $child; sleep 8; kill -KILL $child; } >/dev/null 2>&1 &
reader=$!
exec 3<&-
wait $child
code=$?
kill $reader 2>/dev/null
exit $code
"""


def run(
    arguments: Sequence[str | Path],
    *,
    deadline: float = 120.0,
    check: bool = True,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a program to its end and return its standard output.

    `deadline` is in seconds. Raises `LabError` with the end of what it printed when it fails (unless `check` is
    false), is missing, or takes longer.
    """
    words = [str(a) for a in arguments]
    env = {**os.environ, **environment} if environment else None
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline,
            env=env,
            cwd=folder,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(words[:6])} did not end within {deadline:g} s") from error
    if check and done.returncode != 0:
        tail = (done.stderr or done.stdout).strip()[-2000:]
        raise LabError(f"{' '.join(words[:8])} failed with code {done.returncode}: {tail}")
    return done.stdout


@dataclass(frozen=True)
class Handle:
    """A process that is not our child: its pid and its start time in clock ticks since boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        return start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Signal it if it is still the same process; nothing happens when it is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def start_time(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot, `None` when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def handle(pid: int) -> Handle | None:
    """The handle of a live process."""
    started = start_time(pid)
    return None if started is None else Handle(pid, started)


def spawn(
    arguments: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    before: str = "",
) -> Handle:
    """Start a program that outlives us, in a session of its own, output appended to `log` (mode 0600).

    `before` is shell that runs in the process first (joining a control group). Raises `LabError` when the program
    is not there or ends at once.
    """
    words = [str(a) for a in arguments]
    if before:
        words = ["sh", "-c", f'{before}\nexec "$@"', "sh", *words]
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        done = subprocess.run(
            # The shell ends at once and leaves the program to init. Standard output carries the pid only.
            ["sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            start_new_session=True,
            text=True,
            timeout=30,
            env={**os.environ, **environment} if environment else None,
            check=True,
        )
    finally:
        os.close(descriptor)
    found = handle(int(done.stdout))
    if found is None:
        raise LabError(f"{words[0]} ended at once; its output is in {log}:\n{tail(log)}")
    return found


def stop(handles: Iterable[Handle], *, grace: float = 5.0) -> None:
    """End processes: SIGTERM, up to `grace` seconds together, SIGKILL. May be called twice; gone ones are fine."""
    left = [h for h in handles if h.alive()]
    for one in left:
        one.signal(signal.SIGTERM)
        one.signal(signal.SIGCONT)
    wait_until(lambda: not any(h.alive() for h in left), grace)
    for one in left:
        one.signal(signal.SIGKILL)
    if not wait_until(lambda: not any(h.alive() for h in left), 10.0):
        raise LabError(f"processes survive SIGKILL: {[h.pid for h in left if h.alive()]}")


def wait_until(condition: Callable[[], bool], deadline: float, pause: float = 0.05) -> bool:
    """Ask `condition` until it holds (then true) or `deadline` seconds are over (then false)."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
    return True


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, for messages."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


class Leash:
    """A child process that never outlives this process: when we end, however we end, it is ended too.

    Not thread-safe. `stop` and `kill` may be called twice.
    """

    def __init__(self, arguments: Sequence[str | Path], log: Path, *, environment: Mapping[str, str] | None = None):
        self.log = log
        pid_file = log.with_suffix(".pid")
        pid_file.unlink(missing_ok=True)
        with log.open("ab") as output:
            self._shell = subprocess.Popen(
                ["sh", "-c", _LEASH, "sh", *(str(a) for a in arguments)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(environment or {}), "LEASH_PID_FILE": str(pid_file)},
            )
        if not wait_until(pid_file.exists, 10.0, 0.005):
            self.stop()
            raise LabError(f"{arguments[0]} could not be started: {tail(log)}")
        self.pid = int(pid_file.read_text())
        """The program's own pid (not the shell's)."""

    def alive(self) -> bool:
        """Whether the program still runs."""
        return self._shell.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Signal the program itself (SIGSTOP freezes it, SIGCONT thaws it)."""
        if self.alive():
            os.kill(self.pid, number)

    def stop(self, grace: float = 6.0) -> None:
        """End it with SIGTERM, after `grace` seconds with SIGKILL, and reap it."""
        if self._shell.stdin is not None and not self._shell.stdin.closed:
            self._shell.stdin.close()
        try:
            self._shell.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL and reap it."""
        self.signal(signal.SIGKILL)
        if self._shell.stdin is not None and not self._shell.stdin.closed:
            self._shell.stdin.close()
        self._shell.wait(10.0)
