"""The lists of the fake API server: which objects, of which moment, in which pages.

Guarantees: a page is of one version; items of built-in kinds come without kind and apiVersion, as the real ones do; a state
of the past is what was stored then. Does not remember anything: the history is the server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from yoban.kube.objects import Obj, ObjectKey
from yoban.kube.resource import Resource
from yoban.testing.apistatus import Rejection
from yoban.testing.apiwatch import Change
from yoban.testing.selectors import selector


def as_of(
    objects: Mapping[ObjectKey, Obj], history: Sequence[Change], resource: Resource, version: int
) -> Mapping[ObjectKey, Obj]:
    """The objects of `resource` as they were at `version`, not older than `history` reaches."""
    if not history or history[-1].version <= version:
        return objects
    past = dict(objects)
    for change in reversed(history):
        if change.version <= version:
            break
        if change.resource != resource:
            continue
        if change.old is not None:
            past[change.key] = change.old
        else:
            past.pop(change.key, None)
    return past


def refuse_future(wanted: str, version: int) -> None:
    """Raise the 504 of a server whose cache has not reached the version that is asked for."""
    if wanted.isdigit() and int(wanted) > version:
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        message = f"Too large resource version: {wanted}, current: {version}"
        raise Rejection(504, "Timeout", message, causes=causes, retryAfterSeconds=1)


def page(
    objects: Iterable[tuple[ObjectKey, Obj]],
    resource: Resource,
    namespace: str,
    query: Mapping[str, str],
    *,
    version: int,
    oldest: int,
) -> Obj:
    """One page of those of `objects` that `query` selects; 410 for a token older than `oldest`."""
    matches = selector(query)
    items = [obj for key, obj in sorted(objects) if (not namespace or key.namespace == namespace) and matches(obj)]
    start, metadata = 0, {"resourceVersion": str(version)}
    token = query.get("continue")
    if token:
        token_version, start = (int(part) for part in token.split("-"))
        if token_version < oldest:
            raise Rejection(410, "Expired", "The provided continue parameter is too old")
        metadata["resourceVersion"] = str(token_version)
    limit = int(query.get("limit") or 0)
    if limit and start + limit < len(items):
        metadata["continue"] = f"{metadata['resourceVersion']}-{start + limit}"
    chosen = items[start : start + limit] if limit else items[start:]
    if "." not in resource.group or resource.group.endswith(".k8s.io"):
        chosen = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in chosen]
    return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata, "items": chosen}
