"""What plugin authors get from `yoban.testing.context` and from the fixture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from yoban.errors import DeadlineExceeded, NotFound
from yoban.plugins import InstanceContext
from yoban.testing.context import LocalProcesses, make_context


def test_a_context_has_its_folders(tmp_path: Path) -> None:
    context = make_context(tmp_path, version="3", number=2)
    assert (context.version, context.number) == ("3", 2)
    assert context.run.is_dir()
    assert context.tmp.is_dir()
    assert context.data.parent.is_dir()
    assert not context.data.exists()
    assert "p'a" not in repr(context), "passwords are not shown"


def test_the_fixture_makes_one(yoban_context: Callable[..., InstanceContext]) -> None:
    assert yoban_context(settings={"a": "b"}).settings == {"a": "b"}


async def test_a_program_runs_with_clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "x")
    code = (
        "import os,sys; print(sorted(os.environ)); print(os.getcwd()); sys.stderr.write(sys.stdin.read()); sys.exit(3)"
    )
    done = await LocalProcesses().run(
        [sys.executable, "-c", code], deadline=30, env={"EXTRA": "1"}, cwd=tmp_path, stdin=b"from stdin"
    )
    assert done.code == 3
    assert b"SECRET" not in done.stdout
    assert b"EXTRA" in done.stdout
    assert str(tmp_path).encode() in done.stdout
    assert done.stderr == b"from stdin"


async def test_output_is_cut_to_its_end() -> None:
    done = await LocalProcesses().run([sys.executable, "-c", "print('a' * 100_000 + 'end')"], deadline=30)
    assert len(done.stdout) == 64 * 1024
    assert done.stdout.endswith(b"end\n")


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no-such-program"):
        await LocalProcesses().run(["/no-such-program"], deadline=5)


@pytest.mark.parametrize("code", ["import time; time.sleep(60)"])
async def test_a_program_that_takes_too_long_is_ended(code: str) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0.3 s"):
        await LocalProcesses().run([sys.executable, "-c", code], deadline=0.3)


async def test_one_that_ignores_the_term_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yoban.testing.context._GRACE", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with pytest.raises(DeadlineExceeded):
        await LocalProcesses().run([sys.executable, "-c", code], deadline=1.0)
