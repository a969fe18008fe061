"""PostgreSQL as an engine: what is pure, and its facets put together.

Guarantees to load without the driver: the operator imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from yoban.plugins import (
    AccountSpec,
    Capability,
    Endpoint,
    Engine,
    EngineVersion,
    Layout,
    ServerFacts,
    SettingRule,
)

from yoban_postgres import settings
from yoban_postgres.backup import PostgresBackup
from yoban_postgres.log import PostgresLog
from yoban_postgres.names import OWNER, PORT, REPLICATION_USER
from yoban_postgres.positions import PostgresPositions
from yoban_postgres.recovery import PostgresRecovery
from yoban_postgres.replication import PostgresReplication
from yoban_postgres.server import PostgresServer
from yoban_postgres.session import Kept
from yoban_postgres.targets import PostgresTargets

VERSIONS = ("18", "17", "16", "15", "14")


class PostgresEngine(Engine):
    """PostgreSQL 14 to 18."""

    name = "postgres"
    title = "PostgreSQL"
    replication_user = REPLICATION_USER

    def __init__(self) -> None:
        kept = Kept()
        self.positions = PostgresPositions()
        self.targets = PostgresTargets()
        self.server = PostgresServer(kept)
        self.replication = PostgresReplication(kept)
        self.base_backup = PostgresBackup(kept)
        self.log_source = PostgresLog(kept)
        self.recovery = PostgresRecovery(kept)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What facets show, and synchronous replicas and a volume for the log."""
        return super().capabilities | {Capability.SYNCHRONOUS, Capability.LOG_VOLUME}

    def versions(self) -> Sequence[EngineVersion]:
        """See `Engine.versions`."""
        return [EngineVersion(version, f"docker.io/library/postgres:{version}") for version in VERSIONS]

    def layout(self, version: str) -> Layout:
        """See `Engine.layout`: as in the public images of Debian."""
        return Layout(
            uid=999,
            gid=999,
            user="postgres",
            group="postgres",
            home=PurePosixPath("/var/lib/postgresql"),
            data_mount=PurePosixPath("/var/lib/postgresql/data"),
            log_mount=PurePosixPath("/var/lib/postgresql/wal"),
            port=PORT,
            port_name="postgres",
            writable=(PurePosixPath("/var/run/postgresql"),),
        )

    def config_schema(self) -> Mapping[str, object]:
        """See `Engine.config_schema`. Read once, when the data directory is made."""
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "locale": {
                    "type": "string",
                    "description": "Locale of the databases, as the image has it.",
                    "default": "C.UTF-8",
                    "maxLength": 64,
                    "pattern": "^[A-Za-z0-9_.@-]+$",
                },
                "encoding": {
                    "type": "string",
                    "description": "Encoding of the databases.",
                    "default": "UTF8",
                    "maxLength": 32,
                    "pattern": "^[A-Za-z0-9_-]+$",
                },
                "icuLocale": {
                    "type": "string",
                    "description": "ICU locale for collation; makes ICU the provider (PostgreSQL 15 and newer).",
                    "maxLength": 64,
                    "pattern": "^[A-Za-z0-9_@=;-]+$",
                },
                "dataChecksums": {
                    "type": "boolean",
                    "description": "Whether pages carry checksums, by which damage is found.",
                    "default": True,
                },
                "walSegmentSize": {
                    "type": "integer",
                    "description": "Size of a segment of the log in MiB.",
                    "default": 16,
                    "enum": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
                },
            },
        }

    def setting_rule(self, name: str, version: str) -> SettingRule:
        """See `Engine.setting_rule`."""
        return settings.rule(name)

    def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
        """See `Engine.default_settings`."""
        return settings.defaults(facts)

    def accounts(self, database: str) -> Sequence[AccountSpec]:
        """See `Engine.accounts`: the owner of the database `app`; the superuser has no password and no way in."""
        return [AccountSpec(purpose="owner", user=OWNER, database=OWNER)]

    def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
        """See `Engine.connection`."""
        user, password = quote(endpoint.user, safe=""), quote(endpoint.password, safe="")
        database = quote(endpoint.database or OWNER, safe="")
        place = f"{endpoint.host}:{endpoint.port}/{database}"
        return {
            "uri": f"postgresql://{user}:{password}@{place}?sslmode=require",
            "jdbc-uri": f"jdbc:postgresql://{place}?user={user}&password={password}&sslmode=require",
        }
