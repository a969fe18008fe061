"""Option files: what is written is what is read back."""

from __future__ import annotations

import pytest
from yoban_mysql.options import parse, text


@pytest.mark.parametrize("strange", ["\x85", "\u2028", "\u2029", "\x1c", "\x0b", "\x0c"])
def test_bug_a_value_with_a_rare_line_separator_was_never_read_back_as_written(strange: str) -> None:
    """So it was taken for changed, and set, for ever."""
    options = {"init_connect": f"SET @a = '{strange}'", "z": "last"}
    assert parse(text(options)) == options
