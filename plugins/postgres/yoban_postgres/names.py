"""Names that several modules agree on: users, files of ours in the data directory, prefixes.

Guarantees nothing by itself; a change here changes what is on volumes, so names are never reused for something else.
"""

from __future__ import annotations

SUPERUSER = "postgres"
REPLICATION_USER = "yoban-replication"
OWNER = "app"
APPLICATION = "yoban"
PORT = 5432

MAIN_CONF = "postgresql.conf"
USER_CONF = "yoban-settings.conf"
RECOVERY_CONF = "yoban-recovery.conf"
AUTO_CONF = "postgresql.auto.conf"
HBA_CONF = "pg_hba.conf"
IDENT_CONF = "pg_ident.conf"
STANDBY_SIGNAL = "standby.signal"
RECOVERY_SIGNAL = "recovery.signal"
REACHED_FILE = "yoban-reached.json"
"""Where a recovery stopped, noted before the server leaves it."""
RECOVERY_LOG = "recovery.log"
"""The server's log during a recovery, in the run folder."""
LOADED_TLS = "loaded-tls"
"""In the run folder: which certificates the server has loaded."""

SLOT_PREFIX = "yoban_"


def slot_name(instance: str) -> str:
    """Return the replication slot of an instance: lower case letters, digits and `_`, at most 63 characters."""
    return SLOT_PREFIX + "".join(c if c.isalnum() else "_" for c in instance.lower())[:57]
