"""`yoban install`: the runtime is copied whole, and again without harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from yoban.cli.install import install, main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "empty").mkdir()
    program = source / "bin" / "python3"
    program.write_bytes(b"elf")
    program.chmod(0o755)
    (source / "bin" / "python").symlink_to("python3")
    (source / "lib64").symlink_to("bin")
    return source


def test_links_modes_and_empty_folders_are_kept(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for _ in range(2):
        assert install(source, target) == 1
    assert (target / "bin" / "python3").stat().st_mode & 0o777 == 0o755
    assert (target / "bin" / "python").readlink() == Path("python3")
    assert (target / "lib64").readlink() == Path("bin")
    assert (target / "empty").is_dir()


def test_a_copy_cut_short_is_completed(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python3").write_bytes(b"e")
    (target / "bin" / "python3.part").write_bytes(b"el")
    install(source, target)
    assert (target / "bin" / "python3").read_bytes() == b"elf"
    assert not (target / "bin" / "python3.part").exists()


def test_the_command(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YOBAN_RUNTIME", str(source))
    assert main([str(tmp_path / "t")]) == 0
    assert "installed 1 files" in capsys.readouterr().out
    assert main([]) == 2
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([str(blocked)]) == 1
    monkeypatch.setenv("YOBAN_RUNTIME", str(tmp_path / "nowhere"))
    assert main([str(tmp_path / "t")]) == 1
    assert "no runtime" in capsys.readouterr().err
