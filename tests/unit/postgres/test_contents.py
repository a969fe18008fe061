from __future__ import annotations

from pathlib import Path

import pytest
from yoban.plugins import DirectoryItem, FileItem, LinkItem
from yoban_postgres import contents


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("postmaster.pid", True), ("postmaster.opts", True), ("backup_label", True), ("tablespace_map", True),
        ("current_logfiles", True), ("standby.signal", True), ("recovery.signal", True), ("tablespaces", True),
        ("postgresql.auto.conf.tmp", True), ("yoban-reached.json", True), ("postgresql.conf.yoban-tmp", True),
        ("PG_VERSION", False), ("postgresql.conf", False), ("global/pg_control", True), ("global/1262", False),
        ("base/pgsql_tmp", True), ("base/5/pg_internal.init", True), ("base/5/pg_internal.init.123", True),
        ("base/5/t3_16384", True), ("base/5/t3_16384_fsm", True), ("base/5/t3_16384.1", True), ("base/5/112", False),
        ("base/5/200", True), ("base/5/200_fsm", True), ("base/5/200.1", True), ("base/5/200_init", False),
        ("base/200", False), ("pg_tblspc/16385/PG_15_202209061/5/200", True),
        ("pg_tblspc/16385/PG_15_202209061/5/t3_1", True), ("pg_tblspc/16385/PG_15_202209061/pgsql_tmp", True),
        ("pg_tblspc/16385", True), ("pg_wal/000000010000000000000001", True), ("pg_xact/0000", False),
        ("base/5/backup_label", False),
    ],
)  # fmt: skip
def test_failure_16_what_is_left_out(path: str, out: bool) -> None:
    assert contents.left_out(path, path.rsplit("/", 1)[-1], frozenset({"200"})) is out


def test_relations_and_their_pages() -> None:
    assert contents.relation("16384_vm.12") == ("16384", "vm", 12)
    assert contents.relation("PG_VERSION") is None
    assert contents.unlogged(["1", "2", "2_init", "3_fsm"]) == {"2"}
    assert contents.holds_pages("base/5/16384.2")
    assert contents.holds_pages("global/1262_vm")
    assert contents.holds_pages("pg_tblspc/1/PG_15_1/5/9")
    assert not contents.holds_pages("pg_xact/0000")
    assert not contents.holds_pages("base/5/PG_VERSION")


def test_walk(tmp_path: Path) -> None:
    for name in ("base/5", "pg_replslot/slot", "global", "elsewhere/archive_status", "pg_tblspc", "space/PG_15_1/5"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("PG_VERSION", "base/5/100", "base/5/200", "base/5/200_init", "global/pg_control", "postmaster.pid",
                 "elsewhere/000000010000000000000001"):  # fmt: skip
        (tmp_path / name).write_bytes(b"x" * 10)
    (tmp_path / "pg_wal").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "server.conf").symlink_to("/etc/server.conf")
    (tmp_path / "pg_tblspc" / "16385").symlink_to(tmp_path / "space")
    found: dict[str, object] = {}
    waiting = [(tmp_path, "")]
    while waiting:
        items, below = contents.folder_items(*waiting.pop(), checksums=True)
        found |= {item.path: item for item in items}
        waiting += below
    assert isinstance(found["pg_wal"], DirectoryItem) and isinstance(found["pg_wal/archive_status"], DirectoryItem)
    assert found["server.conf"] == LinkItem("server.conf", "/etc/server.conf")
    relation = found["base/5/100"]
    assert isinstance(relation, FileItem) and relation.inspect and relation.may_vanish and relation.size == 10
    version = found["PG_VERSION"]
    assert isinstance(version, FileItem) and not version.may_vanish and not version.inspect
    assert {"base/5/200_init", "pg_replslot", "pg_tblspc"} <= set(found)
    assert not {"base/5/200", "pg_replslot/slot", "global/pg_control", "pg_tblspc/16385", "postmaster.pid"} & set(found)
    assert list(contents.tablespaces(tmp_path)) == [("16385", tmp_path / "space")]
    assert list(contents.tablespaces(tmp_path / "base")) == []
    assert contents.folder_items(tmp_path / "gone", "gone", checksums=True) == ([], [])
