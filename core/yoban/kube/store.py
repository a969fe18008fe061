"""The objects of one kind as last heard from the API server, with indices.

Guarantees: every change happens in one call without an await, so whoever reads on the same loop sees a whole state; an index
never keeps an empty set. Objects are shared: they must not be changed (`yoban.kube.mutation` finds who does). Does not talk
to a server: that is the reflector's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from yoban.kube.objects import Obj, ObjectKey, key_of

IndexFunction = Callable[[Obj], Iterable[str]]
"""Pure and total: the values under which an object is found, for any object."""

_NONE: frozenset[ObjectKey] = frozenset()


class Store:
    """Objects by key, and keys by index value.

    Args:
        indexers: functions by index name.
    """

    def __init__(self, indexers: Mapping[str, IndexFunction] | None = None) -> None:
        self._objects: dict[ObjectKey, Obj] = {}
        self._indexers: dict[str, IndexFunction] = {}
        self._indices: dict[str, dict[str, set[ObjectKey]]] = {}
        for name, function in (indexers or {}).items():
            self.add_indexer(name, function)

    def add_indexer(self, name: str, function: IndexFunction) -> None:
        """Index what is there and what will come; ValueError when another function has the name already."""
        known = self._indexers.get(name)
        if known is function:
            return
        if known is not None:
            raise ValueError(f"there is an index {name!r} already")
        self._indexers[name] = function
        self._indices[name] = {}
        for key, obj in self._objects.items():
            self._index(name, key, obj)

    def get(self, key: ObjectKey) -> Obj | None:
        """The object, not to be changed, or None."""
        return self._objects.get(key)

    def objects(self, namespace: str | None = None) -> list[Obj]:
        """All objects, or those of one namespace; the list is the caller's, the objects are not."""
        if namespace is None:
            return list(self._objects.values())
        return [obj for key, obj in self._objects.items() if key.namespace == namespace]

    def keys(self) -> list[ObjectKey]:
        """The keys of all objects."""
        return list(self._objects)

    def by_index(self, name: str, value: str) -> list[Obj]:
        """The objects that index `name` has under `value`; KeyError for an unknown index."""
        objects = self._objects
        return [objects[key] for key in self._indices[name].get(value, _NONE)]

    def index_values(self, name: str) -> list[str]:
        """The values that index `name` has; KeyError for an unknown index."""
        return list(self._indices[name])

    def put(self, obj: Obj) -> Obj | None:
        """Store `obj` and return what it takes the place of."""
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None:
            self._unindex(key, old)
        self._objects[key] = obj
        for name in self._indexers:
            self._index(name, key, obj)
        return old

    def remove(self, key: ObjectKey) -> Obj | None:
        """Forget the object and return it, or None when it was not there."""
        old = self._objects.pop(key, None)
        if old is not None:
            self._unindex(key, old)
        return old

    def _index(self, name: str, key: ObjectKey, obj: Obj) -> None:
        index = self._indices[name]
        for value in self._indexers[name](obj):
            index.setdefault(value, set()).add(key)

    def _unindex(self, key: ObjectKey, obj: Obj) -> None:
        for name, function in self._indexers.items():
            index = self._indices[name]
            for value in function(obj):
                keys = index.get(value)
                if keys is not None:
                    keys.discard(key)
                    if not keys:
                        del index[value]

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[Obj]:
        return iter(list(self._objects.values()))


def by_owner_uid(obj: Obj) -> Iterable[str]:
    """Index function: the uids of all owners."""
    return [r["uid"] for r in obj.get("metadata", {}).get("ownerReferences") or () if r.get("uid")]


def by_label(label: str) -> IndexFunction:
    """An index function: the value of one label, nothing for objects without it."""

    def index(obj: Obj) -> Iterable[str]:
        value = (obj.get("metadata", {}).get("labels") or {}).get(label)
        return (value,) if value is not None else ()

    return index
