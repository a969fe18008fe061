"""A validator for the part of JSON Schema (draft 2020-12) that engines describe `engineConfig` with.

Guarantees: every fault is found and named by its place; a keyword that is not understood is the plugin's fault, never
ignored. Annotations (`title`, `description`, `default`, `examples`, `format`) are no conditions. References are to
`#/$defs/…` only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from yoban.errors import PluginError

_ANNOTATIONS = frozenset(
    ("$schema", "$id", "$comment", "$defs", "title", "description", "default", "examples", "deprecated", "format",
     "readOnly", "writeOnly")
)  # fmt: skip
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_LENGTHS = frozenset(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"))
_OBJECT = frozenset(("properties", "required", "additionalProperties", "propertyNames"))
_CHOICES = frozenset(("allOf", "anyOf", "oneOf", "not"))


def faults(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with `value`, a sentence for each place; empty when it fits.

    Raises:
        PluginError: the schema uses what is not understood here.
    """
    return list(_check(value, schema, schema, "engineConfig"))


def _check(value: Any, schema: Any, root: Mapping[str, Any], path: str) -> Iterator[str]:
    if schema is True:
        return
    if schema is False:
        yield f"{path} is not allowed"
        return
    for keyword, wanted in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword == "$ref":
            yield from _check(value, _resolve(wanted, root), root, path)
        elif keyword == "type":
            if not any(_is(value, name) for name in ([wanted] if isinstance(wanted, str) else wanted)):
                yield f"{path} must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        elif keyword == "enum":
            if not any(_same(value, choice) for choice in wanted):
                yield f"{path} must be one of {', '.join(map(repr, wanted))}"
        elif keyword == "const":
            if not _same(value, wanted):
                yield f"{path} must be {wanted!r}"
        elif keyword == "pattern":
            if isinstance(value, str) and not re.search(wanted, value):
                yield f"{path} must match {wanted}"
        elif keyword in _BOUNDS:
            yield from _bound(value, keyword, wanted, path)
        elif keyword in _LENGTHS:
            yield from _length(value, keyword, wanted, path)
        elif keyword in _OBJECT:
            yield from _object(value, keyword, schema, root, path)
        elif keyword == "items":
            for number, entry in enumerate(value if isinstance(value, list) else ()):
                yield from _check(entry, wanted, root, f"{path}[{number}]")
        elif keyword == "uniqueItems":
            if wanted and isinstance(value, list) and any(_same(a, b) for n, a in enumerate(value) for b in value[:n]):
                yield f"{path} must not hold the same twice"
        elif keyword in _CHOICES:
            yield from _choice(value, keyword, wanted, root, path)
        else:
            raise PluginError(
                f"the schema of engineConfig uses the keyword {keyword!r}, which is not supported",
                object=path,
                fix="describe it with type, enum, properties, items, patterns and bounds",
            )


def _is(value: Any, name: str) -> bool:
    if name not in _TYPES:
        raise PluginError(f"the schema of engineConfig uses the unknown type {name!r}")
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    prefix = "#/$defs/"
    found = root.get("$defs", {}).get(reference.removeprefix(prefix)) if reference.startswith(prefix) else None
    if found is None:
        raise PluginError(f"the schema of engineConfig refers to {reference!r}, which is not there")
    return found


def _bound(value: Any, keyword: str, wanted: float, path: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    fits, words = {
        "minimum": (value >= wanted, "at least"),
        "maximum": (value <= wanted, "at most"),
        "exclusiveMinimum": (value > wanted, "more than"),
        "exclusiveMaximum": (value < wanted, "less than"),
        "multipleOf": (keyword != "multipleOf" or value % wanted == 0, "a multiple of"),
    }[keyword]
    if not fits:
        yield f"{path} must be {words} {wanted}"


def _length(value: Any, keyword: str, wanted: int, path: str) -> Iterator[str]:
    kind: type = {"Length": str, "Items": list, "Properties": dict}[keyword[3:]]
    if not isinstance(value, kind):
        return
    assert isinstance(value, str | list | dict)
    if (keyword[:3] == "min" and len(value) < wanted) or (keyword[:3] == "max" and len(value) > wanted):
        what = {"Length": "characters", "Items": "entries", "Properties": "fields"}[keyword[3:]]
        yield f"{path} must have at {'least' if keyword[:3] == 'min' else 'most'} {wanted} {what}"


def _object(value: Any, keyword: str, schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    known = schema.get("properties", {})
    if keyword == "properties":
        for name, part in known.items():
            if name in value:
                yield from _check(value[name], part, root, f"{path}.{name}")
    elif keyword == "required":
        for name in schema["required"]:
            if name not in value:
                yield f"{path}.{name} is missing"
    elif keyword == "propertyNames":
        for name in value:
            yield from _check(name, schema["propertyNames"], root, f"{path}.{name} (the name)")
    else:
        for name in value:
            if name not in known:
                part = schema["additionalProperties"]
                if part is False:
                    yield f"{path}.{name} is unknown; known are: {', '.join(sorted(known)) or 'none'}"
                else:
                    yield from _check(value[name], part, root, f"{path}.{name}")


def _choice(value: Any, keyword: str, wanted: Any, root: Mapping[str, Any], path: str) -> Iterator[str]:
    if keyword == "not":
        if not list(_check(value, wanted, root, path)):
            yield f"{path} has a form that is excluded"
        return
    results = [list(_check(value, part, root, path)) for part in wanted]
    if keyword == "allOf":
        yield from (fault for found in results for fault in found)
    else:
        fitting = sum(not found for found in results)
        if not fitting or (keyword == "oneOf" and fitting > 1):
            yield f"{path} fits {fitting or 'none'} of {len(results)} forms"
