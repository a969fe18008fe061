"""Which replica of the operator leads: by its Lease, and by the kernel of this machine, on which all nodes run.

The Lease is followed by a watch. Should that end and begin anew, what came in between is not seen; and a process that ends
in the milliseconds between the Lease's change and its event counts as ended before: breaches may be overlooked, not made up.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.demo.installation import NAMESPACE
from deploy.demo.kubectl import Kubectl, Object
from deploy.demo.stage import Stage
from tests.e2e.world import beside

OPERATOR = "yoban-operator"
SELECTOR = "app.kubernetes.io/component=operator"
MODULE = "yoban.cli.main"
WATCH = 30.0
"""Seconds of one watch of the Lease, which is renewed every two."""


class Operators:
    """The operator's Pods."""

    def __init__(self, kubectl: Kubectl, stage: Stage) -> None:
        self.kubectl = kubectl.within(NAMESPACE)
        self._stage = stage

    def both(self) -> Object:
        """Wait until two replicas are ready, on two nodes, and one of them leads; its Pod."""
        self._ready()
        nodes = {pod["spec"]["nodeName"] for pod in self._pods()}
        if len(nodes) == 1:
            self._apart(nodes.pop())
        names = {pod["metadata"]["name"] for pod in self._pods()}
        lease = self.kubectl.wait("lease", OPERATOR, lambda lease: leader(lease) in names, deadline=120)
        return next(pod for pod in self._pods() if pod["metadata"]["name"] == leader(lease))

    def _ready(self) -> None:
        def ready(value: Object) -> bool:
            status = value.get("status", {})
            current = status.get("observedGeneration") == value["metadata"]["generation"]
            return bool(current and status.get("readyReplicas") == status.get("replicas") == 2)

        self.kubectl.wait("deployment", OPERATOR, ready, deadline=180)

    def _pods(self) -> list[Object]:
        return [pod for pod in self.kubectl.list("pod", SELECTOR) if "deletionTimestamp" not in pod["metadata"]]

    def _apart(self, node: str) -> None:
        """Have one of two on the same node made anew on another: the scheduler spreads them only if it can."""
        self.kubectl.run("cordon", node)
        try:
            self.kubectl.delete("pod", self._pods()[0]["metadata"]["name"])
            self._ready()
        finally:
            self.kubectl.run("uncordon", node)

    @contextmanager
    def followed(self, pod: Object) -> Iterator[Reigns]:
        """Follow the Lease while the block lasts; `pod` leads at its beginning."""
        pid = self._stage.process(self.kubectl, pod["metadata"]["name"], MODULE)
        descriptor = os.pidfd_open(pid)
        try:
            reigns = Reigns(self.kubectl, pod["metadata"]["name"], descriptor)
            with beside(reigns.follow, reigns.end):
                yield reigns
        finally:
            os.close(descriptor)


def leader(lease: Object) -> str:
    """The name of the Pod that holds a Lease, "" for nobody: an identity is a host's name and a random part."""
    return str(lease.get("spec", {}).get("holderIdentity") or "").rpartition("_")[0]


class Reigns:
    """Terms of the operator's Lease as they come, and whether the first leader's process still ran when another began."""

    def __init__(self, kubectl: Kubectl, first: str, process: int) -> None:
        self.holders: dict[int, set[str]] = {}
        """Identities by term; more than one in a term is a breach."""
        self.overlapped = False
        """The first leader's process, the very one, had not ended when the Lease named somebody else."""
        self._kubectl = kubectl
        self._first = first
        self._process = process
        self._latest: Object = {}
        self._renewals = 0
        self._version = ""
        self._over = False
        self._changed = threading.Condition()

    def follow(self) -> None:
        """Follow the Lease until `end`, by a watch after another: where nobody renews it, none would ever bring a word."""
        while not self._over:
            for lease in self._kubectl.watch("lease", OPERATOR, deadline=WATCH):
                self._saw(lease)
                if self._over:
                    return

    def _saw(self, lease: Object) -> None:
        ended = bool(select.select([self._process], [], [], 0)[0])
        with self._changed:
            if lease["metadata"]["resourceVersion"] == self._version:
                return  # a watch begins with what the one before it ended with
            self._version = lease["metadata"]["resourceVersion"]
            holder = str(lease["spec"].get("holderIdentity") or "")
            if holder:
                self.holders.setdefault(int(lease["spec"]["leaseTransitions"]), set()).add(holder)
                self.overlapped |= leader(lease) != self._first and not ended
            self._latest = lease
            self._renewals += 1
            self._changed.notify_all()

    def end(self) -> None:
        """Have `follow` return at the next renewal, or at the end of its watch."""
        self._over = True

    def another(self, *, deadline: float) -> str:
        """Return the Pod that leads as soon as it is another than the first; fails after `deadline` seconds."""
        with self._changed:
            taken = self._changed.wait_for(lambda: leader(self._latest) not in ("", self._first), deadline)
            assert taken, f"nobody took the Lease over: {self._latest.get('spec')}"
            return leader(self._latest)

    def renewed(self, times: int, *, deadline: float) -> None:
        """Return when the Lease was renewed so often; fails after `deadline` seconds."""
        with self._changed:
            wanted = self._renewals + times
            assert self._changed.wait_for(lambda: self._renewals >= wanted, deadline), (
                "the leader does not renew its Lease"
            )
