"""Whether a commit would be confirmed now: asked before what must not wait for replicas that are away.

Does not guarantee that it is: a replica may leave in between.
"""

from __future__ import annotations

from yoban_mysql.session import Session

_REPLICAS = (
    "SELECT @@GLOBAL.rpl_semi_sync_source_enabled AS waits,"
    " @@GLOBAL.rpl_semi_sync_source_wait_for_replica_count AS wanted,"
    " (SELECT variable_value FROM performance_schema.global_status"
    " WHERE variable_name = 'Rpl_semi_sync_source_clients') AS there"
)


async def missing(session: Session) -> str:
    """Return how many replicas a commit would wait for, in words; "" when it waits for none or enough are there."""
    row = await session.row(_REPLICAS)
    if row is None or not row["waits"] or int(row["there"] or 0) >= int(row["wanted"]):
        return ""
    return f"{int(row['there'] or 0)} of {int(row['wanted'])} replicas that confirm are connected"
