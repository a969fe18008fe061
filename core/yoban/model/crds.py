"""The CustomResourceDefinitions, generated from the models: `deploy/crds` is the output of `render`."""

from __future__ import annotations

from typing import Any

import yaml

from yoban.model.backup import Backup
from yoban.model.backuppolicy import BackupPolicy
from yoban.model.database import Database
from yoban.model.fields import Part
from yoban.model.objectstore import ObjectStore
from yoban.model.resource import API_VERSION, CATEGORY, GROUP, VERSION, Resource
from yoban.model.schema import structural

KINDS: tuple[type[Resource], ...] = (Database, ObjectStore, BackupPolicy, Backup)
"""All kinds, in the order in which documentation shows them."""


def definition(kind: type[Resource]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    names = kind.names
    whole: dict[str, Any] = {
        "type": "object",
        "description": names.about,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {API_VERSION}."},
            "kind": {"type": "string", "description": f"Always {names.kind}."},
            "metadata": {"type": "object"},
            "spec": _field(kind, "spec"),
            "status": _field(kind, "status"),
        },
    }
    if kind.rules:
        whole["x-kubernetes-validations"] = list(kind.rules)
    columns = []
    for column in kind.columns:
        shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
        if column.about:
            shown["description"] = column.about
        if column.wide:
            shown["priority"] = 1
        columns.append(shown)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.kind,
                "listKind": f"{names.kind}List",
                "plural": names.plural,
                "singular": names.kind.lower(),
                "shortNames": [names.short],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": whole},
                }
            ],
        },
    }


def render() -> dict[str, str]:
    """Return the YAML of each CustomResourceDefinition by file name. Deterministic."""
    return {f"{GROUP}_{kind.names.plural}.yaml": _yaml(definition(kind)) for kind in KINDS}


def _field(kind: type[Resource], name: str) -> dict[str, Any]:
    field = kind.model_fields[name]
    model = field.annotation
    assert isinstance(model, type) and issubclass(model, Part)
    return structural(model, defaults=name == "spec") | {"description": field.description}


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: every definition stands in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(document: dict[str, Any]) -> str:
    head = "# Generated from core/yoban/model by `yoban crds`. Do not edit.\n"
    return head + str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))
