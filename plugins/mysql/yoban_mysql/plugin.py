"""Entry point of the distribution: declares the engine. Imports only the pure part; the driver loads when first used."""

from __future__ import annotations

from collections.abc import Iterable

from yoban.plugins import Engine, hookimpl

YOBAN_PLUGIN_API = (1, 0)


@hookimpl
def yoban_engines() -> Iterable[Engine]:
    """Return the MySQL engine."""
    from yoban_mysql.engine import MySqlEngine

    return [MySqlEngine()]
