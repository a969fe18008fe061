"""Whether two ObjectStores may keep their data in one bucket. Pure.

Guarantees: names that can mean the same service are taken for the same, also when they need not be: who errs this way
only waits. Does not know that an address and a name are the same server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_SERVICE = re.compile(r"([^.]+(?:\.[^.]+)+?)\.svc(\..*)?")
"""Name of a Service, or of a Pod of one: what follows `svc` is the cluster's domain."""
_USUAL = (None, 80, 443)


@dataclass(frozen=True, slots=True)
class Service:
    """A service's address, as far as two of them are compared: its host, a port that is not a usual one, a path."""

    host: str
    port: int | None
    path: str

    @property
    def is_public(self) -> bool:
        """It may be the provider's own: no address, and no name that counts within a cluster only."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.count(".") > 1
        return False


def service(endpoint: str) -> Service | None:
    """Return what an endpoint names; None for the provider's own."""
    text = endpoint.strip()
    if not text:
        return None
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        return Service(text.lower().rstrip("/"), None, "")
    host = host.rstrip(".")
    found = _SERVICE.fullmatch(host)
    return Service(found[1] if found else host, None if port in _USUAL else port, url.path.rstrip("/"))


def may_be_one(left: str, right: str) -> bool:
    """Tell whether two endpoints may name the same service."""
    ours, theirs = service(left), service(right)
    if ours is None or theirs is None:
        named = ours or theirs
        return named is None or named.is_public
    if (ours.port, ours.path) != (theirs.port, theirs.path):
        return False
    short, long = sorted((ours.host, theirs.host), key=len)
    # `minio` in its own namespace is `minio.shop` from others.
    return short == long or ("." not in short and long.count(".") == 1 and long.startswith(f"{short}."))


def may_share(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Tell whether two ObjectStores, by their specs, may name the same bucket."""
    same = all(left.get(field) == right.get(field) for field in ("provider", "bucket"))
    return same and may_be_one(str(left.get("endpoint") or ""), str(right.get("endpoint") or ""))
