"""The public, versioned API for plugin authors. Everything an engine or object store plugin needs is exported here.

A plugin is a module named by an entry point in the group ``yoban.plugins``. It has ``YOBAN_PLUGIN_API = (1, 0)`` and one
or both hooks::

    from yoban.plugins import hookimpl

    YOBAN_PLUGIN_API = (1, 0)

    @hookimpl
    def yoban_object_stores():
        return [MyProvider()]

A module that is installed before its engine works says so with ``YOBAN_PLUGIN_STATUS = "not yet implemented"``. Nothing else
of a plugin's module is looked at. `yoban.plugins.registry` loads plugins and checks their form.

Read `Engine` for engines, `ObjectStoreProvider` and `ObjectStore` for stores; `yoban.testing` has the contract classes
that a plugin's tests subclass.
"""

from yoban.plugins.backup import (
    BackupBegin,
    BackupEnd,
    BackupItem,
    BackupRequest,
    BackupSession,
    BaseBackup,
    BytesItem,
    DirectoryItem,
    FileItem,
    LinkItem,
)
from yoban.plugins.context import (
    Account,
    Durability,
    DurabilityMode,
    Finished,
    InstanceContext,
    Peer,
    Processes,
    Role,
    TlsFiles,
)
from yoban.plugins.engine import (
    AccountSpec,
    Capability,
    Endpoint,
    Engine,
    EngineVersion,
    Layout,
    ServerFacts,
    SettingClass,
    SettingRule,
)
from yoban.plugins.hookspecs import hookimpl
from yoban.plugins.kept import KeptConnection
from yoban.plugins.log import LogSource, LogTail, Segment, SegmentKind, SegmentName
from yoban.plugins.objectstore import (
    AlreadyExists,
    BucketAdmin,
    Buffer,
    ObjectInfo,
    ObjectStore,
    ObjectStoreProvider,
    Part,
    StoreCapability,
    StoreConfig,
    Upload,
)
from yoban.plugins.positions import Fork, Order, Position, Positions
from yoban.plugins.recovery import Recovery, RecoveryPlan, RecoveryProgress, RecoveryReached, RecoveryState
from yoban.plugins.replication import BrokenReplica, ProgressCallback, Promotion, Replication
from yoban.plugins.server import (
    Configured,
    LogRequest,
    LogVerb,
    ReplicaLink,
    Server,
    ServerCommand,
    ServerStatus,
    SettingProblem,
    StopMode,
)
from yoban.plugins.targets import BackupFacts, Reach, RecoveryTarget, Targets, TargetType, Window
from yoban.plugins.version import API_VERSION

__all__ = [
    "API_VERSION",
    "Account",
    "AccountSpec",
    "AlreadyExists",
    "BackupBegin",
    "BackupEnd",
    "BackupFacts",
    "BackupItem",
    "BackupRequest",
    "BackupSession",
    "BaseBackup",
    "BrokenReplica",
    "BucketAdmin",
    "Buffer",
    "BytesItem",
    "Capability",
    "Configured",
    "DirectoryItem",
    "Durability",
    "DurabilityMode",
    "Endpoint",
    "Engine",
    "EngineVersion",
    "FileItem",
    "Finished",
    "Fork",
    "InstanceContext",
    "KeptConnection",
    "Layout",
    "LinkItem",
    "LogRequest",
    "LogSource",
    "LogTail",
    "LogVerb",
    "ObjectInfo",
    "ObjectStore",
    "ObjectStoreProvider",
    "Order",
    "Part",
    "Peer",
    "Position",
    "Positions",
    "Processes",
    "ProgressCallback",
    "Promotion",
    "Reach",
    "Recovery",
    "RecoveryPlan",
    "RecoveryProgress",
    "RecoveryReached",
    "RecoveryState",
    "RecoveryTarget",
    "ReplicaLink",
    "Replication",
    "Role",
    "Segment",
    "SegmentKind",
    "SegmentName",
    "Server",
    "ServerCommand",
    "ServerFacts",
    "ServerStatus",
    "SettingClass",
    "SettingProblem",
    "SettingRule",
    "StopMode",
    "StoreCapability",
    "StoreConfig",
    "TargetType",
    "Targets",
    "TlsFiles",
    "Upload",
    "Window",
    "hookimpl",
]
