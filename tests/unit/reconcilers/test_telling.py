"""The status of a Backup, from what is known of its base backup."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from yoban.model.backup import BackupStatus
from yoban.model.control import BackupResult
from yoban.model.schema import structural
from yoban.reconcilers.backup.telling import completed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def gtids(servers: int) -> str:
    """A set of transactions as MySQL has it after so many servers wrote."""
    return ",".join(f"{number:08x}-1111-2222-3333-444444444444:1-{number}000000" for number in range(1, servers + 1))


def result(position: str) -> BackupResult:
    return BackupResult(
        id="20260101T000000Z-abcdef",
        line="",
        begin_position=position,
        end_position=position,
        begin_time=NOW - timedelta(seconds=20),
        end_time=NOW,
        bytes=5 << 30,
        stored_bytes=1 << 30,
        frozen_seconds=0.0,
    )


@pytest.mark.parametrize("servers", [1, 100, 1000])
def test_bug_a_backup_at_a_long_position_was_never_told_to_be_completed(servers: int) -> None:
    position = gtids(servers)
    status, observed = completed({}, result(position), None)
    assert observed.reason == "Completed"
    assert status.wire()["beginPosition"] == status.wire()["endPosition"] == position


def test_a_position_beyond_every_bound_is_cut_and_says_so() -> None:
    status, _ = completed({}, result(gtids(2000)), None)
    bound = structural(BackupStatus)["properties"]["endPosition"]["maxLength"]
    assert status.end_position is not None and len(status.end_position) == bound
    assert status.end_position.endswith("…"), "nobody takes it for a whole one"
