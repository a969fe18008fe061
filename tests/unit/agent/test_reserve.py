"""The room that is held back for a full volume."""

from __future__ import annotations

from pathlib import Path

import pytest
from yoban.agent.reserve import NAME, SIZE, Reserve

MIB = 1 << 20


def test_it_has_room_for_what_a_server_needs_first() -> None:
    assert Reserve(Path(), 1 << 40).size == SIZE
    assert Reserve(Path(), 1 << 40, 16 * MIB).size == 32 * MIB
    assert Reserve(Path(), 1 << 40, 64 * MIB).size == 128 * MIB
    assert Reserve(Path(), 160 * MIB, 16 * MIB).size == 10 * MIB, "it is small on a small volume"


def test_it_is_made_where_there_is_room_given_and_made_again(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path, 64 * MIB)
    assert not reserve.make(15 * MIB), "there is little room"
    assert not (tmp_path / NAME).exists()
    assert reserve.make(16 * MIB)
    assert (tmp_path / NAME).stat().st_blocks * 512 >= 4 * MIB, "its room is really taken"
    assert not reserve.make(16 * MIB)
    assert not reserve.short(16 * MIB)
    assert reserve.short(MIB)
    assert reserve.give()
    assert not reserve.give()
    assert reserve.short(5 * MIB), "what was given makes no volume roomy"
    assert reserve.make(16 * MIB)


def test_a_volume_that_does_not_take_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert not Reserve(tmp_path, 400 * MIB).make(100 * MIB)
    assert list(tmp_path.iterdir()) == []
    assert not Reserve(tmp_path / "absent", 400 * MIB).make(100 * MIB)
