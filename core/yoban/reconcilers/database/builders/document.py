"""The instance document as a ConfigMap, and its revision.

Guarantees: the revision rises exactly when the content changes, and never falls, also when the ConfigMap was deleted:
it is at least the time in seconds, so an agent always takes the newer document for the newer one. Holds no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from yoban.kube.objects import Obj
from yoban.model.instance import DOCUMENT_FILE, InstanceDocument, Member
from yoban.reconcilers.database.builders.blueprint import Blueprint
from yoban.reconcilers.database.builders.podtemplate import group, passwd


def members(blueprint: Blueprint, numbers: tuple[int, ...]) -> list[Member]:
    """The members with the given numbers, in their order."""
    names = blueprint.names
    return [
        Member(name=names.instance(number), number=number, host=names.host(number), port=blueprint.layout.port)
        for number in numbers
    ]


def revised(document: InstanceDocument, previous: InstanceDocument | None, *, seconds: int) -> InstanceDocument:
    """`document` with its revision: that of `previous` when they say the same, else a greater one. Pure.

    Args:
        document: its own `revision` is ignored.
        previous: the document in the ConfigMap; None when there is none.
        seconds: wall time since the epoch.
    """
    if previous is not None:
        same = msgspec.structs.replace(document, revision=previous.revision)
        if same == previous:
            return same
        return msgspec.structs.replace(document, revision=max(previous.revision + 1, seconds))
    return msgspec.structs.replace(document, revision=seconds)


def read(config_map: Obj | None) -> InstanceDocument | None:
    """The document in a ConfigMap; None when there is none, or it is spoilt."""
    text = ((config_map or {}).get("data") or {}).get(DOCUMENT_FILE)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=InstanceDocument)
    except msgspec.DecodeError:  # somebody edited it; it is written anew
        return None


def spec_config_map(blueprint: Blueprint, document: InstanceDocument, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The ConfigMap with the document, and the passwd and group files."""
    names = blueprint.names
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.spec,
            "namespace": names.namespace,
            "labels": blueprint.labels,
            **({"annotations": dict(annotations)} if annotations else {}),
        },
        "data": {
            DOCUMENT_FILE: msgspec.json.encode(document, order="sorted").decode(),
            "passwd": passwd(blueprint),
            "group": group(blueprint),
        },
    }


def ca_config_map(blueprint: Blueprint, bundle: str) -> dict[str, Any]:
    """The ConfigMap with the certificates that clients and peers trust."""
    names = blueprint.names
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.public_ca, "namespace": names.namespace, "labels": blueprint.labels},
        "data": {"ca.crt": bundle},
    }
