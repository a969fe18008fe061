"""What the SDK knows of the service, without what nobody here asks for.

Guarantees: everything that a client of S3, and of the services that give it credentials, needs is there and unchanged.
Left out are descriptions of the API for people, and endpoints of the SDK's other services: nine of twelve MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader, Loader

SERVICES = frozenset({"s3", "sts", "oidc", "portal.sso"})
"""Whose endpoints are kept: the store's, and those where credentials come from."""
_READ = (
    ("s3", "service-2"),
    ("s3", "endpoint-rule-set-1"),
)
_READ_ALWAYS = ("_retry", "endpoints", "partitions", "sdk-default-configuration")


class Files(JSONFileLoader):  # type: ignore[misc]
    """Reads the SDK's JSON files, those of the endpoints and of services without what is left out."""

    def _load_file(self, full_path: str, open_method: Any) -> Any:
        hook = _HOOKS.get(Path(full_path).name.partition(".")[0])
        try:
            with open_method(full_path, "rb") as file:
                return json.load(file, object_pairs_hook=hook)
        except FileNotFoundError:
            return None


def _without_text(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A member that happens to have such a name is no text."""
    return {key: "" if key == "documentation" and isinstance(value, str) else value for key, value in pairs}


def _without_others(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if "partition" in found:
        found["services"] = {name: entry for name, entry in found["services"].items() if name in SERVICES}
    return found


_HOOKS = {"service-2": _without_text, "endpoints": _without_others}


def loaded() -> Loader:
    """Return a loader that has read what a client of S3 needs. Blocks for a moment."""
    loader = Loader(file_loader=Files())
    for name in _READ_ALWAYS:
        loader.load_data_with_path(name)
    for service, kind in _READ:
        loader.load_service_model(service, kind)
    return loader
