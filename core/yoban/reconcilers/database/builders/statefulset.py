"""The StatefulSet of one instance, and the pin that keeps an operator's upgrade from restarting it.

Guarantees: one replica, `OnDelete`: nothing but our rollout ever replaces a Pod. What the operator itself puts into
the Pod (its image, the template's form, variables handed on) is read back from the live object and kept, unless the
specification changed so that the Pod must be replaced anyway, or the owner asked for the update.
"""

from __future__ import annotations

from typing import Any

from yoban.kube.objects import Obj, annotations_of
from yoban.model.instance import INSTANCE_LABEL
from yoban.reconcilers.database.builders.blueprint import Blueprint, Runtime
from yoban.reconcilers.database.builders.podtemplate import FORM, TEMPLATE_ANNOTATION, pod_template

PIN_ANNOTATION = "yoban.dev/runtime"
INPUTS_ANNOTATION = "yoban.dev/inputs"
UPDATE_ANNOTATION = "yoban.dev/update"
"""On a Database: any new value moves its Pods to the operator's present image. On a StatefulSet: the value last honoured."""


def stateful_set(blueprint: Blueprint, number: int, runtime: Runtime, update: str = "") -> dict[str, Any]:
    """The StatefulSet of instance `number`, with the runtime it is pinned to."""
    names = blueprint.names
    labels = names.instance_labels(blueprint.engine, number)
    annotations = {PIN_ANNOTATION: runtime.encode(), INPUTS_ANNOTATION: blueprint.inputs}
    if update:
        annotations[UPDATE_ANNOTATION] = update
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": names.instance(number),
            "namespace": names.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "replicas": 1,
            "serviceName": names.peers,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": {**names.selector, INSTANCE_LABEL: names.instance(number)}},
            "template": pod_template(blueprint, number, runtime),
        },
    }


def pinned(blueprint: Blueprint, live: Obj | None, current: Runtime, update: str) -> Runtime:
    """The runtime for an instance's Pod: that of the live StatefulSet, or `current`. Pure.

    Args:
        blueprint: the specification now.
        live: the StatefulSet as it is, None when there is none.
        current: what this operator would use for a new one.
        update: value of the Database's update request, "" for none.
    """
    if live is None:
        return current
    notes = annotations_of(live)
    pin = Runtime.decode(notes.get(PIN_ANNOTATION, ""))
    if pin is None or pin.revision > FORM:
        return current
    if notes.get(INPUTS_ANNOTATION) != blueprint.inputs or notes.get(UPDATE_ANNOTATION, "") != update:
        return current
    return pin


def template_digest(stateful: Obj) -> str:
    """The digest of a StatefulSet's Pod template; "" when it has none."""
    return annotations_of(stateful.get("spec", {}).get("template", {})).get(TEMPLATE_ANNOTATION, "")


def outdated(pod: Obj, desired: Obj) -> bool:
    """Whether `pod` was made from another template than `desired`, a StatefulSet, has."""
    return annotations_of(pod).get(TEMPLATE_ANNOTATION, "") != template_digest(desired)
