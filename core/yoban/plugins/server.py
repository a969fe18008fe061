"""Facet of the agent: initialize, configure, start, stop and observe one server."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path

from yoban.plugins.context import InstanceContext, Peer, Role
from yoban.plugins.positions import Position


class StopMode(Enum):
    """How a server is stopped."""

    CLEAN = "clean"
    """Ends sessions, flushes everything, sends replicas the rest. Used for switchover, restart, scale down."""
    IMMEDIATE = "immediate"
    """Ends at once, as in a power cut; must need no co-operation of clients, disks or peers. Used for fencing."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How the supervisor starts the server, which runs in the foreground as its child.

    Attributes:
        argv: program and arguments; no secrets.
        env: the whole environment; no secrets.
        cwd: working directory.
        stop_signals: signal for each mode. IMMEDIATE is followed by KILL after 5 s.
        unattended: how the supervisor ends the server where no agent can call `Server.close` first: the Pod ends while the
            agent is dead, frozen, or without a document. IMMEDIATE where a clean stop would acknowledge what the declared
            durability does not allow (commits that wait for replicas).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    stop_signals: Mapping[StopMode, int] = field(
        default_factory=lambda: {StopMode.CLEAN: signal.SIGTERM, StopMode.IMMEDIATE: signal.SIGQUIT}
    )
    unattended: StopMode = StopMode.CLEAN


@dataclass(frozen=True, slots=True)
class ReplicaLink:
    """A replica as its upstream sees it.

    Attributes:
        name: instance name of the replica.
        streaming: connected and following.
        synchronous: its confirmation counts for commits now.
        flushed, replayed: places it confirmed, None when unknown.
        lag_seconds: age of what it has replayed, None when unknown.
    """

    name: str
    streaming: bool
    synchronous: bool
    flushed: Position | None
    replayed: Position | None
    lag_seconds: float | None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One observation of a server, made by the agent beside it.

    Attributes:
        role: what the server is now; None while it cannot tell.
        accepting: it accepts sessions now.
        version: full version as the server reports it.
        system_id: the engine's own id of the data (a restored copy shares it); "" when it has none.
        line: line of the log it is on; "" when the engine has no lines.
        position: on a primary the place up to which it is flushed, on others up to which it is replayed.
        received: on a replica the place up to which it has stored the log; None elsewhere.
        received_known: False while a replica still reads log that it had stored before it was started, and cannot tell yet
            how far that goes; it may have more than `received` then, and nobody is made a lost primary's heir.
        last_commit: UTC time of the last commit it knows; None when none.
        lag_seconds: on a replica how far behind it is; 0.0 when it has everything; None when unknown.
        upstream: on a replica whether it is connected to its upstream.
        replicas: on a primary its replicas.
        pending_restart: settings that wait for a restart.
        problem: a sentence when something is wrong that the user should know; "" otherwise.
    """

    role: Role | None
    accepting: bool
    version: str = ""
    system_id: str = ""
    line: str = ""
    position: Position | None = None
    received: Position | None = None
    received_known: bool = True
    last_commit: datetime | None = None
    lag_seconds: float | None = None
    upstream: bool = False
    replicas: tuple[ReplicaLink, ...] = ()
    pending_restart: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """A setting that the server would reject: its name, and what is wrong in the server's own words."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Configured:
    """Result of `Server.configure`: settings that took effect, that wait for a restart, and that were rejected.

    When `rejected` is not empty nothing was changed: the last good configuration is in force.
    """

    changed: tuple[str, ...] = ()
    pending_restart: tuple[str, ...] = ()
    rejected: tuple[SettingProblem, ...] = ()


class LogVerb(Enum):
    """What a server asks of the agent by way of `InstanceContext.ask`."""

    ARCHIVE = "archive"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class LogRequest:
    """One archive or restore command of the server: segment name, and the file to read or to write."""

    verb: LogVerb
    segment: str
    path: Path


class Server(ABC):
    """The server of one instance. Each method may be called again after a failure and must then finish the work."""

    @abstractmethod
    async def initialized(self, ctx: InstanceContext) -> bool:
        """Tell whether `ctx.data` holds a complete data directory of this engine (not one half made)."""

    @abstractmethod
    async def data_version(self, ctx: InstanceContext) -> str:
        """Return the major version that wrote `ctx.data`, "" when it is empty, in the form of `EngineVersion.name`."""

    @abstractmethod
    async def binary_version(self, ctx: InstanceContext) -> str:
        """Return the version of the server program in the image, in the form of `EngineVersion.name`.

        Raises:
            NotFound: the image has no server of this engine.
        """

    @abstractmethod
    async def initialize(self, ctx: InstanceContext) -> None:
        """Make an empty data directory. Called only by an instance that may create the Database's data.

        Raises:
            InvalidInput: `engine_config` asks for what the server program refuses; its words are in the message.
        """

    @abstractmethod
    async def configure(self, ctx: InstanceContext, role: Role, upstream: Peer | None, *, running: bool) -> Configured:
        """Write the configuration for `role` and, when `running`, make the server take what it can without a restart.

        Settings are checked against the server's own catalogue first; with a rejected one nothing is changed. Calling
        it with nothing to change changes nothing and is cheap (it is called every few seconds).

        Args:
            ctx: the instance.
            role: role to configure for.
            upstream: for REPLICA the instance to follow, None when no primary is known.
            running: whether the server runs now.
        """

    @abstractmethod
    def command(self, ctx: InstanceContext) -> ServerCommand:
        """Return how to start the server, as configured before. Pure."""

    @abstractmethod
    async def status(self, ctx: InstanceContext) -> ServerStatus:
        """Observe the running server. Must end within 5 s; core enforces it.

        Raises:
            Unavailable: the server does not answer (starting, stopping, down).
        """

    @abstractmethod
    async def probe_write(self, ctx: InstanceContext) -> None:
        """Make one real commit on a primary, that leaves nothing growing behind.

        Raises:
            Unavailable: it did not succeed; a stalled disk is a dead primary.
        """

    @abstractmethod
    async def ensure_accounts(self, ctx: InstanceContext) -> Sequence[str]:
        """On a primary: make the accounts and databases of `ctx.accounts` exist with their current passwords.

        Returns what was changed, in words without secrets; empty when nothing was.
        """

    @abstractmethod
    async def close(self, ctx: InstanceContext) -> None:
        """Close connections that the facet keeps to this server; it is about to be stopped, or has been.

        Called before each clean stop by an agent. Where a stop would acknowledge commits that still wait for replicas, they
        are ended here, without an answer. Where no agent can call it, `ServerCommand.unattended` holds.
        """

    def interpret(self, ctx: InstanceContext, verb: str, arguments: Sequence[str]) -> LogRequest:
        """Return what the server's archive or restore command means. Pure.

        Raises:
            Unsupported: this engine asks nothing of the agent (the default).
            InvalidInput: not a request of this engine; nothing outside `ctx.data`, `ctx.log` is ever named.
        """
        from yoban.errors import Unsupported

        raise Unsupported("the engine has no archive or restore commands", object=f"request {verb}")
