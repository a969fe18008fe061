"""Entry point of the distribution: declares the engine. Imports only the pure part; drivers load when first used."""

from __future__ import annotations

from collections.abc import Iterable

from yoban.plugins import Engine, hookimpl

YOBAN_PLUGIN_API = (1, 0)


@hookimpl
def yoban_engines() -> Iterable[Engine]:
    """Return the PostgreSQL engine."""
    from yoban_postgres.engine import PostgresEngine

    return [PostgresEngine()]
