"""Texts of the server's configuration files. Pure.

Guarantees: what we fix stands after what the user set, so it wins; every value is quoted; archive and restore commands
hold only fixed paths, quoted for the shell. Nothing here is secret.

`postgresql.conf` includes the user's settings (a file of its own, so that rejected ones do not hold back a change of
role) and then fixes ours. `postgresql.auto.conf` is kept empty: settings belong to the Database.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yoban.plugins import Durability, DurabilityMode, InstanceContext, Peer, Role

from yoban_postgres.names import (
    RECOVERY_CONF,
    RECOVERY_LOG,
    REPLICATION_USER,
    SUPERUSER,
    USER_CONF,
    slot_name,
)
from yoban_postgres.settings import LOG_BOUND, MIB, SERVER_DEFAULTS, conflicts_with_synchronous, size_in_bytes

IDENT_MAP = "yoban"
HEADER = "# Written by the agent; changes are overwritten. Settings belong to the Database.\n"
NOBODY = "yoban-none"
"""Stands where a synchronous replica is wanted and none exists: commits wait, as declared."""


@dataclass(frozen=True, slots=True)
class Files:
    """Contents of the configuration files."""

    main: str
    hba: str
    ident: str


def quote(value: str) -> str:
    """Return a value as the configuration file wants it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def quote_conninfo(value: str) -> str:
    """Return a value as a connection string wants it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def shell_command(words: Iterable[str], *placeholders: str) -> str:
    """Return a command line for archive and restore commands: fixed words quoted, `%` doubled, then the placeholders."""
    fixed = " ".join(shlex.quote(word).replace("%", "%%") for word in words)
    return " ".join([fixed, *(f'"{placeholder}"' for placeholder in placeholders)])


def conninfo(ctx: InstanceContext, peer: Peer, **extra: str) -> str:
    """Return how to reach a peer as the replication user: by certificate, checked both ways, no password file."""
    parts = {
        "host": peer.host,
        "port": str(peer.port),
        "user": REPLICATION_USER,
        "sslmode": "verify-full",
        "sslrootcert": str(ctx.tls.ca),
        "sslcert": str(ctx.tls.client_certificate),
        "sslkey": str(ctx.tls.client_key),
        "passfile": str(ctx.run / "none"),
        "gssencmode": "disable",
        "connect_timeout": "10",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        **extra,
    }
    return " ".join(f"{key}={quote_conninfo(value)}" for key, value in parts.items())


def synchronous_names(durability: Durability, peers: Sequence[Peer]) -> str:
    """Return `synchronous_standby_names`; "" under async durability."""
    if durability.mode is not DurabilityMode.SYNCHRONOUS:
        return ""
    names = sorted(peer.name for peer in peers) or [NOBODY]
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    return f"ANY {durability.replicas} ({quoted})"


def user_text(settings: Mapping[str, str]) -> str:
    """Return the file of the user's settings (with our defaults below them)."""
    lines = [f"{name} = {quote(value)}" for name, value in sorted(settings.items())]
    return HEADER + "".join(line + "\n" for line in lines)


def recovery_text(settings: Mapping[str, str]) -> str:
    """Return the file that a recovery adds."""
    return HEADER + "".join(f"{name} = {quote(value)}\n" for name, value in sorted(settings.items()))


def fixed_settings(
    ctx: InstanceContext,
    role: Role,
    upstream: Peer | None,
    version: int,
    effective: Mapping[str, str],
    floor: Mapping[str, str],
) -> dict[str, str]:
    """Return what we fix for a role.

    Args:
        ctx: the instance.
        role: role to configure for.
        upstream: whom a replica follows.
        version: major version.
        effective: the user's settings in force.
        floor: settings that a replica or a recovery must not have lower than the log demands, already decided.
    """
    restore = shell_command((*ctx.ask, "restore"), "%f", "%p")
    found = {
        "listen_addresses": "*",
        "port": str(ctx.port),
        "unix_socket_directories": str(ctx.run),
        "unix_socket_permissions": "0700",
        "cluster_name": ctx.name,
        "hba_file": str(ctx.data / "pg_hba.conf"),
        "ident_file": str(ctx.data / "pg_ident.conf"),
        "ssl": "on",
        "ssl_ca_file": str(ctx.tls.ca),
        "ssl_cert_file": str(ctx.tls.certificate),
        "ssl_key_file": str(ctx.tls.key),
        "ssl_min_protocol_version": "TLSv1.2",
        "password_encryption": "scram-sha-256",
        "wal_level": "replica",
        "wal_log_hints": "on",
        "full_page_writes": "on",
        "fsync": "on",
        "hot_standby": "on",
        "track_commit_timestamp": "on",
        "restart_after_crash": "on",
        "archive_mode": "on" if role is Role.RECOVERY else "always",
        # With the client's 255 the archiver would end, be made anew up to a minute later, and count no failure.
        "archive_command": shell_command((*ctx.ask, "archive"), "%f", "%p") + " || exit 1",
        "archive_timeout": "0",
        # The client's failure (255) would end a replica's server, which can stream or try again; a recovery must end.
        "restore_command": restore if role is Role.RECOVERY else f"{restore} || exit 1",
        "synchronous_standby_names": synchronous_names(ctx.durability, ctx.peers),
        "primary_conninfo": "",
        "primary_slot_name": "",
        "recovery_target_timeline": "latest",
        "log_destination": "stderr",
        "logging_collector": "off",
        **floor,
    }
    if ctx.durability.mode is DurabilityMode.SYNCHRONOUS and conflicts_with_synchronous(effective):
        # In force from a time when it was allowed: a conflict that is told must not be acted on meanwhile.
        found["synchronous_commit"] = "on"
    if role is Role.REPLICA and upstream is not None:
        found["primary_conninfo"] = conninfo(ctx, upstream, application_name=ctx.name)
        found["primary_slot_name"] = slot_name(ctx.name)
    if role is Role.REPLICA:
        found["wal_retrieve_retry_interval"] = "1s"
    if role is Role.RECOVERY:
        found |= {
            "wal_retrieve_retry_interval": "200ms",
            "synchronous_standby_names": "",
            "logging_collector": "on",
            "log_directory": str(ctx.run),
            "log_filename": RECOVERY_LOG,
            "log_rotation_age": "0",
            "log_rotation_size": "0",
        }
    if version >= 15:
        found["archive_library"] = ""
    return found


def main_text(fixed: Mapping[str, str], data: Path, role: Role) -> str:
    """Return `postgresql.conf`."""
    lines = [HEADER, f"include_if_exists = {quote(str(data / USER_CONF))}\n"]
    lines += [f"{name} = {quote(value)}\n" for name, value in sorted(fixed.items())]
    if role is Role.RECOVERY:
        lines.append(f"include_if_exists = {quote(str(data / RECOVERY_CONF))}\n")
    return "".join(lines)


def hba_text() -> str:
    """Return who may connect: the agent by its OS user, users by SCRAM over TLS, instances by certificate."""
    return HEADER + "".join(
        line + "\n"
        for line in (
            f"local all {SUPERUSER} peer map={IDENT_MAP}",
            "local all all reject",
            f'hostssl replication "{REPLICATION_USER}" all cert',
            f'hostssl postgres "{REPLICATION_USER}" all cert',
            f'host all "{REPLICATION_USER}" all reject',
            f"host all {SUPERUSER} all reject",
            "host replication all all reject",
            "hostssl all all all scram-sha-256",
            "host all all all reject",
        )
    )


def ident_text(os_users: Iterable[str]) -> str:
    """Return which OS users are the superuser by way of the local socket."""
    users = sorted(set(os_users))
    return HEADER + "".join(f'{IDENT_MAP} "{user}" {SUPERUSER}\n' for user in users)


def raise_to(settings: Mapping[str, str], found: Mapping[str, int]) -> dict[str, str]:
    """Return those settings that must be higher than asked, because the log was written with more.

    Args:
        settings: what would be in force.
        found: what the control file says, by name.
    """
    low = {name.lower(): value for name, value in settings.items()}
    raised: dict[str, str] = {}
    for name in sorted(LOG_BOUND & set(found)):
        value = low.get(name, str(SERVER_DEFAULTS[name]))
        if value.isdigit() and int(value) < found[name]:
            raised[name] = str(found[name])
    return raised


def raise_sizes(settings: Mapping[str, str], segment_bytes: int) -> dict[str, str]:
    """Return those sizes of the log that must be higher than asked: the server demands two segments."""
    low = {name.lower(): value for name, value in settings.items()}
    least = 2 * segment_bytes
    raised: dict[str, str] = {}
    for name, default in (("min_wal_size", "80MB"), ("max_wal_size", "1GB")):
        size = size_in_bytes(low.get(name, default), MIB)
        if size is not None and size < least:
            raised[name] = f"{least // MIB}MB"
    return raised
