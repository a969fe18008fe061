"""`yoban plugins` and `yoban crds`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from yoban.cli.main import main
from yoban.cli.table import render

ROOT = Path(__file__).parents[3]


def test_the_table_of_plugins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("YOBAN_PLUGINS", "mysql")
    assert main(["plugins"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "KIND", "DISTRIBUTION", "VERSION", "API", "CAPABILITIES", "ENABLED"]
    rows = {line.split()[0]: line for line in lines}
    assert rows["mysql"].split()[:5] == ["mysql", "engine", "yoban-mysql", "0.1.0", "1.0"]
    assert rows["mysql"].endswith("yes")
    assert rows["s3"].endswith("no: not listed in YOBAN_PLUGINS")


def test_the_same_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("YOBAN_PLUGINS", "mysql")
    assert main(["plugins", "-o", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["mysql"]["source"] == {"plugin": "mysql", "distribution": "yoban-mysql", "version": "0.1.0"}


def test_our_own_plugins_are_all_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0, capsys.readouterr().err


def test_a_broken_plugin_ends_with_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YOBAN_PLUGINS", "nope")
    assert main(["plugins"]) == 1
    assert "YOBAN_PLUGINS names plugin 'nope', which is not installed" in capsys.readouterr().err


def test_a_table_marks_empty_cells_and_ends_no_line_in_blanks() -> None:
    assert render(("A", "LONGER"), [("x", None), ("yy", ""), ("z", 0)]) == "A   LONGER\nx   -\nyy  -\nz   0"


def test_definitions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    kinds = {one["spec"]["names"]["kind"] for one in yaml.safe_load_all(capsys.readouterr().out)}
    assert kinds == {"Database", "ObjectStore", "BackupPolicy", "Backup"}


def test_definitions_are_written_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "crds"
    assert main(["crds", "--check", str(folder)]) == 1
    assert main(["crds", "--write", str(folder)]) == 0
    assert main(["crds", "--check", str(folder)]) == 0
    victim = next(folder.iterdir())
    victim.write_text("changed")
    capsys.readouterr()
    assert main(["crds", "--check", str(folder)]) == 1
    assert capsys.readouterr().err == f"yoban crds: {victim}: is not what the models say; run `make crds`\n"


def test_the_definitions_in_the_repository_are_those_of_the_models() -> None:
    assert main(["crds", "--check", str(ROOT / "deploy" / "crds")]) == 0
