"""What is to be reached with MySQL, and how the report tells it. Pure."""

from __future__ import annotations

from tests.bench.report import Subject
from tests.bench.verdict import Goal

GOALS = (
    Goal("replay.ratio", "replay, ours to mysqlbinlog", 10.0, "x", at_least=True),
    Goal("replay.pinned.ratio", "replay, ours to mysqlbinlog on one core", 4.0, "x", at_least=True),
    Goal("rpo.p99", "RPO under write load, p99", 5.0, "s"),
    Goal("blocked.seconds", "blocked writes during a backup under load", 0.0, "s"),
    Goal("memory.agent", "agent and supervisor, idle", 90.0, "MB"),
)

SUBJECT = Subject(
    command="make bench ENGINE=mysql ARGS=--save",
    title="Results of a run with MySQL",
    entry="- [Benchmark: MySQL]{link}: replay, backup, restore, RPO and memory, beside `mysqlbinlog` and `mysqldump`",
    folder="mysql",
    goals=GOALS,
    pairs=("replay", "backup", "restore"),
    labels={
        "floor": "floor",
        "ours": "ours",
        "peer": "mysqldump",
        "client": "mysqlbinlog",
        "pinned": "mysqlbinlog, 1 core",
    },
    latencies={
        "rpo": "commit to covered in the store",
        "commit": "commit without a backup",
        "commit.backup": "commit during a backup",
    },
)
