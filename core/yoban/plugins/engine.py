"""An engine: a kind of database server, as a set of facets.

The operator uses the pure part, the agent beside each server all of it. What an engine lacks it leaves None, and core
says no by capability, never by a test of name or version. The toy engine under `tests/` is the smallest that works.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath

from yoban.plugins.backup import BaseBackup
from yoban.plugins.log import LogSource
from yoban.plugins.positions import Positions
from yoban.plugins.recovery import Recovery
from yoban.plugins.replication import Replication
from yoban.plugins.server import Server
from yoban.plugins.targets import Targets


class Capability(Enum):
    """What an engine can do; shown by `yoban plugins` and in a Database's status."""

    REPLICAS = "replicas"
    SWITCHOVER = "switchover"
    SYNCHRONOUS = "synchronous"
    BACKUP = "backup"
    RESTORE = "restore"
    POINT_IN_TIME = "point-in-time"
    SKIP = "skip"
    LOG_VOLUME = "log-volume"


class SettingClass(Enum):
    """What changing a setting takes."""

    RELOAD = "reload"
    RESTART = "restart"
    FIXED = "fixed"
    """Set by us; a user's value is rejected."""
    REFUSED = "refused"
    """Would break a promise of ours (durability, archive, security); rejected with the reason."""


@dataclass(frozen=True, slots=True)
class SettingRule:
    """Class of a setting and why; `replicas_first`: a raise goes to replicas first, a cut to the primary first."""

    kind: SettingClass
    why: str = ""
    replicas_first: bool = False


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """A supported version: its name as in `spec.version`, and the default image."""

    name: str
    image: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in the engine's container.

    Attributes:
        uid, gid: whom the server runs as; data belongs to them.
        user, group, home: their names, for the mounted passwd and group files.
        data_mount: where the data volume is mounted; data lives in a folder below.
        log_mount: where a log volume is mounted; None when the engine has no such thing.
        port: the server's TCP port.
        port_name: name of that port in Services.
        writable: further folders that the image's programs insist on writing (each becomes an emptyDir).
    """

    uid: int
    gid: int
    user: str
    group: str
    home: PurePosixPath
    data_mount: PurePosixPath
    log_mount: PurePosixPath | None
    port: int
    port_name: str
    writable: tuple[PurePosixPath, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """An account whose password the operator makes and keeps in a Secret.

    Attributes:
        purpose: key in `InstanceContext.accounts`. `owner` is the user that applications get.
        user: user name.
        database: database (schema) made for it, "" for none.
    """

    purpose: str
    user: str
    database: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a connection needs: host, port, user, password, database."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = ""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What default settings may depend on: version, memory limit in bytes (0: none), cores (0: none), instances."""

    version: str
    memory: int
    cpus: float
    instances: int


class Engine(ABC):
    """A kind of database server. One object a process; everything in this class is pure."""

    name: str
    """Value of `spec.engine` (lower case letters, digits, `-`)."""
    title: str
    """For people."""

    positions: Positions
    server: Server
    targets: Targets | None = None
    replication: Replication | None = None
    base_backup: BaseBackup | None = None
    log_source: LogSource | None = None
    recovery: Recovery | None = None

    replication_user: str = "yoban-replication"
    """Common name of the client certificate by which instances know each other."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this engine can do, derived from its facets. Override to add what facets do not show."""
        found: set[Capability] = set()
        if self.replication is not None:
            found |= {Capability.REPLICAS, Capability.SWITCHOVER}
        if self.base_backup is not None:
            found.add(Capability.BACKUP)
        if self.recovery is not None:
            found.add(Capability.RESTORE)
        if self.log_source is not None and self.recovery is not None:
            found.add(Capability.POINT_IN_TIME)
        return frozenset(found)

    @abstractmethod
    def versions(self) -> Sequence[EngineVersion]:
        """Supported versions, newest first."""

    @abstractmethod
    def layout(self, version: str) -> Layout:
        """Where things are in the container of `version`."""

    @abstractmethod
    def config_schema(self) -> Mapping[str, object]:
        """JSON Schema (draft 2020-12) of `engineConfig`: an object, no additional properties, with descriptions."""

    @abstractmethod
    def setting_rule(self, name: str, version: str) -> SettingRule:
        """Class of a setting. An unknown name is RELOAD: the server's own catalogue decides when it is applied."""

    @abstractmethod
    def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
        """Settings that a Database starts from; a user's `settings` go over them."""

    @abstractmethod
    def accounts(self, database: str) -> Sequence[AccountSpec]:
        """Accounts for a Database of that name; exactly one has the purpose `owner`."""

    @abstractmethod
    def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
        """Entries of the connection Secret that only the engine knows to write, such as `uri` and `jdbc-uri`.

        User and password are percent-encoded where they stand in a URI.
        """
