"""A cluster in this process for the Database reconciler: the fake API server, the controllers of Kubernetes that matter,
agents that behave, and an operator that can be killed and made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

from yoban.errors import NotFound as Missing
from yoban.errors import YobanError
from yoban.kube.client import Client
from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, ObjectKey, annotations_of, copy, labels_of, name_of
from yoban.kube.resource import LEASE, PERSISTENT_VOLUME_CLAIM, POD, SECRET, STATEFUL_SET, Resource
from yoban.kube.transport import Answer
from yoban.model.control import AgentStatus, ArchiveState, Push, ReplicaState, ServerState, SwitchoverState
from yoban.model.instance import (
    LEASE_INITIALIZED,
    LEASE_LAST_HOLDER,
    LEASE_SWITCHOVER,
    LEASE_TERM,
    ROLE_LABEL,
    InstanceDocument,
    Member,
    StoreDocument,
)
from yoban.plugins import Engine
from yoban.plugins.registry import Registry, Source
from yoban.reconcilers.database.admit import OperatorFacts
from yoban.reconcilers.database.builders.blueprint import Runtime
from yoban.reconcilers.database.builders.document import read
from yoban.reconcilers.database.builders.lease import Membership
from yoban.reconcilers.database.caches import CHILDREN, INDEX, Caches, database_of
from yoban.reconcilers.database.ports import Catalogued, Credentials
from yoban.reconcilers.database.reconciler import DatabaseReconciler
from yoban.reconcilers.kinds import BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.reconcilers.shared import BY_POLICY, BY_STORE, policy_of, policy_stores_of, source_store_of
from yoban.testing.apirequest import Request
from yoban.testing.apiserver import FakeApiServer

NAMESPACE = "shop"
NAME = "orders"
KEY = ObjectKey(NAMESPACE, NAME)
OPERATOR = "yoban-system"


class Killed(Exception):
    """The operator's process ended here."""


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def boottime(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@dataclass
class StubAgents:
    """What the observatory would tell, set by a test."""

    said: dict[str, AgentStatus] = field(default_factory=dict)
    observed: dict[ObjectKey, list[str]] = field(default_factory=dict)
    pushed: dict[ObjectKey, Push] = field(default_factory=dict)
    credentials: Credentials | None = None

    def observe(self, key: ObjectKey, members: Sequence[Member], credentials: Credentials) -> None:
        self.observed[key] = [member.name for member in members]
        self.credentials = credentials

    def statuses(self, key: ObjectKey) -> Mapping[str, AgentStatus]:
        return dict(self.said) if key in self.observed else {}

    def push(self, key: ObjectKey, push: Push) -> None:
        self.pushed[key] = push

    def forget(self, key: ObjectKey) -> None:
        self.observed.pop(key, None)


@dataclass
class StubStores:
    """ObjectStores by name."""

    documents: dict[str, StoreDocument | YobanError] = field(
        default_factory=lambda: {"s3": StoreDocument(provider="memory", bucket="b", credentials={"key": "hidden"})}
    )

    async def document(self, namespace: str, name: str) -> StoreDocument:
        found = self.documents.get(name)
        if isinstance(found, YobanError):
            raise found
        if found is None:
            raise Missing("there is no such ObjectStore", object=name, reason="StoreMissing")
        return found


@dataclass
class StubCatalogues:
    """What the catalogue observers would tell."""

    found: Catalogued | None = None
    answer: Any = None
    asked: list[str] = field(default_factory=list)

    def look(self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine) -> Catalogued | None:
        return self.found

    def plan(self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine, target: Any) -> Any:
        self.asked.append(path)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def forget(self, key: ObjectKey) -> None:
        self.asked.clear()


class World:
    """One cluster with one Database in it."""

    def __init__(self, engine: Engine) -> None:
        self.server = FakeApiServer()
        for resource in (DATABASE, OBJECT_STORE, BACKUP_POLICY):
            self.server.register(resource)
        self.client = Client(self.server)
        self.registry = Mock(spec=Registry)
        self.registry.engine.return_value = engine
        self.registry.engine_source.return_value = Source("keeper", "yoban-keeper", "1")
        self.time = Time()
        self.agents = StubAgents()
        self.stores = StubStores()
        self.catalogues = StubCatalogues()
        self.events: list[str] = []
        self.notes: list[str] = []
        self.runtime = Runtime("registry.test/yoban:1", env={"YOBAN_PLUGINS": "keeper"})
        self.verdict: Any = None
        self.reigned = ""
        self.refused: set[str] = set()
        """Pods that an admission policy does not let be made."""
        self.lying: set[Resource] = set()
        """Kinds whose cache shows nothing: it is behind."""
        self.start()

    # -- the operator ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new operator process: empty memory, caches to be filled."""
        self.agents.observed.clear()

        def cache(resource: Resource, **indexers: Any) -> Informer:
            return Informer(self.client, resource, indexers=indexers, detect_mutation=True)

        self.caches = Caches(
            databases=cache(DATABASE, **{BY_POLICY: policy_of, BY_STORE: source_store_of}),
            policies=cache(BACKUP_POLICY, **{BY_STORE: policy_stores_of}),
            stores=cache(OBJECT_STORE),
            authorities=cache(SECRET),
            children={resource: cache(resource, **{INDEX: database_of}) for resource in CHILDREN},
        )
        self.reconciler = DatabaseReconciler(
            self.client,
            self.caches,
            self.registry,
            OperatorFacts(OPERATOR, self.runtime),
            agents=self.agents,
            stores=self.stores,
            catalogues=self.catalogues,
            verdict=lambda key: self.verdict,
            tell=self._tell,
            clock=self.time,
        )

    def _tell(self, obj: Obj, reason: str, note: str, warning: bool) -> None:
        self.events.append(reason)
        self.notes.append(note)

    def fill(self) -> None:
        """Let every cache hear of everything, but those that lie."""
        informers = [self.caches.databases, self.caches.policies, self.caches.stores, *self.caches.children.values()]
        for informer in informers:
            shown = [] if informer.resource in self.lying else self._shown(informer.resource)
            informer.replace(shown, None)
        authorities = [o for o in self.server.objects(SECRET, OPERATOR) if SECRET not in self.lying]
        self.caches.authorities.replace(authorities, None)

    def _shown(self, resource: Resource) -> list[Obj]:
        objects = self.server.objects(resource)
        if resource in self.caches.children:
            return [o for o in objects if "yoban.dev/database" in (o["metadata"].get("labels") or {})]
        return objects

    async def once(self) -> Any:
        """One pass, with caches up to date before it."""
        self.fill()
        result = await self.reconciler.reconcile(KEY)
        for informer in self.caches.children.values():
            informer.check_mutation()
        self.caches.databases.check_mutation()
        return result

    async def settle(self, passes: int = 30, *, cluster: bool = True) -> int:
        """Pass until nothing is written any more; how many passes it took. Between passes the cluster works."""
        for number in range(passes):
            before = len(self.server.writes())
            await self.once()
            written = len(self.server.writes()) - before
            moved = self.work() if cluster else False
            if not written and not moved:
                return number
        raise AssertionError(f"still writing: {[(w.verb, w.resource, w.name) for w in self.server.writes()[-5:]]}")

    def kill_after(self, writes: int) -> None:
        """End the process instead of its write number `writes` + 1."""
        self.server.faults.clear()
        left = [writes]

        def fault(request: Request) -> Answer | Exception | None:
            if not request.is_write:
                return None
            left[0] -= 1
            return Killed() if left[0] < 0 else None

        self.server.faults.append(fault)

    # -- the cluster ---------------------------------------------------------------------------------------------------

    def work(self) -> bool:
        """What Kubernetes' controllers and the agents do; whether anything changed."""
        version = self.server.version
        self.server.collect_garbage()
        self._run_stateful_sets()
        self._run_agents()
        return self.server.version != version

    def _run_stateful_sets(self) -> None:
        wanted = {f"{name_of(s)}-0": s for s in self.server.objects(STATEFUL_SET, NAMESPACE)}
        for pod in self.server.objects(POD, NAMESPACE):
            if name_of(pod) not in wanted:
                self.server.remove(POD, NAMESPACE, name_of(pod))
        for name, stateful in wanted.items():
            generation = stateful["metadata"].get("generation", 0)
            if (stateful.get("status") or {}).get("observedGeneration") != generation:
                stateful["status"] = {"observedGeneration": generation}
                self.server.put(STATEFUL_SET, stateful)
            claim = next(
                v["persistentVolumeClaim"]["claimName"]
                for v in stateful["spec"]["template"]["spec"]["volumes"]
                if v["name"] == "data"
            )
            bound = self.server.find(PERSISTENT_VOLUME_CLAIM, NAMESPACE, claim)
            if self.server.find(POD, NAMESPACE, name) is None and bound is not None and name not in self.refused:
                template = copy(stateful["spec"]["template"])
                self.server.put(
                    POD,
                    {
                        "metadata": {"name": name, "namespace": NAMESPACE, **template["metadata"]},
                        "spec": template["spec"],
                        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                    },
                )

    def _run_agents(self) -> None:
        """The founder makes the data, everybody runs, restarts are done, switchovers succeed."""
        config = self.find("configmaps", f"{NAME}-spec")
        lease = self.server.find(LEASE, NAMESPACE, f"{NAME}-primary")
        document = read(config)
        if document is None or lease is None:
            self.agents.said.clear()
            return
        alive = [m.name for m in document.members if self.server.find(POD, NAMESPACE, f"{m.name}-0") is not None]
        notes = annotations_of(lease)
        holder = (lease.get("spec") or {}).get("holderIdentity", "")
        if document.founder in alive and not notes.get(LEASE_INITIALIZED):
            self._reign(document.founder, {LEASE_INITIALIZED: document.incarnation, LEASE_TERM: "1"})
        elif not holder and self.reigned in alive and notes.get(LEASE_INITIALIZED):
            self._reign(self.reigned, {})  # its volume tells that it reigned last
        elif document.switchover is not None and notes.get(LEASE_SWITCHOVER) != document.switchover.id and holder:
            asked = document.switchover
            target = asked.target if asked.target in alive and holder in alive else holder
            self._reign(target, {LEASE_SWITCHOVER: asked.id, LEASE_TERM: str(int(notes.get(LEASE_TERM, "1")) + 1)})
        lease = self.server.find(LEASE, NAMESPACE, f"{NAME}-primary") or {}
        holder = (lease.get("spec") or {}).get("holderIdentity", "")
        notes = annotations_of(lease)
        begun = notes.get(LEASE_SWITCHOVER, "")
        for name in alive:
            self._label(f"{name}-0", "primary" if name == holder else "replica")
        self.agents.said = {
            name: AgentStatus(
                instance=name,
                phase="running",
                data="ready",
                ready=True,
                generation=document.generation,
                revision=document.revision,
                restart=document.restart_of(name),
                switchover=SwitchoverState(id=begun, state="done" if begun else ""),
                archive=ArchiveState(
                    active=name == holder, lag_seconds=0.0, window_end=self.time.now() if name == holder else None
                ),
                server=ServerState(
                    role="primary" if name == holder else "replica",
                    accepting=True,
                    version="2.1",
                    position="7",
                    lag_seconds=0.0,
                    replicas=[
                        ReplicaState(name=other, streaming=True, lag_seconds=0.0)
                        for other in alive
                        if name == holder and other != holder
                    ],
                ),
            )
            for name in alive
        }

    def _label(self, pod: str, role: str) -> None:
        found = self.server.find(POD, NAMESPACE, pod)
        if found is None or labels_of(found).get(ROLE_LABEL) == role:
            return
        self.server.edit(
            POD, NAMESPACE, pod, lambda obj: obj["metadata"].setdefault("labels", {}).update({ROLE_LABEL: role})
        )

    def _reign(self, name: str, notes: dict[str, str]) -> None:
        def change(lease: Obj) -> None:
            lease.setdefault("spec", {}).update({"holderIdentity": name, "leaseDurationSeconds": 15})
            lease["metadata"].setdefault("annotations", {}).update({**notes, LEASE_LAST_HOLDER: name})

        self.server.edit(LEASE, NAMESPACE, f"{NAME}-primary", change)
        self.reigned = name

    # -- looking and changing ------------------------------------------------------------------------------------------

    def find(self, plural: str, name: str) -> Obj | None:
        """A child by the plural of its kind."""
        resource = next(r for r in CHILDREN if r.plural == plural)
        return self.server.find(resource, NAMESPACE, name)

    def names(self, resource: Resource) -> list[str]:
        """Names of all objects of a kind in the Database's namespace."""
        return sorted(name_of(o) for o in self.server.objects(resource, NAMESPACE))

    @property
    def database(self) -> Obj:
        """The Database."""
        found = self.server.find(DATABASE, NAMESPACE, NAME)
        assert found is not None
        return found

    @property
    def status(self) -> dict[str, Any]:
        """Its status."""
        found: dict[str, Any] = self.database.get("status") or {}
        return found

    def condition(self, type_: str = "Ready") -> dict[str, Any]:
        """One of its conditions."""
        found: dict[str, Any] = next(c for c in self.status["conditions"] if c["type"] == type_)
        return found

    def make(self, **spec: Any) -> None:
        """Create the Database."""
        self.server.put(
            DATABASE,
            {
                "metadata": {"name": NAME, "namespace": NAMESPACE, "generation": 1, "uid": "11111111-2222"},
                "spec": {"engine": "keeper", "version": "2", "instances": 3, "storage": {"size": "1Gi"}, **spec},
            },
        )

    def change(self, edit: Callable[[Obj], None], *, spec: bool = True) -> None:
        """Change the Database as its owner."""

        def change(obj: Obj) -> None:
            edit(obj)
            if spec:
                obj["metadata"]["generation"] = obj["metadata"].get("generation", 1) + 1

        self.server.edit(DATABASE, NAMESPACE, NAME, change)

    def annotate(self, **notes: str) -> None:
        """Annotate the Database; `_` stands for `-`."""
        named = {f"yoban.dev/{name.replace('_', '-')}": value for name, value in notes.items()}
        self.change(lambda obj: obj["metadata"].setdefault("annotations", {}).update(named), spec=False)

    def make_policy(self, name: str = "nightly", store: str = "s3") -> None:
        """Create a BackupPolicy."""
        self.server.put(
            BACKUP_POLICY,
            {
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"destinations": [{"objectStore": store}], "maximumAge": "24h", "rpo": "5s"},
            },
        )

    async def delete(self) -> None:
        """Delete the Database."""
        await self.client.delete(DATABASE, NAME, NAMESPACE)


def document(world: World) -> InstanceDocument:
    found = read(world.find("configmaps", "orders-spec"))
    assert found is not None
    return found


def membership(world: World) -> Membership:
    lease = world.server.find(LEASE, NAMESPACE, "orders-primary")
    assert lease is not None
    return Membership.parse(annotations_of(lease))


def uids(world: World, resource: Resource) -> dict[str, str]:
    return {name_of(o): o["metadata"]["uid"] for o in world.server.objects(resource, NAMESPACE)}


def scale(wanted: int, obj: dict[str, Any]) -> None:
    obj["spec"]["instances"] = wanted
