"""Whether a live object already is as desired, as pure functions.

Guarantees: `covers` never says yes when a desired field is missing or different; lists that Kubernetes merges by a key
(names of containers, types of conditions …) may hold more entries than desired, others may not. It may say no where the
server only writes a value in another form (`1000m` as `1`): the applier remembers such forms. Of schemas it knows the names
of those lists, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

_MERGE_KEYS = ("name", "uid", "type", "mountPath", "devicePath", "containerPort", "port", "ip", "key", "topologyKey")
_MAPS = frozenset(
    (
        "claims",
        "conditions",
        "containers",
        "env",
        "ephemeralContainers",
        "hostAliases",
        "imagePullSecrets",
        "initContainers",
        "ownerReferences",
        "ports",  # but see _RULES
        "resourceClaims",
        "secrets",
        "topologySpreadConstraints",
        "volumeDevices",
        "volumeMounts",
        "volumes",
    )
)
"""Lists that are maps in the schemas (`x-kubernetes-list-type: map`): an apply leaves others' entries in them alone, so they
are no drift. In all other lists an entry too many is drift, and an apply takes it away."""
_SETS = frozenset(("finalizers",))
_RULES = frozenset(("ingress", "egress"))
"""Of a NetworkPolicy: the lists below them, `ports` too, belong to one manager as a whole."""


def covers(live: Any, desired: Any) -> bool:
    """Whether every field of `desired` is in `live` with that value."""
    return _covers(live, desired, "", in_rule=False)


def _covers(live: Any, desired: Any, field: str, *, in_rule: bool) -> bool:
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return not desired and live is None  # an empty map may be dropped by the server
        for name, value in desired.items():
            if name not in live:
                if value in (None, {}, []):
                    continue
                return False
            if not _covers(live[name], value, name, in_rule=in_rule or name in _RULES):
                return False
        return True
    if isinstance(desired, list):
        if not isinstance(live, list):
            return not desired and live is None
        return _covers_list(live, desired, field, in_rule=in_rule)
    if isinstance(desired, bool) or isinstance(live, bool):
        return desired is live
    return bool(live == desired)


def _covers_list(live: list[Any], desired: list[Any], field: str, *, in_rule: bool) -> bool:
    if field in _SETS:
        return all(entry in live for entry in desired)
    if len(live) == len(desired):
        if all(_covers(a, b, "", in_rule=in_rule) for a, b in zip(live, desired, strict=True)):
            return True
    elif not _is_map(field, in_rule):
        return False
    key = merge_key(desired, live)
    if key is None:
        return False
    by_key = {entry[key]: entry for entry in live}
    return all(entry[key] in by_key and _covers(by_key[entry[key]], entry, "", in_rule=in_rule) for entry in desired)


def _is_map(field: str, in_rule: bool) -> bool:
    return field in _MAPS and not in_rule


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
    return _project(live, desired, "", in_rule=False)


def _project(live: Any, desired: Any, field: str, *, in_rule: bool) -> Any:
    if isinstance(desired, dict) and isinstance(live, dict):
        return {
            name: _project(live[name], value, name, in_rule=in_rule or name in _RULES)
            for name, value in desired.items()
            if name in live
        }
    if isinstance(desired, list) and isinstance(live, list):
        if field in _SETS:
            return [entry for entry in desired if entry in live]
        if len(live) == len(desired):
            return [_project(a, b, "", in_rule=in_rule) for a, b in zip(live, desired, strict=True)]
        key = merge_key(desired, live) if _is_map(field, in_rule) else None
        if key is not None:
            by_key = {entry[key]: entry for entry in live}
            return [
                _project(by_key[entry[key]], entry, "", in_rule=in_rule) for entry in desired if entry[key] in by_key
            ]
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
