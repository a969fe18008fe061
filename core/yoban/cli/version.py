"""`yoban version`: the version of this program and of the plugin API."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence

from yoban import __version__


def main(arguments: Sequence[str]) -> int:
    """Print the version. Never fails."""
    from yoban.plugins.version import API_VERSION

    argparse.ArgumentParser(prog="yoban version", description="Print the version.").parse_args(arguments)
    print(f"yoban {__version__}, plugin API {API_VERSION[0]}.{API_VERSION[1]}, Python {platform.python_version()}")
    return 0
