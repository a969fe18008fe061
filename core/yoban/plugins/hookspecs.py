"""The two hooks by which a plugin declares what it supplies.

Both are called once, at start-up of each process, synchronously. They must not do I/O. Asynchronous work is done later
through the returned objects' methods, which core awaits with its own deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from yoban.plugins.engine import Engine
    from yoban.plugins.objectstore import ObjectStoreProvider

PROJECT = "yoban"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin module as an implementation of a hook. The only pluggy name that authors need."""


class HookSpecs:
    """Hooks that a plugin may implement."""

    @hookspec
    def yoban_engines(self) -> Iterable[Engine]:
        """Return the engines of this plugin. Called once a process; an empty iterable is fine, None is not."""
        raise AssertionError("a specification is never called")

    @hookspec
    def yoban_object_stores(self) -> Iterable[ObjectStoreProvider]:
        """Return the providers of object stores of this plugin. Called once a process."""
        raise AssertionError("a specification is never called")
