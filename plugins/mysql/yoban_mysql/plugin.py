"""Entry point of the plugin: it is there to be listed, and supplies no engine yet."""

from __future__ import annotations

from collections.abc import Iterable

from yoban.plugins import Engine, hookimpl

YOBAN_PLUGIN_API = (1, 0)
YOBAN_PLUGIN_STATUS = "not yet implemented"


@hookimpl
def yoban_engines() -> Iterable[Engine]:
    """Supply nothing: a Database with `engine: mysql` is told that it is not yet implemented."""
    return []
