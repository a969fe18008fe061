"""A request to the fake API server in RBAC's words, read from method, path and query.

Guarantees: any target that `yoban.kube.client` builds is read back to what it was built from. Does not validate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a fault or a test sees it; `verb` and `resource` are RBAC's words."""

    verb: str
    group: str
    version: str
    resource: str  # plural
    subresource: str
    namespace: str
    name: str
    query: Mapping[str, str]
    body: Any

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.verb not in ("get", "list", "watch")


def parse_request(method: str, target: str, body: bytes | None) -> Request:
    """What `method` and `target` (path and query, quoted) ask for."""
    path, _, query_text = target.partition("?")
    query = {k: v[-1] for k, v in parse_qs(query_text, keep_blank_values=True).items()} if query_text else {}
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] not in ("api", "apis"):  # `/readyz` and its like: no resource, named by their path
        return Request(_VERBS.get(method, "get"), "", "", path, "", "", "", query, None)
    group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = [*rest, "", "", ""][:3]
    verb = _VERBS.get(method) or ("get" if name else "watch" if query.get("watch") == "true" else "list")
    decoded = msgspec.json.decode(body) if body else None
    return Request(verb, group, version, plural, subresource, namespace, name, query, decoded)
