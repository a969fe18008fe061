"""What Kubernetes says is wrong with a Pod, in words for the Database's owner. Pure."""

from __future__ import annotations

from typing import Any

from yoban.domain.summary import Fault
from yoban.kube.objects import Obj, conditions_of, name_of

_FIXES = {
    "ImagePullBackOff": "correct spec.image, or add pod.imagePullSecrets",
    "ErrImagePull": "correct spec.image, or add pod.imagePullSecrets",
    "ErrImageNeverPull": "bring the image to the node, or name another in spec.image",
    "InvalidImageName": "correct spec.image",
    "CrashLoopBackOff": "see the log of its container",
    "CreateContainerConfigError": "see the events of the Pod",
    "CreateContainerError": "see the events of the Pod",
    "RunContainerError": "see the events of the Pod",
}


def pod_fault(pod: Obj) -> Fault | None:
    """Why a Pod does not run; None when it does, or is merely on its way."""
    status: dict[str, Any] = pod.get("status") or {}
    for condition in conditions_of(pod):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            text = f"Pod {name_of(pod)} finds no node: {condition.get('message', '')}"
            return Fault("Unschedulable", text, "make room, or change spec.pod or spec.resources")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in _FIXES:
            text = f"container {container.get('name')} of Pod {name_of(pod)}: {waiting.get('message') or reason}"
            return Fault(reason, text, _FIXES[reason])
    return None
