"""How long a copy will take, told before it is made."""

from __future__ import annotations

import pytest
from yoban_mysql.backup import ASSUMED, TELLING, speed


@pytest.mark.parametrize(
    ("copied", "seconds", "expected"),
    [
        (0, 0.0, ASSUMED),  # none was made yet
        (TELLING - 1, 0.001, ASSUMED),  # too small to tell
        (TELLING, 0.0, ASSUMED),
        (100 << 30, 100.0, float(1 << 30)),
        (1 << 30, 16.0, float(64 << 20)),
    ],
)
def test_the_last_copy_tells_where_it_can(copied: int, seconds: float, expected: float) -> None:
    assert speed(copied, seconds) == expected
