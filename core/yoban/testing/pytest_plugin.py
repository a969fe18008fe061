"""Fixtures for plugin authors, active wherever the distribution `yoban` is installed.

Guarantees to import nothing of Yoban until a fixture is asked for, so that it costs other projects' tests nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from yoban.plugins import InstanceContext


@pytest.fixture
def yoban_context(tmp_path: Path) -> Callable[..., InstanceContext]:
    """A factory of `InstanceContext` on a temporary folder: `yoban_context(version="17", settings={…})`.

    See `yoban.testing.context.make_context` for its arguments.
    """
    from yoban.testing.context import make_context

    def make(**changes: object) -> InstanceContext:
        return make_context(tmp_path, **changes)

    return make
