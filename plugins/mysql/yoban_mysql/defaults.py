"""The settings a Database starts from, by version, memory, cores and instances. Pure.

Guarantees sizes that fit the container's memory limit; without one, a small server's. A user's settings go over them.
"""

from __future__ import annotations

from yoban.plugins import ServerFacts

from yoban_mysql.settings import MIB

GIB = 1024 * MIB
BASE = 448 * MIB
"""What a server takes beside its buffer pool: code, dictionary, performance schema, a few sessions (measured on 9.7)."""
SMALL = 1536 * MIB
"""Below this much memory the server is made to keep fewer things."""


def defaults(facts: ServerFacts) -> dict[str, str]:
    """Return the settings."""
    memory = facts.memory or GIB
    pool = _pool(memory)
    found = {
        "innodb_buffer_pool_size": str(pool),
        "innodb_redo_log_capacity": str(_between(pool // 2, 128 * MIB, 16 * GIB)),
        "max_connections": "151",
        # Before a commit in the next file counts as stored, all of this one must be: that takes seconds for a large one.
        "max_binlog_size": str(32 * MIB),
        "max_allowed_packet": str(64 * MIB),
        "binlog_row_image": "FULL",
        "binlog_transaction_dependency_history_size": "25000",
        "log_bin_trust_function_creators": "ON",  # rows are logged, so what a function does is not run again
        "innodb_print_all_deadlocks": "ON",
        "innodb_io_capacity": "1000",
        "innodb_io_capacity_max": "4000",
        "replica_parallel_workers": str(_between(int(facts.cpus or 4), 2, 16)),
        "event_scheduler": "ON",
        "log_error_verbosity": "2",
        "replica_net_timeout": "10",
        "binlog_cache_size": str(64 * 1024),
    }
    if memory < SMALL:
        found |= {
            "table_open_cache": "400",
            "table_definition_cache": "400",
            "performance_schema_digests_size": "1000",
            "performance_schema_error_size": "100",
            "performance_schema_max_table_instances": "500",
            "performance_schema_max_table_handles": "1000",
            "innodb_log_buffer_size": str(8 * MIB),
        }
    return found


def _pool(memory: int) -> int:
    """Half of what the server itself leaves of a small limit, more of a large one; whole chunks of 128 MiB where large."""
    left = max(memory - BASE, 0)
    pool = _between(left * 7 // 10 if memory >= 4 * GIB else left // 2, 32 * MIB, 1024 * GIB)
    step = 128 * MIB if pool >= GIB else 8 * MIB
    return pool // step * step


def _between(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))
