"""`yoban plugins`: what is installed, what it can do, and why something is not enabled.

Exits with 1 and the registry's message when a plugin breaks the contract, as the operator would.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from yoban.cli import table


def main(arguments: Sequence[str]) -> int:
    """Print the table, or the same as JSON. Raises PluginError."""
    from yoban.plugins.registry import Registry

    parser = argparse.ArgumentParser(
        prog="yoban plugins",
        description="List plugins. YOBAN_PLUGINS names those to enable, YOBAN_PLUGINS_DISABLED those to leave out.",
    )
    parser.add_argument("--output", "-o", choices=("table", "json"), default="table", help="form of the output")
    options = parser.parse_args(arguments)
    rows = Registry.from_environment().table()
    if options.output == "json":
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    head = ("NAME", "KIND", "DISTRIBUTION", "VERSION", "API", "CAPABILITIES", "ENABLED")
    lines = [
        (
            row.name,
            row.kind,
            row.source.distribution,
            row.source.version,
            row.api,
            ",".join(row.capabilities),
            "yes" if row.enabled else f"no: {row.note}",
        )
        for row in rows
    ]
    print(table.render(head, lines))
    return 0
