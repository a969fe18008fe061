"""The objects of each instance: volume claims, certificates, StatefulSet; and the removal of what is no member any
more.

Guarantees: a claim is made before the StatefulSet that mounts it, and its uid noted on the Lease in between; a former
member's claims go only after its Pod; nothing is removed while the membership is not known. What the API server refuses
one member holds up no other. Every step may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from yoban.domain.summary import Fault
from yoban.kube.errors import ApiError, Forbidden, Invalid, Rejected
from yoban.kube.objects import Obj, ObjectKey, annotations_of, generation_of, labels_of, name_of, uid_of
from yoban.kube.resource import LEASE, PERSISTENT_VOLUME_CLAIM, POD, SECRET, SERVICE_ACCOUNT, STATEFUL_SET
from yoban.model.instance import INSTANCE_LABEL
from yoban.reconcilers.database.admit import Admitted, OperatorFacts
from yoban.reconcilers.database.builders.lease import Asked, Membership, lease
from yoban.reconcilers.database.builders.names import INCARNATION_LABEL, Names
from yoban.reconcilers.database.builders.quantity import amount
from yoban.reconcilers.database.builders.statefulset import UPDATE_ANNOTATION, outdated, pinned, stateful_set
from yoban.reconcilers.database.builders.volumes import claims, resized
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.observed import INITIALIZED_NOTE, Observed
from yoban.reconcilers.database.writer import Writer


@dataclass(slots=True)
class Built:
    """What a pass found out while it built instances: faults, events, and what the API server refused of which member."""

    faults: list[Fault] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    refused: dict[int, ApiError] = field(default_factory=dict)

    @contextmanager
    def member(self, number: int) -> Iterator[None]:
        """Note what the API server refuses this member, and go on behind the block."""
        try:
            yield
        except (Forbidden, Rejected) as error:
            self.refused.setdefault(number, error)


class Instances:
    """Ensures the objects of instances of any Database."""

    def __init__(self, writer: Writer, caches: Caches, operator: OperatorFacts) -> None:
        self._writer = writer
        self._caches = caches
        self._operator = operator

    def desired(self, admitted: Admitted, observed: Observed, number: int) -> Obj:
        """The StatefulSet of an instance as it is to be, pinned to the runtime it was made with."""
        update = admitted.database.metadata.annotations.get(UPDATE_ANNOTATION, "")
        live = observed.stateful_sets.get(number)
        runtime = pinned(admitted.blueprint, live, self._operator.runtime, update)
        return stateful_set(admitted.blueprint, number, runtime, update)

    def outdated(self, admitted: Admitted, observed: Observed, numbers: tuple[int, ...]) -> set[int]:
        """Members whose Pod was made from another template than it is to be, once their StatefulSet has the new one."""
        pods = ((number, observed.pods.get(number)) for number in numbers)
        return {
            number
            for number, pod in pods
            if pod is not None and outdated(pod, self.desired(admitted, observed, number))
        }

    def tokenless(self, admitted: Admitted, observed: Observed, numbers: tuple[int, ...]) -> list[Obj]:
        """Pods whose token is of a ServiceAccount that was deleted since: the API server refuses it for ever, so that
        their agents can neither hold the Lease nor take it."""
        account = self._caches.child(SERVICE_ACCOUNT, admitted.names.namespace, admitted.names.account)
        if account is None:
            return []
        since = str(account["metadata"].get("creationTimestamp") or "")
        pods = (observed.pods.get(number) for number in numbers)
        return [pod for pod in pods if pod and str(pod["metadata"].get("creationTimestamp") or since) < since]

    def replaceable(self, admitted: Admitted, observed: Observed, number: int) -> bool:
        """Whether a deleted Pod would come back from the new template: the StatefulSet's controller has seen it."""
        live = observed.stateful_sets.get(number)
        if live is None or outdated(live["spec"]["template"], self.desired(admitted, observed, number)):
            return False
        return int((live.get("status") or {}).get("observedGeneration") or 0) >= generation_of(live)

    async def volumes(
        self, admitted: Admitted, observed: Observed, membership: Membership, asked: Asked, owner: Obj, built: Built
    ) -> Membership:
        """Claims of all members; the membership with new claims' uids noted on the Lease, beside `asked`."""
        names = admitted.names
        for number in membership.numbers:
            made: str | None = None
            with built.member(number):
                made = await self._claims(admitted, observed, number, built, fresh=not membership.volumes[number])
            if made is not None and not membership.volumes[number]:
                membership = membership.made(number, made)
                cached = self._caches.child(LEASE, names.namespace, names.lease)
                await self._writer.ensure(LEASE, lease(names, admitted.engine.name, membership, asked), cached, owner)
                built.events.append(("InstanceCreated", f"instance {names.instance(number)} is being made"))
        return membership

    async def ensure(self, admitted: Admitted, observed: Observed, number: int, owner: Obj) -> None:
        """The StatefulSet of a member."""
        desired = self.desired(admitted, observed, number)
        await self._writer.ensure(STATEFUL_SET, desired, observed.stateful_sets.get(number), owner)

    async def _claims(
        self, admitted: Admitted, observed: Observed, number: int, built: Built, *, fresh: bool
    ) -> str | None:
        """Make or grow an instance's claims; the uid of the data claim, None when there is none to be made."""
        names = admitted.names
        uid: str | None = None
        for desired in claims(admitted.blueprint, number):
            name = name_of(desired)
            if observed.initialized:
                desired["metadata"]["annotations"] = {INITIALIZED_NOTE: names.incarnation}
            live = self._caches.child(PERSISTENT_VOLUME_CLAIM, names.namespace, name)
            if live is None:
                live = await self._writer.client.find(PERSISTENT_VOLUME_CLAIM, name, names.namespace)
            is_data = name == names.data(number)
            if live is None and is_data and not fresh:
                continue  # it was deleted: the membership says what becomes of the instance
            if live is not None and live["metadata"].get("deletionTimestamp"):
                uid = uid_of(live) if is_data else uid
                continue
            wanted = desired if live is None else resized(desired, live)
            if live is not None:
                _check_shrink(desired, live, built)
            try:
                applied = await self._writer.ensure(PERSISTENT_VOLUME_CLAIM, wanted, live, None)
            except (Forbidden, Invalid) as error:
                if live is None:
                    raise
                built.faults.append(
                    Fault(
                        "VolumeExpansionRefused",
                        f"claim {name} cannot grow: {error.message}",
                        "set allowVolumeExpansion on the storage class, or restore into a new Database of another class",
                        terminal=True,
                        blocking=False,
                    )
                )
                uid = uid_of(live) if is_data else uid
                continue
            uid = uid_of(applied.object) if is_data else uid
        return uid

    async def remove_former(self, names: Names, key: ObjectKey, members: tuple[int, ...]) -> list[str]:
        """Take away what belongs to no member, in order; names of the instances that are on their way out."""
        leaving: list[str] = []
        for number, objects in sorted(self.former(names, key, members).items()):
            leaving.append(names.instance(number))
            await self.take_away(objects)
        return leaving

    async def take_away(self, objects: Mapping[str, list[Obj]], *, volumes: bool = True) -> bool:
        """One step of an instance's removal; True when nothing of it is left (but claims, without `volumes`)."""
        for stateful in objects.get("stateful", ()):
            await self._writer.delete(STATEFUL_SET, stateful)
        for pod in objects.get("pod", ()):
            await self._writer.delete(POD, pod)
        if objects.get("stateful") or objects.get("pod"):
            return False
        for secret in objects.get("tls", ()):
            await self._writer.delete(SECRET, secret)
        if volumes:
            for found in objects.get("claim", ()):
                await self._writer.delete(PERSISTENT_VOLUME_CLAIM, found)
        return not objects.get("tls") and (not volumes or not objects.get("claim"))

    def of(self, names: Names, key: ObjectKey) -> dict[int, dict[str, list[Obj]]]:
        """All objects of instances, by number and kind."""
        found: dict[int, dict[str, list[Obj]]] = {}
        for kind, resource in (
            ("stateful", STATEFUL_SET), ("pod", POD), ("tls", SECRET), ("claim", PERSISTENT_VOLUME_CLAIM),
        ):  # fmt: skip
            for obj in self._caches.all(resource, key):
                number = names.number(labels_of(obj).get(INSTANCE_LABEL, ""))
                if number is None:
                    continue
                if kind == "claim" and labels_of(obj).get(INCARNATION_LABEL) != names.incarnation:
                    continue  # an earlier life's, kept by its deletion policy
                if name_of(obj) not in names.objects(number):
                    continue  # somebody's copy, labels and all: of a volume, or of a Pod
                found.setdefault(number, {}).setdefault(kind, []).append(obj)
        return found

    def former(self, names: Names, key: ObjectKey, members: tuple[int, ...]) -> dict[int, dict[str, list[Obj]]]:
        """Objects of instances that are no members, by number and kind."""
        return {number: objects for number, objects in self.of(names, key).items() if number not in members}


def noted(obj: Obj) -> str:
    """The incarnation whose data a claim or ConfigMap tells of, "" for none."""
    return annotations_of(obj).get(INITIALIZED_NOTE, "")


def _check_shrink(desired: Obj, live: Obj, built: Built) -> None:
    want = desired["spec"]["resources"]["requests"]["storage"]
    have = live.get("spec", {}).get("resources", {}).get("requests", {}).get("storage", "0")
    if amount(want) < amount(have):
        built.faults.append(
            Fault(
                "StorageShrink",
                f"claim {name_of(desired)} has {have} and cannot shrink to {want}",
                "set the size back, or restore into a new Database",
                terminal=True,
                blocking=False,
            )
        )
