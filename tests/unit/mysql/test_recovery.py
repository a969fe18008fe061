"""When a recovery is given up: what the server's applier says, look by look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yoban.testing.context import make_context
from yoban_mysql.gtid import GtidSet
from yoban_mysql.recovery import SILENT_LOOKS, MySqlRecovery

from tests.unit.mysql.volume import A

MISSING = GtidSet.parse(f"{A}:9")
READ = {"applier": "ON", "worker": None, "coordinator": None, "idle": 1, "applying": 0}


def looked(tmp_path: Path, looks: int, **seen: Any) -> str:
    """What the last of some looks says."""
    recovery, ctx = MySqlRecovery(None), make_context(tmp_path)  # type: ignore[arg-type]
    return [recovery._stopped(ctx, READ | seen, MISSING) for _ in range(looks)][-1]


def test_bug_a_last_transaction_that_takes_long_failed_the_restore(tmp_path: Path) -> None:
    """The coordinator has read everything at once, and does not wait for those who apply it."""
    assert looked(tmp_path, SILENT_LOOKS * 20, applying=1) == ""


def test_failure_08_an_applier_that_has_read_all_and_does_nothing_has_failed(tmp_path: Path) -> None:
    assert looked(tmp_path, SILENT_LOOKS) == ""
    assert "lacks 1 transactions" in looked(tmp_path, SILENT_LOOKS + 1)
    assert "lacks 1 transactions" in looked(tmp_path, SILENT_LOOKS + 1, applier="OFF", applying=1)
