"""Label and field selectors as the API server reads them, for the fake one.

Guarantees: equality, sets (`in`, `notin`), existence and absence of labels; equality of any field. Does not validate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from yoban.kube.objects import Obj


def selector(query: Mapping[str, str]) -> Callable[[Obj], bool]:
    """Whether an object is chosen by the `labelSelector` and `fieldSelector` of a query."""
    labels = [part for part in _split(query.get("labelSelector", "")) if part]
    fields = [part for part in query.get("fieldSelector", "").split(",") if part]
    return lambda obj: (
        all(_label_matches(obj["metadata"].get("labels") or {}, part) for part in labels)
        and all(_field_matches(obj, part) for part in fields)
    )


def _split(selector: str) -> Iterable[str]:
    depth, part = 0, ""
    for char in selector:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += char
    yield part.strip()


def _label_matches(labels: Mapping[str, str], part: str) -> bool:
    if "(" in part:
        name, operator, values = part.replace("(", " ( ").split(maxsplit=2)
        chosen = {value.strip() for value in values.strip("() ").split(",")}
        return (labels.get(name) in chosen) == (operator == "in")
    if "!=" in part:
        name, _, value = part.partition("!=")
        return labels.get(name.strip()) != value.strip()
    if "=" in part:
        name, _, value = part.replace("==", "=").partition("=")
        return labels.get(name.strip()) == value.strip()
    return part[1:].strip() not in labels if part.startswith("!") else part in labels


def _field_matches(obj: Obj, part: str) -> bool:
    negated = "!=" in part
    name, _, value = part.replace("==", "=").replace("!=", "=").partition("=")
    here: Any = obj
    for step in name.split("."):
        here = here.get(step, "") if isinstance(here, dict) else ""
    return (str(here) == value) != negated
