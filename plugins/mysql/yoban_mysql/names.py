"""Names that several modules agree on: users, schemas and files of ours.

Guarantees nothing by itself; a change here changes what is on volumes, so names are never reused for something else.
"""

from __future__ import annotations

AGENT = "yoban"
"""The agent's account, for the unix socket only: known by the user of the operating system, without a password."""
REPLICATION_USER = "yoban-replication"
OWNER = "app"
PORT = 3306

MAIN_CONF = "yoban.cnf"
"""What the server was started with, whole."""
USER_CONF = "yoban-settings.cnf"
"""The settings in force, as last accepted."""
BASE_FILE = "yoban-base"
"""What the server has from a copy of another one, in the data directory."""
LINES_FILE = "yoban-lines"
"""Names of the lines that the server has written, in the data directory."""
STORED_FILE = "yoban-stored"
"""Names of files of the log that are stored, in the data directory."""
COPY = "copy"
"""Ending of the folder beside the data in which a base backup is made."""
RECOVERY_FILE = "yoban-recovery.json"
"""How far a recovery is, in the data directory."""
AUTO_CNF = "auto.cnf"
"""Where the server keeps its uuid."""
SOCKET = "mysqld.sock"
PID_FILE = "mysqld.pid"
BINLOG = "binlog"
"""Base name of the binary log's files, which lie in the data directory."""
RELAY_LOG = "relay"
LOADED_TLS = "loaded-tls"
"""In the run folder: which certificates the server has loaded."""


def binlog_name(number: int) -> str:
    """Return the name of the binary log's file of that number."""
    return f"{BINLOG}.{number:06d}"


def binlog_number(name: str) -> int:
    """Return the number in a file name, with or without folders before it. Raises ValueError when it has none."""
    return int(name.rsplit(".", 1)[1])
