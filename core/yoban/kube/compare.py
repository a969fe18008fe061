"""Whether a live object already is as desired, as pure functions.

Guarantees: `covers` never says yes when a desired field is missing or different; lists that Kubernetes merges by a key
(names of containers, types of conditions …) may hold more entries than desired. It may say no where the server only
writes a value in another form (`1000m` as `1`): the applier remembers such forms. Does not know schemas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

_MERGE_KEYS = ("name", "uid", "type", "mountPath", "devicePath", "containerPort", "port", "ip", "key", "topologyKey")


def covers(live: Any, desired: Any) -> bool:
    """Whether every field of `desired` is in `live` with that value."""
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return not desired and live is None  # an empty map may be dropped by the server
        for name, value in desired.items():
            if name not in live:
                if value in (None, {}, []):
                    continue
                return False
            if not covers(live[name], value):
                return False
        return True
    if isinstance(desired, list):
        if not isinstance(live, list):
            return not desired and live is None
        return _covers_list(live, desired)
    if isinstance(desired, bool) or isinstance(live, bool):
        return desired is live
    return bool(live == desired)


def _covers_list(live: list[Any], desired: list[Any]) -> bool:
    if len(live) == len(desired) and all(covers(a, b) for a, b in zip(live, desired, strict=True)):
        return True
    key = merge_key(desired, live)
    if key is None:
        return False
    by_key = {entry[key]: entry for entry in live}
    return all(entry[key] in by_key and covers(by_key[entry[key]], entry) for entry in desired)


def merge_key(*lists: list[Any]) -> str | None:
    """The key by which the entries of all `lists` can be told apart, or None for lists of another kind."""
    for key in _MERGE_KEYS:
        if all(_is_key(key, entries) for entries in lists):
            return key
    return None


def _is_key(key: str, entries: list[Any]) -> bool:
    if not all(isinstance(entry, dict) and isinstance(entry.get(key), str | int) for entry in entries):
        return False
    return len({entry[key] for entry in entries}) == len(entries)


def project(live: Any, desired: Any) -> Any:
    """The part of `live` that `desired` speaks of, in the form in which the server has it."""
    if isinstance(desired, dict) and isinstance(live, dict):
        return {name: project(live[name], value) for name, value in desired.items() if name in live}
    if isinstance(desired, list) and isinstance(live, list):
        if len(live) == len(desired):
            return [project(a, b) for a, b in zip(live, desired, strict=True)]
        key = merge_key(desired, live)
        if key is not None:
            by_key = {entry[key]: entry for entry in live}
            return [project(by_key[entry[key]], entry) for entry in desired if entry[key] in by_key]
    return live


def shape(obj: Any) -> str:
    """A hash of which fields `obj` has, its values left out (they may be secret): tells when a field is no longer desired."""
    paths = sorted(_paths(obj, ""))
    return hashlib.blake2b("\n".join(paths).encode(), digest_size=8).hexdigest()


def _paths(obj: Any, path: str) -> Iterable[str]:
    if isinstance(obj, dict) and obj:
        for name, value in obj.items():
            yield from _paths(value, f"{path}/{name}")
    elif isinstance(obj, list) and obj:
        key = merge_key(obj)
        for number, entry in enumerate(obj):
            yield from _paths(entry, f"{path}[{entry[key] if key else number}]")
    else:
        yield path


def digest(obj: Any) -> bytes:
    """A hash of everything in `obj`, for memory only: it must not be stored where a value may be secret."""
    return hashlib.blake2b(msgspec.json.encode(obj, order="sorted"), digest_size=16).digest()
