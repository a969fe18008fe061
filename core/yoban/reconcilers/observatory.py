"""Keeps an eye on all agents, so that no reconcile ever waits for one.

Guarantees: tasks of its own for each Database long-poll its agents and know what each said last; listeners hear of each
change; a slow or dead agent delays nobody. A status is left out once its agent has been silent for a while. Documents are
brought again and again until each agent has them. Does not judge what agents say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from yoban.errors import Terminal, YobanError
from yoban.kube.backoff import Backoff, BackoffPolicy
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.objects import ObjectKey
from yoban.model.control import AgentStatus, Push
from yoban.model.instance import Member
from yoban.reconcilers.agents import Agents
from yoban.reconcilers.database.ports import Credentials
from yoban.reconcilers.observers import Listener, Listeners, Tasks

log = logging.getLogger(__name__)

WAIT_SECONDS = 30.0
STALE_SECONDS = 15.0
"""An agent that could not be reached for so long is not heard from any more."""
_PACE = BackoffPolicy(initial=0.5, cap=5.0)


@dataclass(slots=True)
class _Seen:
    """What is known of one agent."""

    status: AgentStatus | None = None
    silent_since: float | None = None
    told_silent: bool = False
    error: str = ""


@dataclass(slots=True)
class _Watched:
    """What is observed of one Database."""

    members: dict[str, Member]
    credentials: Credentials
    seen: dict[str, _Seen] = field(default_factory=dict)
    push: Push | None = None
    brought: dict[str, Push] = field(default_factory=dict)


class Observatory:
    """The agents of all Databases. Made inside the running loop; give it to the manager, which runs it.

    Args:
        agents: calls to agents.
        clock: for pauses and silence.
        wait: seconds of a long poll.
    """

    name = "observatory"

    def __init__(self, agents: Agents, *, clock: Clock | None = None, wait: float = WAIT_SECONDS) -> None:
        self.agents = agents
        self._clock = clock or SystemClock()
        self._wait = wait
        self._watched: dict[ObjectKey, _Watched] = {}
        self._polls: Tasks[tuple[ObjectKey, str]] = Tasks("poll")
        self._pushes: Tasks[tuple[ObjectKey, str]] = Tasks("push")
        self._listeners = Listeners()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with a Database's key whenever one of its agents says something new, or falls silent."""
        self._listeners.add(listener)

    async def run(self) -> None:
        """Own the tasks until cancelled; then all of them are ended."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._pushes.close()
            await self._polls.close()
            await self.agents.close()

    # -- what to observe -------------------------------------------------------------------------------------------

    def observe(self, key: ObjectKey, members: Sequence[Member], credentials: Credentials) -> None:
        """Observe these instances of the Database, and no others. The same again is cheap."""
        wanted = {member.name: member for member in members}
        watched = self._watched.get(key)
        if watched is not None and watched.members == wanted and watched.credentials == credentials:
            return
        if watched is None:
            watched = self._watched[key] = _Watched({}, credentials)
        for name, member in list(watched.members.items()):
            if wanted.get(name) != member or watched.credentials != credentials:
                self._polls.cancel((key, name))
                self._pushes.cancel((key, name))
            if name not in wanted:
                watched.seen.pop(name, None)
                watched.brought.pop(name, None)
        watched.members, watched.credentials = wanted, credentials
        for name in wanted:
            self._polls.start((key, name), lambda name=name: self._poll(key, watched, name))  # type: ignore[misc]
        self._bring(key, watched)

    def forget(self, key: ObjectKey) -> None:
        """Stop observing; a Database not known is fine."""
        watched = self._watched.pop(key, None)
        for name in watched.members if watched is not None else ():
            self._polls.cancel((key, name))
            self._pushes.cancel((key, name))

    # -- what is known ---------------------------------------------------------------------------------------------

    def statuses(self, key: ObjectKey) -> Mapping[str, AgentStatus]:
        """Return what each instance told last, by name; those not heard from lately are left out."""
        watched = self._watched.get(key)
        if watched is None:
            return {}
        return {
            name: seen.status
            for name, seen in watched.seen.items()
            if seen.status is not None and not self._is_silent(seen)
        }

    def members(self, key: ObjectKey) -> Mapping[str, Member]:
        """Return the instances observed, by name."""
        watched = self._watched.get(key)
        return dict(watched.members) if watched is not None else {}

    def credentials(self, key: ObjectKey) -> Credentials | None:
        """Return the credentials for a Database's agents, None when it is not observed."""
        watched = self._watched.get(key)
        return watched.credentials if watched is not None else None

    def errors(self, key: ObjectKey) -> Mapping[str, str]:
        """Return why instances cannot be reached now, by name; those that can are left out."""
        watched = self._watched.get(key)
        return {name: seen.error for name, seen in watched.seen.items() if seen.error} if watched is not None else {}

    # -- what agents are to know -----------------------------------------------------------------------------------

    def push(self, key: ObjectKey, push: Push) -> None:
        """Bring this to every observed instance until each has it, or a later one replaces it. The same again is cheap."""
        watched = self._watched.get(key)
        if watched is not None and watched.push != push:
            watched.push = push
            self._bring(key, watched)

    def _bring(self, key: ObjectKey, watched: _Watched) -> None:
        if watched.push is None:
            return
        for name in watched.members:
            if self._lacks(watched, name):
                self._pushes.start((key, name), lambda name=name: self._deliver(watched, name))  # type: ignore[misc]

    @staticmethod
    def _lacks(watched: _Watched, name: str) -> bool:
        push = watched.push
        if push is None:
            return False
        if watched.brought.get(name) != push:
            return True
        seen = watched.seen.get(name)
        if seen is None or seen.status is None:
            return False
        # An agent that was restarted reads its mounted document, which may be an older one.
        return (seen.status.generation, seen.status.revision) < (push.document.generation, push.document.revision)

    async def _deliver(self, watched: _Watched, name: str) -> None:
        pace = Backoff(_PACE)
        while (push := watched.push) is not None and name in watched.members and self._lacks(watched, name):
            try:
                await self.agents.push(watched.members[name], watched.credentials, push)
            except Terminal as error:
                log.error("document for %s: %s", name, error)
                watched.brought[name] = push
                return
            except YobanError as error:
                delay = pace.next(self._clock.monotonic())
                log.debug("document for %s waits %.1f s: %s", name, delay, error)
                await self._clock.sleep(delay)
            else:
                watched.brought[name] = push
                return

    # -- observing -------------------------------------------------------------------------------------------------

    def _is_silent(self, seen: _Seen) -> bool:
        return seen.silent_since is not None and self._clock.monotonic() - seen.silent_since >= STALE_SECONDS

    async def _poll(self, key: ObjectKey, watched: _Watched, name: str) -> None:
        seen = watched.seen.setdefault(name, _Seen())
        pace = Backoff(_PACE)
        after = 0
        while True:
            try:
                status = await self.agents.status(
                    watched.members[name], watched.credentials, after=after, wait=self._wait if after else 0.0
                )
            except YobanError as error:
                now = self._clock.monotonic()
                after = 0  # it may be another agent that answers next
                seen.error = str(error)
                seen.silent_since = now if seen.silent_since is None else seen.silent_since
                if self._is_silent(seen) and not seen.told_silent:
                    seen.told_silent = True
                    self._listeners.tell(key)
                await self._clock.sleep(pace.next(now))
                continue
            news = seen.told_silent or seen.status is None or _words(seen.status) != _words(status)
            seen.status, seen.silent_since, seen.told_silent, seen.error = status, None, False, ""
            if status.serial <= after or not status.serial:
                # Nothing new in all that time, or an agent that does not count: never a busy loop.
                await self._clock.sleep(0.2 if status.serial else 5.0)
            after = status.serial
            if news:
                self._listeners.tell(key)
            self._bring(key, watched)


def _words(status: AgentStatus) -> AgentStatus:
    return msgspec.structs.replace(status, serial=0)
