"""MySQL as an engine: what is pure, and its facets put together.

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

from yoban_mysql import settings
from yoban_mysql.backup import MySqlBackup
from yoban_mysql.defaults import defaults
from yoban_mysql.log import MySqlLog
from yoban_mysql.names import OWNER, PORT, REPLICATION_USER
from yoban_mysql.positions import MySqlPositions
from yoban_mysql.recovery import MySqlRecovery
from yoban_mysql.replication import MySqlReplication
from yoban_mysql.server import MySqlServer
from yoban_mysql.session import Kept
from yoban_mysql.targets import MySqlTargets

VERSIONS = ("9.7", "8.4")


class MySqlEngine(Engine):
    """MySQL 8.4 and 9.7, the two LTS series."""

    name = "mysql"
    title = "MySQL"
    replication_user = REPLICATION_USER

    def __init__(self) -> None:
        kept = Kept()
        self.positions = MySqlPositions()
        self.server = MySqlServer(kept)
        self.replication = MySqlReplication(kept)
        self.targets = MySqlTargets()
        self.base_backup = MySqlBackup(kept)
        self.log_source = MySqlLog(kept)
        self.recovery = MySqlRecovery(kept)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What facets show, and synchronous replicas; a recovery can leave transactions out."""
        found = super().capabilities | {Capability.SYNCHRONOUS}
        return found | {Capability.SKIP} if Capability.POINT_IN_TIME in found else found

    def versions(self) -> Sequence[EngineVersion]:
        """See `Engine.versions`."""
        return [EngineVersion(version, f"docker.io/library/mysql:{version}") for version in VERSIONS]

    def layout(self, version: str) -> Layout:
        """See `Engine.layout`: as in the public images."""
        return Layout(
            uid=999,
            gid=999,
            user="mysql",
            group="mysql",
            home=PurePosixPath("/var/lib/mysql"),
            data_mount=PurePosixPath("/var/lib/mysql"),
            log_mount=None,
            port=PORT,
            port_name="mysql",
            writable=(PurePosixPath("/var/run/mysqld"),),
        )

    def config_schema(self) -> Mapping[str, object]:
        """See `Engine.config_schema`. Read when the data is made, and written into each instance's configuration."""
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "characterSet": {
                    "type": "string",
                    "description": "Character set of new schemas.",
                    "default": "utf8mb4",
                    "maxLength": 32,
                    "pattern": "^[a-z0-9]+$",
                },
                "collation": {
                    "type": "string",
                    "description": "Collation of new schemas; the character set's own when it is left out.",
                    "maxLength": 64,
                    "pattern": "^[a-z0-9_]+$",
                },
                "timeZone": {
                    "type": "string",
                    "description": "Time zone of sessions, as an offset from UTC.",
                    "default": "+00:00",
                    "maxLength": 6,
                    "pattern": "^[+-](0[0-9]|1[0-4]):[0-5][0-9]$",
                },
                "lowerCaseTableNames": {
                    "type": "integer",
                    "description": "1 stores names of tables in lower case and compares them so; 0 keeps case.",
                    "default": 0,
                    "enum": [0, 1],
                },
            },
        }

    def setting_rule(self, name: str, version: str) -> SettingRule:
        """See `Engine.setting_rule`."""
        return settings.rule(name)

    def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
        """See `Engine.default_settings`."""
        return defaults(facts)

    def accounts(self, database: str) -> Sequence[AccountSpec]:
        """See `Engine.accounts`: the owner of the schema `app`; there is no root, and the agent needs no password."""
        return [AccountSpec(purpose="owner", user=OWNER, database=OWNER)]

    def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
        """See `Engine.connection`."""
        user, password = quote(endpoint.user, safe=""), quote(endpoint.password, safe="")
        place = f"{endpoint.host}:{endpoint.port}/{quote(endpoint.database or OWNER, safe='')}"
        return {
            "uri": f"mysql://{user}:{password}@{place}?ssl-mode=REQUIRED",
            "jdbc-uri": f"jdbc:mysql://{place}?user={user}&password={password}&sslMode=REQUIRED",
        }
