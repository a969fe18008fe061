"""What an agent loads for its connections."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
{before}
from yoban_mysql import driver
assert "asyncmy" not in sys.modules, "only with the first connection"
asyncmy = driver.load()
assert driver.load() is asyncmy
assert asyncmy.connection.Connection and asyncmy.errors.MySQLError
print(asyncmy.auth._have_cryptography)
import cryptography.hazmat.backends
from cryptography.hazmat.primitives import hashes
assert hashes.SHA256().digest_size == 32
"""


@pytest.mark.parametrize(
    ("before", "has"), [("", "False"), ("import cryptography.hazmat.backends", "True")], ids=["agent", "who has it"]
)
def test_the_driver_is_loaded_without_a_library_that_nobody_needs(before: str, has: str) -> None:
    """And who needs the library afterwards still gets it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(before=before)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == [has], done.stderr
