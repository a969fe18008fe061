"""What we fix in a server's configuration, by instance, role and durability. Pure.

Guarantees: a server starts closed (`super_read_only`), with replication stopped, events off and semi-synchronous commits
off; the agent opens it, or makes it follow, while it runs. Nothing here is secret.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from yoban.plugins import Durability, DurabilityMode, InstanceContext, Role

from yoban_mysql import options
from yoban_mysql.names import BINLOG, PID_FILE, RELAY_LOG, SOCKET
from yoban_mysql.settings import number, variable

PLUGINS = ("auth_socket.so", "mysql_clone.so", "semisync_source.so", "semisync_replica.so")
LONGEST_WAIT = "4294967295"
"""Milliseconds that a commit waits for replicas: 49 days, the most that the server takes; it never degrades."""
RELAXED_SYNC = "10000"
ENGINES = "disabled_storage_engines"
IN_MEMORY = "MEMORY"
"""An engine whose rows are gone after a start, and with a DELETE in the log of whoever opens such a table first then: a
replica would have a transaction that its primary lacks. Temporary tables that the server makes for itself go on."""
CONNECTIONS = "151"
"""The server's own `max_connections`."""

LIVE = (
    "binlog_expire_logs_auto_purge",
    "innodb_flush_log_at_trx_commit",
    "local_infile",
    "max_user_connections",
    "require_secure_transport",
    "rpl_semi_sync_replica_enabled",
    "rpl_semi_sync_source_timeout",
    "rpl_semi_sync_source_wait_for_replica_count",
    "rpl_semi_sync_source_wait_no_replica",
    "rpl_semi_sync_source_wait_point",
    "sync_binlog",
    "sync_relay_log",
)
"""What of it is kept so while the server runs: it follows the declared durability, or somebody may have changed it."""

_ROLE = "# role: "


def server_id(incarnation: str, number: int) -> int:
    """Return the server id of an instance: never 0, different for each instance of one life of the data."""
    return ((zlib.crc32(incarnation.encode()) & 0xFFFFF) << 12) | (number & 0xFFF)


def temporary_folder(ctx: InstanceContext) -> Path:
    """Return where the server sorts and rebuilds tables: on the data volume, beside the data."""
    return ctx.data.with_name(f"{ctx.data.name}.tmp")


def made_with(ctx: InstanceContext) -> dict[str, str]:
    """Return what `engineConfig` says of the data, as settings."""
    config = ctx.engine_config
    found = {
        "character_set_server": str(config.get("characterSet", "utf8mb4")),
        "default_time_zone": str(config.get("timeZone", "+00:00")),
        "lower_case_table_names": str(config.get("lowerCaseTableNames", 0)),
    }
    if collation := config.get("collation"):
        found["collation_server"] = str(collation)
    return found


def waits(durability: Durability) -> bool:
    """Whether commits wait for replicas."""
    return durability.mode is DurabilityMode.SYNCHRONOUS


def fixed_settings(ctx: InstanceContext, role: Role) -> dict[str, str]:
    """Return what we fix for a role."""
    switch = "ON" if waits(ctx.durability) else "OFF"
    return made_with(ctx) | {
        "auto_generate_certs": "OFF",
        "bind_address": "*",
        "binlog_expire_logs_auto_purge": "OFF",
        "binlog_gtid_simple_recovery": "ON",
        "datadir": str(ctx.data),
        "enforce_gtid_consistency": "ON",
        "event_scheduler": "OFF",
        "gtid_mode": "ON",
        "innodb_doublewrite": "ON",
        "innodb_fast_shutdown": "1",
        "innodb_flush_log_at_trx_commit": "1",
        "local_infile": "OFF",
        "log_bin": str(ctx.data / BINLOG),
        "log_replica_updates": "ON",
        "log_timestamps": "UTC",
        "max_user_connections": str(_most_sessions(ctx)),
        "mysqlx": "OFF",
        "persisted_globals_load": "OFF",
        "pid_file": str(ctx.run / PID_FILE),
        "port": str(ctx.port),
        "read_only": "ON",
        "relay_log": str(ctx.data / RELAY_LOG),
        # What a replica has confirmed must outlive it: with recovery, relay logs would be thrown away at each start.
        "relay_log_recovery": "OFF",
        "replica_preserve_commit_order": "ON",
        "report_host": ctx.name,
        "report_port": str(ctx.port),
        "require_secure_transport": "ON",
        "rpl_semi_sync_replica_enabled": switch,
        "rpl_semi_sync_source_enabled": "OFF",
        "rpl_semi_sync_source_timeout": LONGEST_WAIT,
        "rpl_semi_sync_source_wait_for_replica_count": str(ctx.durability.replicas),
        "rpl_semi_sync_source_wait_no_replica": "ON",
        "rpl_semi_sync_source_wait_point": "AFTER_SYNC",
        "secure_file_priv": "NULL",
        "server_id": str(server_id(ctx.incarnation, ctx.number)),
        "skip_name_resolve": "ON",
        "skip_replica_start": "ON",
        "socket": str(ctx.run / SOCKET),
        "ssl_ca": str(ctx.tls.ca),
        "ssl_cert": str(ctx.tls.certificate),
        "ssl_key": str(ctx.tls.key),
        "super_read_only": "ON",
        "sync_binlog": "1",
        "sync_relay_log": "1" if waits(ctx.durability) else RELAXED_SYNC,
        "tls_version": "TLSv1.2,TLSv1.3",
        "tmpdir": str(temporary_folder(ctx)),
    }


def most_sessions(connections: int, instances: int) -> int:
    """Return how many sessions any one account may have, so that sessions which wait leave room for whom they wait for.

    Sessions whose commits wait for replicas do not notice that their clients are gone. It holds for our own accounts, too:
    they may have at least what is kept from others, which takes a server with twice as many connections.

    Args:
        connections: `max_connections`.
        instances: of the Database.
    """
    ours = 3 * instances + 5
    return max(connections - ours, ours)


def _most_sessions(ctx: InstanceContext) -> int:
    told = next((value for name, value in ctx.settings.items() if variable(name) == "max_connections"), CONNECTIONS)
    return most_sessions(number(told) or int(CONNECTIONS), len(ctx.peers) + 1)


def with_ours(settings: Mapping[str, str], role: Role) -> dict[str, str]:
    """Return a user's settings with what we add to one of them: engines that no table may be of.

    In a recovery no engine is off: what was logged is applied.
    """
    found = {name: value for name, value in settings.items() if variable(name) != ENGINES}
    if role is not Role.RECOVERY:
        given = [value for name, value in settings.items() if variable(name) == ENGINES and value.strip()]
        found[ENGINES] = ",".join([IN_MEMORY, *given])
    return found


def plugins() -> list[tuple[str, str]]:
    """Return the options by which the server loads what we need of it."""
    return [("plugin_load_add", name) for name in PLUGINS]


def main_text(settings: Mapping[str, str], fixed: Mapping[str, str], role: Role) -> str:
    """Return the file that the server is started with: the user's settings, ours over them, and the role as a comment."""
    return f"{_ROLE}{role.value}\n" + options.text({**settings, **fixed}, plugins())


def role_in(content: str) -> Role | None:
    """Return the role in a file that `main_text` made; None when there is none."""
    first = content.partition("\n")[0]
    return Role(first.removeprefix(_ROLE)) if first.startswith(_ROLE) else None
