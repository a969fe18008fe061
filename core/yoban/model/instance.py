"""The document by which the operator tells an instance what it is to be.

It is mounted into every Pod of a Database as `/etc/yoban/spec/document.json` and pushed to running agents as well; the one
with the greater `generation`, then the greater `revision`, is in force. It holds no secret. Agents read documents one and
two releases newer and older: unknown fields are ignored, every new field has a default that means "as before".
"""

from __future__ import annotations

from typing import Any, dataclass_transform

import msgspec


class _KeywordOnly(msgspec.StructMeta):
    """msgspec's `kw_only` counts for one class only; this makes it hold for every subclass."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.setdefault("kw_only", True)
        return super().__new__(mcls, name, bases, namespace, **options)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Struct(msgspec.Struct, metaclass=_KeywordOnly, frozen=True, rename="camel", omit_defaults=True):
    """Base: immutable, camelCase on the wire, defaults left out, unknown fields ignored."""


class Member(Struct):
    """An instance of the Database. `host` is its stable DNS name, `port` the server's, `control` the control API's."""

    name: str
    number: int
    host: str
    port: int
    control: int = 8443


class TargetDocument(Struct):
    """A recovery target as the user wrote it (DESIGN section 3)."""

    type: str = "latest"
    value: str = ""
    exclusive: bool = False
    line: str = ""
    backup: str = ""
    skip: list[str] = []


class RestoreDocument(Struct):
    """What a new Database is restored from: a path in the source store, `<namespace>/<name>/<incarnation>`, and a target.

    The source store's configuration is mounted beside (`source`).
    """

    path: str
    target: TargetDocument = TargetDocument()


class ArchiveDocument(Struct):
    """Where and how often the log goes.

    Attributes:
        path: `<namespace>/<name>/<incarnation>` in the store (below the store's own prefix).
        rpo_seconds: how old the newest stored commit may become.
        policy: name of the BackupPolicy, for messages.
    """

    path: str
    rpo_seconds: float = 5.0
    policy: str = ""


class LeaseDocument(Struct):
    """The Lease of the primary: name, and times in seconds (lease > renew > retry x 1.2)."""

    name: str
    duration: float = 15.0
    renew: float = 10.0
    retry: float = 2.0


class SwitchoverDocument(Struct):
    """A planned change of primary. `id` is the annotation's value, so that it is done once; `target` an instance name."""

    id: str
    target: str


class InstanceDocument(Struct):
    """What one Database is to be; the same for all its instances.

    Attributes:
        generation: `metadata.generation` of the Database.
        revision: grows with each change of the document within a generation (members, archive, requests).
        uid: of the Database.
        incarnation: id of this life of its data.
        founder: name of the one instance that may create the data (or restore it) while the Lease has no mark of data.
        members: all instances that are to exist.
        restart: value of the restart request last accepted; an instance restarts its server when `restart_of` it changes.
        restarts: the same by instance name, which goes before `restart`: the operator restarts one after the other.
        labels: labels of its Pods that agents keep: none but the role label is ever changed.
    """

    format: int = 1
    generation: int
    revision: int = 0
    namespace: str
    database: str
    uid: str
    incarnation: str
    engine: str
    version: str
    founder: str = ""
    members: list[Member]
    engine_config: dict[str, Any] = {}
    settings: dict[str, str] = {}
    durability_mode: str = "async"
    durability_replicas: int = 1
    restore: RestoreDocument | None = None
    archive: ArchiveDocument | None = None
    lease: LeaseDocument
    switchover: SwitchoverDocument | None = None
    restart: str = ""
    restarts: dict[str, str] = {}
    paused: bool = False

    def restart_of(self, instance: str) -> str:
        """The restart request that instance is to have carried out."""
        return self.restarts.get(instance, self.restart)


class StoreDocument(Struct):
    """A store's configuration as mounted from a Secret (`store.json`). `provider` is "" when there is none."""

    provider: str = ""
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    ca_bundle: str = ""
    credentials: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"StoreDocument(provider={self.provider!r}, bucket={self.bucket!r}, prefix={self.prefix!r})"


class Marker(Struct):
    """`yoban.json` on a data volume: whose data it is. `state` is `making` until the data is complete, then `ready`.

    `reigned` tells that this data was last a primary's, in `term`; a replica's has it False.
    """

    format: int = 1
    incarnation: str
    instance: str
    state: str
    origin: str = "new"
    reigned: bool = False
    term: int = 0


SPEC_DIR = "/etc/yoban/spec"
ACCOUNTS_DIR = "/etc/yoban/accounts"
TLS_DIR = "/etc/yoban/tls"
STORE_DIR = "/etc/yoban/store"
SOURCE_DIR = "/etc/yoban/source"
RUN_DIR = "/run/yoban"
DOCUMENT_FILE = "document.json"
STORE_FILE = "store.json"
PROBE_PORT = 8080
METRICS_PORT = 9187
CONTROL_PORT = 8443

ROLE_LABEL = "yoban.dev/role"
DATABASE_LABEL = "yoban.dev/database"
INSTANCE_LABEL = "yoban.dev/instance"

LEASE_INITIALIZED = "yoban.dev/initialized"
"""Annotation of the Lease: the incarnation whose data exists. Once set, no instance ever initialises again."""
LEASE_TERM = "yoban.dev/term"
LEASE_LAST_HOLDER = "yoban.dev/last-holder"
"""Annotation of the Lease: who reigned last; only it, or the one named as successor, may take the Lease."""
LEASE_SUCCESSOR = "yoban.dev/successor"
LEASE_POSITION = "yoban.dev/position"
"""Annotation of the Lease: last place of the log at a clean hand-over; the successor must have replayed it."""
LEASE_SWITCHOVER = "yoban.dev/switchover"
"""Annotation of the Lease: id of the switchover last begun, so that each is tried once."""
LEASE_LAST_NUMBER = "yoban.dev/last-number"
"""Annotation of the Lease: the greatest instance number given out."""
