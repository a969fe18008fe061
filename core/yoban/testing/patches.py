"""Merge patch (RFC 7396) and JSON patch (RFC 6902: add, replace, remove, test), for the fake API server. Pure."""

from __future__ import annotations

from typing import Any

from yoban.kube.objects import Obj, copy
from yoban.testing.apistatus import Rejection


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` after a merge patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(target: Obj, operations: list[Obj]) -> Obj:
    """`target` after a JSON patch; a `Rejection` with 422 when it does not fit."""
    document = copy(target)
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        try:
            holder: Any = document
            for step in steps[:-1]:
                holder = holder[int(step)] if isinstance(holder, list) else holder[step]
            last: Any = steps[-1]
            if isinstance(holder, list):
                last = len(holder) if last == "-" else int(last)
            kind = operation["op"]
            if kind == "test":
                if holder[last] != operation["value"]:
                    raise KeyError(last)
            elif kind == "remove":
                del holder[last]
            elif kind == "replace":
                holder[last]  # must be there
                holder[last] = operation["value"]
            elif isinstance(holder, list):
                holder.insert(last, operation["value"])
            else:
                holder[last] = operation["value"]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise Rejection(422, "Invalid", f"the JSON patch does not fit: {operation['path']}") from error
    return document
