"""What is rarely needed is not loaded at the start: memory that each operator and each agent would spend."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LATER = (
    "aiobotocore", "asyncmy", "asyncpg", "botocore", "cryptography", "kubernetes_asyncio", "numpy", "yaml",
)  # fmt: skip
LATER = {
    "yoban.cli.operator": _LATER,
    "yoban.agent.main": _LATER,
}


@pytest.mark.parametrize("program", LATER)
def test_programs_load_later_what_is_rarely_needed(program: str) -> None:
    script = f"import {program}, sys; print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(set(done.stdout.split()) & set(LATER[program])) == []
