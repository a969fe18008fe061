"""Grows volumes of the lab's expandable class: what a storage system's resizer does elsewhere.

`python -m deploy.lab.resizer URL CA_FILE TOKEN_FILE` follows claims until it is ended. The lab's volumes are folders of
a disk without quota, so that growing one is writing the new size into its objects. Guarantees that a claim's status
reaches what its owner asked for; a volume never shrinks (the API server refuses that).
"""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STORAGE_CLASS = "lab-expandable"
_PAUSE = 1.0
_WATCH_SECONDS = 240
_CLAIMS = "/api/v1/persistentvolumeclaims"
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "": 1}


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity such as `1Gi`; raises `ValueError` for one that no volume has."""
    number = text.rstrip("KMGTik")
    return int(float(number) * _UNITS[text[len(number) :]]) if text[len(number) :] in _UNITS else int(text)


def wanted(claim: dict[str, Any]) -> str | None:
    """The size to grow a claim's volume to, `None` when there is nothing to do."""
    spec, status = claim["spec"], claim.get("status", {})
    if spec.get("storageClassName") != STORAGE_CLASS or status.get("phase") != "Bound":
        return None
    asked: str = spec["resources"]["requests"]["storage"]
    there = status.get("capacity", {}).get("storage", "0")
    return asked if quantity(asked) > quantity(there) else None


class Resizer:
    """Follows the claims of one API server."""

    def __init__(self, url: str, authority: Path, token: str):
        self._url = url
        self._context = ssl.create_default_context(cafile=authority)
        self._token = token

    def run(self) -> None:
        """List, watch, and again, for ever; what fails is tried again with the next list."""
        while True:
            try:
                listed = json.loads(b"".join(self._request("GET", _CLAIMS)))
                for claim in listed["items"]:
                    self._grow(claim)
                version = listed["metadata"]["resourceVersion"]
                query = f"?watch=1&resourceVersion={version}&timeoutSeconds={_WATCH_SECONDS}"
                for line in self._request("GET", _CLAIMS + query):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    if event["type"] != "DELETED":
                        self._grow(event["object"])
            except (OSError, ValueError, KeyError) as error:
                sys.stderr.write(f"resizer: {error}\n")
            time.sleep(_PAUSE)

    def _grow(self, claim: dict[str, Any]) -> None:
        size = wanted(claim)
        if size is None:
            return
        name, namespace = claim["metadata"]["name"], claim["metadata"]["namespace"]
        volume = claim["spec"]["volumeName"]
        capacity = {"capacity": {"storage": size}}
        self._patch(f"/api/v1/persistentvolumes/{volume}", {"spec": capacity})
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}/status"
        self._patch(path, {"status": capacity})
        sys.stderr.write(f"resizer: {namespace}/{name} is now {size}\n")

    def _patch(self, path: str, change: dict[str, Any]) -> None:
        for _ in self._request("PATCH", path, json.dumps(change).encode()):
            continue

    def _request(self, method: str, path: str, body: bytes | None = None) -> Iterator[bytes]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/merge-patch+json"}
        request = urllib.request.Request(self._url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_WATCH_SECONDS + 30, context=self._context) as answer:
                yield from answer
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{method} {path}: {error.code} {error.read(300)!r}") from error


if __name__ == "__main__":
    Resizer(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).read_text()).run()
