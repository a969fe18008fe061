"""The rule of tests/conftest.py: under CI=true nothing that needs a real server may be skipped silently."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.lab.layout import REPOSITORY

_TESTS = """
import pytest

@pytest.mark.server
def test_needs_a_server():
    pytest.skip("no server here")

@pytest.mark.lab
@pytest.mark.skipif(True, reason="no lab here")
def test_needs_the_lab():
    raise AssertionError

@pytest.mark.lab
@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
def test_expected_to_fail():
    1 / 0

def test_needs_neither():
    pytest.skip("a matter of taste")
"""


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", "1 failed, 1 skipped, 1 xfailed, 1 error"), ("", "3 skipped, 1 xfailed")]
)
def test_ci_turns_skips_of_servers_into_failures(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_some.py").write_text(_TESTS)
    words = [
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-c",
        str(REPOSITORY / "pyproject.toml"),
        str(tmp_path),
    ]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert outcome in done.stdout, done.stdout + done.stderr
    assert ("must not be skipped" in done.stdout) == bool(ci)
