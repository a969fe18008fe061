"""Programs are run to their end, or ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from yoban.agent import processes
from yoban.agent.processes import ImageProcesses
from yoban.errors import DeadlineExceeded, NotFound


@pytest.fixture
def run(tmp_path: Path) -> ImageProcesses:
    return ImageProcesses("/home/engine", tmp_path)


async def test_result_input_and_a_clean_environment(run: ImageProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/opt/yoban")
    done = await run.run(["sh", "-c", "cat; env >&2; exit 7"], deadline=10, stdin=b"secret", env={"EXTRA": "1"})
    assert (done.code, done.stdout) == (7, b"secret")
    env = dict(line.split("=", 1) for line in done.stderr.decode().splitlines())
    assert env["HOME"] == "/home/engine"
    assert env["EXTRA"] == "1"
    assert "PYTHONHOME" not in env


async def test_output_is_cut_to_its_end(run: ImageProcesses) -> None:
    done = await run.run(["sh", "-c", "head -c 200000 /dev/zero; echo end"], deadline=10)
    assert len(done.stdout) == processes.KEPT
    assert done.stdout.endswith(b"end\n")


async def test_a_missing_program(run: ImageProcesses) -> None:
    with pytest.raises(NotFound):
        await run.run(["/nowhere/at/all"], deadline=10)


async def test_the_deadline_ends_it_with_all_it_started(
    run: ImageProcesses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "TERM_TO_KILL", 0.2)
    file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        await run.run(["sh", "-c", f"trap '' TERM; sh -c 'echo $$ > {file}; exec sleep 60'"], deadline=0.5)
    assert not Path(f"/proc/{file.read_text().strip()}/exe").exists() or _zombie(int(file.read_text()))


async def test_a_caller_that_goes_takes_it_along(run: ImageProcesses, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    task = asyncio.create_task(run.run(["sh", "-c", f"echo $$ > {file}; exec sleep 60"], deadline=60))
    while not (file.exists() and file.read_text().strip()):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int(file.read_text())
    assert not Path(f"/proc/{pid}").exists() or _zombie(pid)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_engines_home_is_no_secret_of_ours() -> None:
    assert "YOBAN_POD" not in ImageProcesses("/", Path("/tmp"))._base
    assert os.environ is not ImageProcesses("/", Path("/tmp"))._base
