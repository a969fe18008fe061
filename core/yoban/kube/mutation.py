"""Finding whoever changes an object that the cache shares with everybody.

Guarantees: a change of any stored object since it was noted is found by the next `check`. It costs a hash for each object, so
it is for tests (and for `YOBAN_DETECT_MUTATION`), not for production.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from yoban.kube.objects import Obj, ObjectKey, key_of


class CacheMutated(AssertionError):
    """Somebody changed a cached object in place; take `yoban.kube.objects.copy` before editing."""


def fingerprint(obj: Obj) -> str:
    """A hash of everything in `obj`."""
    return hashlib.blake2b(msgspec.json.encode(obj, order="sorted"), digest_size=16).hexdigest()


class MutationDetector:
    """Hashes objects when they are stored and compares later."""

    def __init__(self) -> None:
        self._noted: dict[ObjectKey, tuple[int, str]] = {}

    def note(self, obj: Obj) -> None:
        """Remember how `obj` looks now."""
        self._noted[key_of(obj)] = (id(obj), fingerprint(obj))

    def check(self, objects: Iterable[Obj]) -> None:
        """Raise `CacheMutated` for the first of `objects` that was noted and looks otherwise now."""
        for obj in objects:
            noted = self._noted.get(key_of(obj))
            if noted is not None and noted[0] == id(obj) and noted[1] != fingerprint(obj):
                raise CacheMutated(f"{obj.get('kind')} {key_of(obj)} was changed in the cache; copy it before editing")
