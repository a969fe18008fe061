"""From a pydantic model to a structural schema as the API server wants it.

Guarantees: everything is inlined (no `$ref`), nothing is a choice (no `anyOf`), every list, map and string has a bound,
every field a description; what does not fit raises at generation, not at the API server. Defaults that are plain values
are kept, so that `kubectl get -o yaml` shows them; those that are objects are left to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from yoban.model.duration import format_duration
from yoban.model.fields import Part

_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "default",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
_DROPPED = {"title", "$defs", "properties", "items", "additionalProperties", "anyOf", "$ref", "propertyNames", "const"}


class _Generator(GenerateJsonSchema):
    """Writes defaults as a resource has them."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def structural(model: type[Part], *, defaults: bool = True) -> dict[str, Any]:
    """Return the structural schema of a model.

    Args:
        model: the model.
        defaults: let the API server fill in defaults. Not for a status: what is written must be what is read.

    Raises:
        ValueError: a field cannot be expressed, has no bound or no description; names it.
    """
    whole = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    schema = _node(whole, whole.get("$defs", {}), model.__name__, root=True)
    return schema if defaults else _without_defaults(schema)


def _node(node: Mapping[str, Any], defs: Mapping[str, Any], path: str, *, root: bool = False) -> dict[str, Any]:
    node = _inlined(node, defs, path)
    unknown = set(node) - set(_KEPT) - _DROPPED
    if unknown:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))} has no place in a structural schema")
    if "const" in node:
        raise ValueError(f"{path}: use an enum of one value")
    out = {key: node[key] for key in _KEPT if key in node}
    if "default" in out and (out["default"] is None or isinstance(out["default"], dict | list) or out["default"] == ""):
        del out["default"]
    if not root and not out.get("description") and not path.endswith(("[]", "{}")):
        raise ValueError(f"{path}: has no description")
    kind = out.get("type")
    if kind == "object":
        _object(node, defs, path, out)
    elif kind == "array":
        if "maxItems" not in out:
            raise ValueError(f"{path}: the list has no bound")
        out.setdefault("x-kubernetes-list-type", "atomic")
        out["items"] = _node(node["items"], defs, f"{path}[]")
    elif kind == "string" and "enum" not in out and "maxLength" not in out:
        raise ValueError(f"{path}: the string has no bound")
    elif kind is None and not out.get("x-kubernetes-int-or-string"):
        raise ValueError(f"{path}: has no type")
    return out


def _object(node: Mapping[str, Any], defs: Mapping[str, Any], path: str, out: dict[str, Any]) -> None:
    values = node.get("additionalProperties")
    if "properties" in node:
        out["properties"] = {name: _node(child, defs, f"{path}.{name}") for name, child in node["properties"].items()}
    elif isinstance(values, Mapping):
        if "maxProperties" not in out:
            raise ValueError(f"{path}: the map has no bound")
        out["additionalProperties"] = _node(values, defs, f"{path}{{}}")
    elif not out.get("x-kubernetes-preserve-unknown-fields"):
        raise ValueError(f"{path}: an object without fields")


def _inlined(node: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the node with its reference and its "or absent" resolved; what stands beside them wins."""
    merged = dict(node)
    while "$ref" in merged or "anyOf" in merged:
        if "$ref" in merged:
            below = defs[merged.pop("$ref").rsplit("/", 1)[-1]]
        else:
            choices = [choice for choice in merged.pop("anyOf") if choice.get("type") != "null"]
            if len(choices) != 1:
                raise ValueError(f"{path}: a choice between types")
            below = choices[0]
        rules = [*below.get("x-kubernetes-validations", []), *merged.get("x-kubernetes-validations", [])]
        merged = {**below, **merged}
        if rules:
            merged["x-kubernetes-validations"] = rules
    return merged


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_defaults(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = schema.get("properties")
    out = {key: _without_defaults(value) for key, value in schema.items() if key not in ("default", "properties")}
    if isinstance(named, dict):
        # Names of fields are no keywords: a field may be called "default".
        out["properties"] = {name: _without_defaults(value) for name, value in named.items()}
    return out
