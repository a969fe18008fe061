"""`yoban agent`: the agent of one instance; the same as `python -m yoban.agent`, which the supervisor starts."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the agent until it is told to stop; its settings come from the Pod's environment and mounts."""
    parser = argparse.ArgumentParser(prog="yoban agent", description=main.__doc__)
    parser.parse_args(arguments)
    return int(importlib.import_module("yoban.agent.main").main())
