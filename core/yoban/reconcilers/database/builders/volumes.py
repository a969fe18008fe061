"""Volume claims of an instance.

Guarantees: a claim never has an owner, so no garbage collection ever takes data away: only the ordered teardown
removes it, when the Database's deletion policy says so. Labels and the incarnation in the name tell whose it is. A
claim never shrinks.
"""

from __future__ import annotations

from typing import Any

from yoban.reconcilers.database.builders.blueprint import Blueprint, VolumeSpec
from yoban.reconcilers.database.builders.names import INCARNATION_LABEL, VOLUME_LABEL
from yoban.reconcilers.database.builders.quantity import amount


def claims(blueprint: Blueprint, number: int) -> list[dict[str, Any]]:
    """The claims of instance `number`: data, and log when it has a volume of its own."""
    names = blueprint.names
    found = [_claim(blueprint, number, names.data(number), "data", blueprint.data)]
    if blueprint.log is not None:
        found.append(_claim(blueprint, number, names.log(number), "log", blueprint.log))
    return found


def resized(desired: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """`desired` as it may be applied over `live`: not smaller than what is asked for already, immutable parts kept."""
    have = live.get("spec", {}).get("resources", {}).get("requests", {}).get("storage", "0")
    want = desired["spec"]["resources"]["requests"]["storage"]
    storage = want if amount(want) > amount(have) else have
    spec = {**desired["spec"], "resources": {"requests": {"storage": storage}}}
    # A class that was defaulted, or that the owner changed since, cannot be changed on a claim.
    spec.pop("storageClassName", None)
    if "storageClassName" in live.get("spec", {}):
        spec["storageClassName"] = live["spec"]["storageClassName"]
    return {**desired, "spec": spec}


def _claim(blueprint: Blueprint, number: int, name: str, purpose: str, volume: VolumeSpec) -> dict[str, Any]:
    names = blueprint.names
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class:
        spec["storageClassName"] = volume.storage_class
    labels = {
        **names.instance_labels(blueprint.engine, number),
        INCARNATION_LABEL: names.incarnation,
        VOLUME_LABEL: purpose,
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": names.namespace, "labels": labels},
        "spec": spec,
    }
