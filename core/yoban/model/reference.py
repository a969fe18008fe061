"""The reference of every field, generated from the same schemas as the CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from yoban.model.crds import KINDS, definition
from yoban.model.resource import API_VERSION, Resource


def render() -> str:
    """Return the page, Markdown. Deterministic."""
    parts = [
        "# Fields of the resources\n",
        "Generated from `core/yoban/model` by `python -m yoban.model.generate`. Do not edit.\n",
        f"All kinds are `apiVersion: {API_VERSION}` and namespaced; `kubectl get yoban` lists all of them.\n",
    ]
    for kind in KINDS:
        parts += list(_kind(kind))
    return "\n".join(parts)


def _kind(kind: type[Resource]) -> Iterator[str]:
    names = kind.names
    version = definition(kind)["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    yield f"## {names.kind}\n"
    yield f"{names.about} Short name `{names.short}`.\n"
    if rules := schema.get("x-kubernetes-validations"):
        yield "Rules:\n"
        yield "\n".join(f"- {rule['message']}" for rule in rules) + "\n"
    for section in ("spec", "status"):
        yield f"### {names.kind}: {section}\n"
        yield (
            "| field | type | default | description |\n|---|---|---|---|\n"
            + "\n".join(
                _row(path, node, required) for path, node, required in _fields(schema["properties"][section], section)
            )
            + "\n"
        )
        if found := [f"- {rule['message']}" for rule in _rules(schema["properties"][section])]:
            yield "Rules:\n"
            yield "\n".join(dict.fromkeys(found)) + "\n"


def _fields(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    required = node.get("required", [])
    for name, child in node.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, child, name in required
        if child.get("type") == "array":
            yield from _fields(child["items"], f"{below}[]")
        else:
            yield from _fields(child, below)


def _rules(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from node.get("x-kubernetes-validations", [])
    for child in node.get("properties", {}).values():
        yield from _rules(child)
    if "items" in node:
        yield from _rules(node["items"])


def _row(path: str, node: Mapping[str, Any], required: bool) -> str:
    default = f"`{_text(node['default'])}`" if "default" in node else "required" if required else ""
    about = str(node.get("description", "")).replace("|", "\\|")
    limits = _limits(node)
    return f"| `{path}` | {_type(node)} | {default} | {about}{f' ({limits})' if limits else ''} |"


def _type(node: Mapping[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    kind = str(node.get("type"))
    if kind == "array":
        return f"list of {_type(node['items'])}"
    if kind == "object" and "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    return {"date-time": "time"}.get(node.get("format", ""), kind)


def _limits(node: Mapping[str, Any]) -> str:
    found = []
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None and high < 2**31:
        found.append(f"{low:g} to {high:g}")
    if "maxLength" in node and "enum" not in node and node.get("format") != "date-time":
        found.append(f"at most {node['maxLength']} characters")
    if "maxItems" in node:
        found.append(f"at most {node['maxItems']}")
    if "maxProperties" in node:
        found.append(f"at most {node['maxProperties']} entries")
    return ", ".join(found)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
