"""What an agent hands to an engine's facets: the instance they work on.

Everything in it is plain data or a narrow service. A facet keeps no state between calls that it could not find again on
the volume: the agent may be replaced at any moment while the server runs on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Role(Enum):
    """What a server is (or is to be started as)."""

    PRIMARY = "primary"
    REPLICA = "replica"
    RECOVERY = "recovery"
    """Replaying a restored log up to a target; not reachable for users."""


class DurabilityMode(Enum):
    """When a commit is acknowledged."""

    ASYNC = "async"
    SYNCHRONOUS = "synchronous"


@dataclass(frozen=True, slots=True)
class Durability:
    """Declared durability; under SYNCHRONOUS, `replicas` other instances hold each commit before it is confirmed."""

    mode: DurabilityMode = DurabilityMode.ASYNC
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Peer:
    """Another instance of the same Database. `host` is its stable DNS name and stands in its certificate."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the server. The password is never logged, nor put into an argument or an environment."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of this instance. They are replaced in place when certificates rotate.

    `certificate`/`key` serve this instance's listeners. `client_certificate`/`client_key` authenticate it to its peers;
    their common name is `Engine.replication_user`.
    """

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """A child process that ended: exit code (negative: signal) and its output, each cut to the last 64 KiB."""

    code: int
    stdout: bytes
    stderr: bytes


class Processes(ABC):
    """Runs short-lived programs of the engine image, with a clean environment of ours."""

    @abstractmethod
    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Finished:
        """Run a program to its end and return its result, whatever its exit code.

        Args:
            argv: program and arguments; never holds a secret.
            deadline: seconds; then the program is ended (TERM, 5 s later KILL).
            env: added to the clean environment; never holds a secret.
            cwd: working directory.
            stdin: bytes for its input; the place for secrets.

        Raises:
            DeadlineExceeded: it did not end in time.
            NotFound: there is no such program in the image.
        """


@dataclass(frozen=True, slots=True)
class InstanceContext:
    """One instance, as its agent sees it now. A new one is made when its specification changes.

    Attributes:
        namespace, database: the Database.
        name: the instance's name, `<database>-<number>`.
        number: its number, from 1, never used again.
        incarnation: id of this life of the data.
        version: version of the engine asked for, as in `EngineVersion.name`.
        data: folder of the server's data, on the data volume, below its mount.
        log: folder on a volume of its own for the log; None when the log lives with the data.
        run: folder for sockets and lock files, emptied when the Pod starts.
        tmp: scratch folder, emptied when the Pod starts.
        settings: the user's settings over the engine's defaults; classified and free of refused ones.
        engine_config: `engineConfig`, valid by the engine's schema.
        durability: declared durability.
        accounts: accounts by purpose (`owner`, and what `Engine.accounts` names).
        tls: certificate files.
        peers: all other instances.
        host, port: where this instance listens for users and peers.
        memory: limit of the container in bytes, 0 when none.
        cpus: limit of the container in cores, 0 when none.
        ask: argv prefix of the tiny client that asks the resident agent: `[*ask, verb, argument…]` prints nothing, and
            exits 0 for yes, 1 for "proven absent", 255 for any failure. For archive and restore commands.
        processes: runs programs of the image.
    """

    namespace: str
    database: str
    name: str
    number: int
    incarnation: str
    version: str
    data: Path
    log: Path | None
    run: Path
    tmp: Path
    settings: Mapping[str, str]
    engine_config: Mapping[str, object]
    durability: Durability
    accounts: Mapping[str, Account]
    tls: TlsFiles
    peers: tuple[Peer, ...]
    host: str
    port: int
    memory: int
    cpus: float
    ask: tuple[str, ...]
    processes: Processes
