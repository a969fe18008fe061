"""Server-side apply in small, for the fake API server: which manager owns which field.

Guarantees: fields of several managers merge; a field that its only manager leaves out is removed; taking over another
manager's field with another value is a conflict, unless forced. Knows the merge keys of the lists that matter to
controllers by their names; all other lists are atomic. Does not know schemas or defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

Path = tuple[str, ...]
_ABSENT = object()

_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
}
_SETS = frozenset(("finalizers",))
_NOT_OWNED = frozenset(
    (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "generateName",
        "selfLink",
    )
)


def _list_key(field: str, entries: list[Any]) -> tuple[str, ...] | None:
    """The names of the fields that tell entries apart, () for a set, None for an atomic list."""
    if field in _SETS:
        return ()
    if field == "ports" and entries and all(isinstance(e, dict) for e in entries):
        return ("containerPort", "protocol") if "containerPort" in entries[0] else ("port", "protocol")
    keys = _MERGE_KEYS.get(field)
    if keys and all(isinstance(e, dict) and all(k in e for k in keys) for e in entries):
        return keys
    return None


def _element(keys: tuple[str, ...], entry: Any) -> str:
    if not keys:
        return "v:" + json.dumps(entry)
    values = {k: entry.get(k, "TCP" if k == "protocol" else None) for k in keys}
    return "k:" + json.dumps(values, sort_keys=True)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field of `value` with its value; entries of keyed lists are paths of their own."""
    field = path[-1][2:] if path and path[-1].startswith("f:") else ""
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            if path == () and name in ("apiVersion", "kind"):
                continue
            if path == ("f:metadata",) and name in _NOT_OWNED:
                continue
            yield from leaves(entry, (*path, f"f:{name}"))
        return
    if isinstance(value, list) and value:
        keys = _list_key(field, value)
        if keys is not None:
            for entry in value:
                element = (*path, _element(keys, entry))
                if isinstance(entry, dict):
                    yield (*element, "."), {}
                    yield from leaves(entry, element)
                else:
                    yield element, entry
            return
    if path:
        yield path, value


def lookup(value: Any, path: Path) -> Any:
    """What is at `path`; a marker that equals nothing when there is nothing."""
    for number, step in enumerate(path):
        if step == ".":
            return {}
        if step.startswith("f:"):
            if not isinstance(value, dict) or step[2:] not in value:
                return _ABSENT
            value = value[step[2:]]
        else:
            field = path[number - 1][2:]
            found = _find(value, field, step)
            if found is None:
                return _ABSENT
            value = value[found]
    return value


def _find(entries: Any, field: str, step: str) -> int | None:
    if not isinstance(entries, list):
        return None
    keys = _list_key(field, entries)
    if keys is None:
        return None
    return next((n for n, entry in enumerate(entries) if _element(keys, entry) == step), None)


def merge(live: Any, applied: Any, field: str = "") -> Any:
    """`applied` laid over `live`."""
    if isinstance(live, dict) and isinstance(applied, dict):
        result = dict(live)
        for name, value in applied.items():
            result[name] = merge(live[name], value, name) if name in live else value
        return result
    if isinstance(live, list) and isinstance(applied, list):
        keys = _list_key(field, [*live, *applied])
        if keys is not None:
            result_list = list(live)
            for entry in applied:
                found = _find(result_list, field, _element(keys, entry))
                if found is None:
                    result_list.append(entry)
                else:
                    result_list[found] = merge(result_list[found], entry)
            return result_list
    return applied


def remove(value: Any, path: Path) -> None:
    """Take the field at `path` out of `value`, in place, and the maps and lists that become empty by it."""
    chain: list[tuple[Any, Any]] = []
    here = value
    for number, step in enumerate(path):
        index: Any
        if step.startswith("f:"):
            index = step[2:]
            if not isinstance(here, dict) or index not in here:
                return
        else:
            index = _find(here, path[number - 1][2:], step)
            if index is None:
                return
        chain.append((here, index))
        here = here[index]
    holder, index = chain.pop()
    del holder[index]
    while chain and not holder:
        inner = holder
        holder, index = chain.pop()
        if holder[index] is inner and len(chain) >= 1:
            del holder[index]


def _removals(given_up: set[Path], others: Sequence[Path]) -> list[Path]:
    """What goes when `given_up` is owned no more: list entries as a whole where nobody else has a field in them."""
    entries = [path[:-1] for path in given_up if path[-1] == "." and not _within(others, path[:-1])]
    result = [path for path in entries if not any(path != e and path[: len(e)] == e for e in entries)]
    for path in sorted(given_up, key=len, reverse=True):
        if path[-1] == "." or path in others or any(path[: len(e)] == e for e in entries):
            continue
        keyed = len(path) > 1 and path[-2].startswith("k:") and path[-1][2:] in json.loads(path[-2][2:])
        if not keyed:  # the key of an entry that stays, stays
            result.append(path)
    return result


def _within(paths: Sequence[Path], prefix: Path) -> bool:
    return any(path[: len(prefix)] == prefix for path in paths)


def to_fields_v1(paths: set[Path]) -> dict[str, Any]:
    """The `fieldsV1` form of a set of paths."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
    return tree


class Ownership:
    """The managers of one object: (manager, operation, subresource) -> the fields it owns."""

    def __init__(self) -> None:
        self.fields: dict[tuple[str, str, str], set[Path]] = {}

    def apply(
        self, manager: str, subresource: str, live: Any, applied: Any, *, force: bool
    ) -> tuple[Any, list[tuple[str, Path]]]:
        """The object after `applied` (a part of an object), and conflicts as (manager, path); with those nothing changed."""
        wanted = dict(leaves(applied))
        me = (manager, "Apply", subresource)
        conflicts = []
        for other, owned in self.fields.items():
            if other == me:
                continue
            for path in owned & wanted.keys():
                if lookup(live, path) != wanted[path]:
                    conflicts.append((other[0], path))
        if conflicts and not force:
            return live, conflicts
        for other, owned in self.fields.items():
            if other != me:
                owned -= {path for _, path in conflicts}
        before = self.fields.get(me, set())
        self.fields[me] = set(wanted)
        result = json.loads(json.dumps(merge(live, applied)))
        given_up = before - wanted.keys()
        others = [path for owner, owned in self.fields.items() if owner != me for path in owned]
        for path in _removals(given_up, others):
            remove(result, path)
        self._drop_empty()
        return result, []

    def update(self, manager: str, subresource: str, old: Any, new: Any) -> None:
        """Note who wrote what differs between `old` and `new`."""
        was, is_ = dict(leaves(old)), dict(leaves(new))
        changed = {path for path, value in is_.items() if path not in was or was[path] != value}
        gone = was.keys() - is_.keys()
        me = (manager, "Update", subresource)
        for other, owned in self.fields.items():
            owned -= gone
            if other != me:
                owned -= changed
        if changed:
            self.fields.setdefault(me, set()).update(changed)
        self._drop_empty()

    def _drop_empty(self) -> None:
        self.fields = {owner: owned for owner, owned in self.fields.items() if owned}

    def render(self, api_version: str, time: str) -> list[dict[str, Any]]:
        """The `managedFields` of the object."""
        entries = []
        for (manager, operation, subresource), paths in sorted(self.fields.items()):
            entry: dict[str, Any] = {
                "manager": manager,
                "operation": operation,
                "apiVersion": api_version,
                "time": time,
                "fieldsType": "FieldsV1",
                "fieldsV1": to_fields_v1(paths),
            }
            if subresource:
                entry["subresource"] = subresource
            entries.append(entry)
        return entries
