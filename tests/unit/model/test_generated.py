"""What is generated is what is committed. Refresh with `python -m yoban.model.generate` in the repository's root."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field
from yoban.model.crds import KINDS, definition, render
from yoban.model.fields import Part
from yoban.model.generate import DEFINITIONS, files, main
from yoban.model.schema import structural

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted(files()))
def test_what_is_committed_is_what_is_generated(path):
    assert (ROOT / path).read_text() == files()[path], "run `python -m yoban.model.generate`"


@pytest.mark.parametrize("folder", DEFINITIONS)
def test_no_definition_of_a_kind_that_is_gone_is_left(folder):
    assert {path.name for path in (ROOT / folder).iterdir()} == set(render())


def test_writing_changes_only_what_differs(tmp_path):
    assert sorted(main(tmp_path)) == sorted(files())
    assert main(tmp_path) == []
    (tmp_path / "deploy/crds/yoban.dev_gone.yaml").write_text("x")
    (tmp_path / "docs/reference/fields.md").write_text("x")
    assert sorted(main(tmp_path)) == ["deploy/crds/yoban.dev_gone.yaml", "docs/reference/fields.md"]


def schemas() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for kind in KINDS:
        version = definition(kind)["spec"]["versions"][0]
        found.append((kind.names.kind, version["schema"]["openAPIV3Schema"]))
    return found


def walk(node: dict[str, Any], path: str) -> Any:
    yield path, node
    for name, child in (node.get("properties") or {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from walk(node[key], f"{path}[]")


@pytest.mark.parametrize("kind, schema", schemas())
def test_every_string_list_and_map_is_bounded_and_every_field_described(kind, schema):
    for path, node in walk({"properties": {key: schema["properties"][key] for key in ("spec", "status")}}, kind):
        if path == kind:
            continue
        assert not {"$ref", "anyOf", "oneOf", "allOf", "title"} & set(node), path
        if not path.endswith("[]"):
            assert node["description"], path
        match node.get("type"):
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node and node["x-kubernetes-list-type"], path
            case "integer" | "number":
                assert "minimum" in node and "maximum" in node, path
            case "object":
                bounded = "properties" in node or "maxProperties" in node
                assert bounded or node["x-kubernetes-preserve-unknown-fields"], path


@pytest.mark.parametrize("kind, schema", schemas())
def test_a_status_has_no_defaults(kind, schema):
    assert not [path for path, node in walk(schema["properties"]["status"], kind) if "default" in node]


def test_names_and_columns():
    found = {kind.names.kind: definition(kind)["spec"] for kind in KINDS}
    assert {kind: spec["names"]["shortNames"] for kind, spec in found.items()} == {
        "Database": ["ydb"],
        "ObjectStore": ["yos"],
        "BackupPolicy": ["ybp"],
        "Backup": ["ybk"],
    }
    for spec in found.values():
        version = spec["versions"][0]
        assert spec["names"]["categories"] == ["yoban"]
        assert version["subresources"] == {"status": {}}
        assert version["additionalPrinterColumns"][-1]["name"] == "Age"
        conditions = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
        assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def test_the_yaml_is_the_definition():
    for kind in KINDS:
        text = render()[f"yoban.dev_{kind.names.plural}.yaml"]
        assert yaml.safe_load(text) == definition(kind)
        assert "&id" not in text


class Choice(Part):
    one: int | str = Field(description="x")


class Unbounded(Part):
    one: str = Field(description="x")


class UnboundedList(Part):
    one: list[bool] = Field(description="x")


class UnboundedMap(Part):
    one: dict[str, bool] = Field(description="x")


class Silent(Part):
    one: bool = False


class Anything(Part):
    one: Any = Field(default=None, description="x")


class Odd(Part):
    one: Annotated[int, Field(multiple_of=3)] = Field(default=3, description="x")


class Empty(Part):
    one: object = Field(default=None, description="x", json_schema_extra={"type": "object"})


@pytest.mark.parametrize(
    "model, words",
    [
        (Choice, "a choice between types"),
        (Unbounded, "the string has no bound"),
        (UnboundedList, "the list has no bound"),
        (UnboundedMap, "the map has no bound"),
        (Silent, "has no description"),
        (Anything, "has no type"),
        (Odd, "multipleOf has no place"),
        (Empty, "an object without fields"),
    ],
)
def test_what_has_no_place_in_a_schema_is_found_at_generation(model, words):
    with pytest.raises(ValueError, match=words):
        structural(model)
