"""The validator of engineConfig: each keyword, and what is not understood."""

from __future__ import annotations

from typing import Any

import pytest
from yoban.errors import PluginError
from yoban.reconcilers.database.jsonschema import faults

FITTING: list[tuple[Any, dict[str, Any]]] = [
    ({"a": 1}, {"type": "object", "title": "t", "properties": {"a": {"type": "integer"}}}),
    (1.0, {"type": "integer"}),
    (1.5, {"type": "number"}),
    (None, {"type": ["string", "null"]}),
    ("b", {"enum": ["a", "b"]}),
    ([1, True], {"uniqueItems": True}),
    ("abc", {"minLength": 3, "maxLength": 3, "pattern": "^a"}),
    (3, {"pattern": "^a", "minLength": 9, "minItems": 9, "uniqueItems": True, "items": False}),
    ("x", {"minimum": 3, "required": ["a"], "properties": {"a": False}}),
    (4, {"minimum": 4, "maximum": 4, "exclusiveMinimum": 3, "exclusiveMaximum": 5, "multipleOf": 2}),
    ({"a": "x"}, {"additionalProperties": {"type": "string"}, "minProperties": 1, "maxProperties": 1}),
    ({"a": "x"}, {"additionalProperties": True, "propertyNames": {"pattern": "^[a-z]$"}}),
    ([{"a": 1}], {"items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"required": ["a"]}}}),
    (1, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
    (1, {"oneOf": [{"type": "string"}, {"type": "integer"}]}),
    (1, {"allOf": [{"minimum": 1}, {"maximum": 1}], "not": {"type": "string"}}),
    (True, {"const": True}),
]
BROKEN: list[tuple[Any, dict[str, Any], str]] = [
    ("x", {"type": "integer"}, "must be of type integer"),
    (True, {"type": "integer"}, "must be of type integer"),
    (1, {"type": ["string", "null"]}, "must be of type string or null"),
    (1.5, {"type": "integer"}, "must be of type integer"),
    ("c", {"enum": ["a", "b"]}, "must be one of 'a', 'b'"),
    (1, {"const": True}, "must be True"),
    ([1, 1], {"uniqueItems": True}, "the same twice"),
    ("b", {"pattern": "^a"}, "must match"),
    (3, {"minimum": 4}, "at least 4"),
    (3, {"maximum": 2}, "at most 2"),
    (3, {"exclusiveMinimum": 3}, "more than 3"),
    (3, {"exclusiveMaximum": 3}, "less than 3"),
    (3, {"multipleOf": 2}, "multiple of 2"),
    ("a", {"minLength": 2}, "at least 2 characters"),
    ([1], {"maxItems": 0}, "at most 0 entries"),
    ({}, {"minProperties": 1}, "at least 1 fields"),
    ({}, {"required": ["a"]}, "engineConfig.a is missing"),
    ({"b": 1}, {"properties": {"a": True}, "additionalProperties": False}, "engineConfig.b is unknown; known are: a"),
    ({"b": 1}, {"additionalProperties": {"type": "string"}}, "engineConfig.b must be of type string"),
    ({"B": 1}, {"propertyNames": {"pattern": "^[a-z]$"}}, "engineConfig.B (the name) must match"),
    ({"a": {"b": 1}}, {"properties": {"a": {"properties": {"b": False}}}}, "engineConfig.a.b is not allowed"),
    ([1, "x"], {"items": {"type": "integer"}}, "engineConfig[1] must be of type integer"),
    (1, {"not": {"type": "integer"}}, "excluded"),
    (1, {"anyOf": [{"type": "string"}]}, "fits none of 1 forms"),
    (1, {"oneOf": [{"minimum": 0}, {"minimum": 1}]}, "fits 2 of 2 forms"),
    (1, {"allOf": [{"minimum": 2}]}, "at least 2"),
]


@pytest.mark.parametrize(("value", "schema"), FITTING)
def test_what_fits(value: Any, schema: dict[str, Any]) -> None:
    assert faults(value, schema) == []


@pytest.mark.parametrize(("value", "schema", "words"), BROKEN)
def test_what_does_not_fit(value: Any, schema: dict[str, Any], words: str) -> None:
    found = faults(value, schema)
    assert len(found) == 1
    assert words in found[0]


def test_every_fault_is_found() -> None:
    schema = {"required": ["a", "b"], "properties": {"c": {"type": "string"}}}
    assert len(faults({"c": 1}, schema)) == 3


@pytest.mark.parametrize(
    "schema",
    [{"unheardOf": 1}, {"type": "date"}, {"$ref": "#/$defs/x"}, {"$ref": "http://elsewhere"}],
    ids=["keyword", "type", "missing", "outside"],
)
def test_what_is_not_understood_is_the_plugins_fault(schema: dict[str, Any]) -> None:
    with pytest.raises(PluginError):
        faults({"a": 1}, schema)
