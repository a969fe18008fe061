"""What is so now: one Database's objects and agents, gathered once a pass and not changed within it.

Guarantees: frozen; decisions are made of this and nothing else. Truth comes from the volumes, the Lease and agents,
never from status or conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from yoban.kube.conditions import is_true
from yoban.kube.objects import Obj, annotations_of, conditions_of, is_deleting, labels_of, uid_of
from yoban.model.control import AgentStatus
from yoban.model.instance import LEASE_INITIALIZED, LEASE_LAST_HOLDER, LEASE_SWITCHOVER, ROLE_LABEL, InstanceDocument
from yoban.reconcilers.database.builders.lease import Asked, Membership
from yoban.reconcilers.database.builders.names import Names

INITIALIZED_NOTE = "yoban.dev/initialized"
"""On volume claims and the spec ConfigMap: the incarnation whose data exists. The Lease's mark, kept where it survives it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A data claim as seen: uid, and whether its deletion was asked for."""

    uid: str
    deleting: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """One Database now.

    Attributes:
        names: names of its objects.
        lease: the Lease, None when there is none.
        membership: read from the Lease, or from what was found when the Lease says nothing.
        claims: data claims of this incarnation by number.
        notes: annotations of claims and the spec ConfigMap that tell of data, any of them.
        pods: by number.
        stateful_sets: by number.
        agents: last word of each agent that answers, by instance name.
        document: the document in the ConfigMap.
    """

    names: Names
    lease: Obj | None = None
    membership: Membership = field(default_factory=Membership)
    claims: Mapping[int, Claim] = field(default_factory=dict)
    notes: frozenset[str] = frozenset()
    pods: Mapping[int, Obj] = field(default_factory=dict)
    stateful_sets: Mapping[int, Obj] = field(default_factory=dict)
    agents: Mapping[str, AgentStatus] = field(default_factory=dict)
    document: InstanceDocument | None = None

    def _lease_note(self, name: str) -> str:
        return annotations_of(self.lease).get(name, "") if self.lease is not None else ""

    @property
    def initialized(self) -> bool:
        """The data of this incarnation exists, or existed."""
        mine = self.names.incarnation
        if self._lease_note(LEASE_INITIALIZED) == mine or mine in self.notes:
            return True
        return self.document is not None and bool(self.document.members) and not self.document.founder

    @property
    def holder(self) -> str:
        """The instance that holds the Lease, "" for none."""
        return str((self.lease or {}).get("spec", {}).get("holderIdentity") or "")

    @property
    def primary(self) -> int | None:
        """Number of the instance that reigns, or reigned last."""
        return self.names.number(self.holder or self._lease_note(LEASE_LAST_HOLDER))

    @property
    def served(self) -> bool:
        """The holder's Pod bears the label by which the service for writes finds it."""
        number = self.names.number(self.holder)
        return number is not None and self.labelled(number) == "primary"

    @property
    def switchover_begun(self) -> str:
        """Id of the switchover that a primary began last."""
        return self._lease_note(LEASE_SWITCHOVER)

    @property
    def asked(self) -> Asked:
        """The owner's switchover request as it was seen last."""
        return Asked.parse(annotations_of(self.lease or {}))

    def agent(self, number: int) -> AgentStatus | None:
        """The last word of an instance's agent."""
        return self.agents.get(self.names.instance(number))

    def labelled(self, number: int) -> str:
        """The role in the label of an instance's Pod, by which Services find it; "" for none."""
        pod = self.pods.get(number)
        return labels_of(pod).get(ROLE_LABEL, "") if pod is not None else ""

    def gone(self, number: int) -> bool:
        """The instance has no Pod, or one on its way out."""
        pod = self.pods.get(number)
        return pod is None or is_deleting(pod)

    def ready(self, number: int) -> bool:
        """The instance is really usable: its Pod is ready, and its agent, if it was heard, says nothing else."""
        pod = self.pods.get(number)
        if pod is None or is_deleting(pod) or not is_true(conditions_of(pod), "Ready"):
            return False
        agent = self.agent(number)
        return agent is None or agent.ready


def claim(obj: Obj) -> Claim:
    """A claim's facts."""
    return Claim(uid_of(obj), is_deleting(obj))
