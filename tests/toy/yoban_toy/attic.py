"""The same engine under another name, as a plugin of its own: one that an operator has and did not enable."""

from __future__ import annotations

from collections.abc import Iterable

import yoban.plugins as api

from yoban_toy import ToyEngine

YOBAN_PLUGIN_API = (1, 0)


class AtticEngine(ToyEngine):
    """What nobody plays with any more."""

    name = "attic"
    title = "Attic"


@api.hookimpl
def yoban_engines() -> Iterable[api.Engine]:
    """See `HookSpecs.yoban_engines`."""
    return [AtticEngine()]
