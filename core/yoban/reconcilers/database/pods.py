"""What Kubernetes says is wrong with a Pod, or with making one, in words for the Database's owner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from yoban.domain.summary import Fault
from yoban.kube.clock import Clock
from yoban.kube.objects import Obj, ObjectKey, conditions_of, generation_of, name_of
from yoban.reconcilers.database.observed import Observed

PATIENCE = 15.0
"""Seconds that Kubernetes may take to make a Pod."""

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


def not_made(instance: str) -> Fault:
    """That an instance has no Pod, and gets none. Why, is only in events of its StatefulSet."""
    fix = f"`kubectl describe statefulset {instance}` says why: a quota, a priority class or an admission policy"
    return Fault("PodNotMade", f"Kubernetes makes no Pod for {instance}", fix)


class Podless:
    """Knows since when instances have a StatefulSet and no Pod.

    Args:
        clock: for how long that is.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[ObjectKey, dict[int, float]] = {}

    def of(self, key: ObjectKey, observed: Observed, numbers: Iterable[int]) -> frozenset[int]:
        """The members that have had no Pod for longer than Kubernetes takes to make one."""
        now, before = self._clock.monotonic(), self._since.get(key, {})
        since = {n: before.get(n, now) for n in numbers if n not in observed.pods and _is_seen(observed, n)}
        self._since[key] = since
        return frozenset(n for n, moment in since.items() if now - moment >= PATIENCE)

    def forget(self, key: ObjectKey) -> None:
        """The Database is gone; nothing breaks when this is not called."""
        self._since.pop(key, None)


def _is_seen(observed: Observed, number: int) -> bool:
    """Whether the StatefulSet's controller has seen it as it is."""
    live = observed.stateful_sets.get(number)
    return live is not None and int((live.get("status") or {}).get("observedGeneration") or 0) >= generation_of(live)
