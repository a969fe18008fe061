"""Many processes on one event loop whose time is virtual: each may be frozen, blocked or killed while the others go on.

Guarantees: a handle (a step of a task, a timer, a callback) belongs to the process in whose context it was made; while that
process stands still its handles are kept, in their order, and run when it goes on, timers that came due meanwhile included.
The order of everything depends on nothing but the order in which it was asked for, so a seed replays a run. A real loop may
mix timers and arrivals in another order after a pause; the nemesis makes up for that by pausing at many moments.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

from yoban.testing.clock import VirtualClockLoop

_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
KERNEL = contextvars.Context()
"""Where everything runs that is no process: the network, the server, the nemesis."""


class Process:
    """What runs and stands still as one: a replica of the operator."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.thawed_at = float("-inf")
        """When it went on after it stood still, in seconds of the loop."""
        self.tasks: list[asyncio.Task[Any]] = []
        self._parked: list[asyncio.Handle] = []

    def alive(self) -> list[asyncio.Task[Any]]:
        """Its tasks that are not done."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return list(self.tasks)


def _look(task: asyncio.Task[Any]) -> None:
    """How it ended is nobody's business any more."""
    if not task.cancelled():
        task.exception()


class Processes(asyncio.SelectorEventLoop):
    """What a loop needs that runs many processes, whatever its time is."""

    def __init__(self) -> None:
        super().__init__()
        self.set_task_factory(self._make_task)

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine`, and all that it starts, as part of `process`."""
        context = contextvars.Context()
        context.run(_PROCESS.set, process)
        return self.create_task(coroutine, name=name, context=context)

    def later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call `callback` after `delay` seconds, whatever stands still."""
        return self.call_at(self.time() + delay, callback, *args, context=KERNEL)

    def kill(self, process: Process) -> None:
        """`process` is gone. Its tasks are cancelled, only so that nothing is left of them: they reach nobody any more."""
        process.dead = True
        for task in process.alive():
            task.cancel()
            task.add_done_callback(_look, context=KERNEL)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
        process = context.get(_PROCESS) if context is not None else _PROCESS.get()
        if process is not None:
            if len(process.tasks) > 64:
                process.alive()
            process.tasks.append(task)
        return task


class ProcessLoop(Processes, VirtualClockLoop):
    """See the module. Threads and sockets have no place on it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def freeze(self, process: Process) -> None:
        """From now on nothing of `process` runs."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        """`process` goes on with all that came due while it stood still."""
        if process.frozen:
            process.frozen = False
            process.thawed_at = self.time()
            self._ready.extend(process._parked)
            process._parked.clear()

    def kill(self, process: Process) -> None:
        """See `Processes.kill`; one that stands still is cancelled as well."""
        process.dead = True
        self.thaw(process)
        super().kill(process)

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready and scheduled:
            self._virtual.time = max(self._virtual.time, scheduled[0]._when)
        now = self._virtual.time
        while scheduled and scheduled[0]._when <= now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        if not ready:
            raise RuntimeError("nothing is left to run, ever")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_PROCESS)
            if process is not None and process.frozen:
                process._parked.append(handle)
                continue
            self.steps += 1
            handle._run()
