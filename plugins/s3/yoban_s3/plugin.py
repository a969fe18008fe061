"""Entry point of the plugin. Importing it costs nothing: the SDK is loaded when the first store is opened."""

from __future__ import annotations

from collections.abc import Iterable

from yoban.plugins import ObjectStoreProvider, hookimpl

from yoban_s3.provider import S3Provider

YOBAN_PLUGIN_API = (1, 0)


@hookimpl
def yoban_object_stores() -> Iterable[ObjectStoreProvider]:
    """Declare the provider `s3`."""
    return [S3Provider()]
