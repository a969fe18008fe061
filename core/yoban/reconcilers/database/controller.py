"""The controller of Databases: what wakes it, and with what it works.

Guarantees: a change of any child, of what a Database refers to, of an agent's word or a repository leads to a pass;
renewals of the primary's Lease do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from yoban.kube.objects import Obj, ObjectKey, annotations_of, key_of, labels_of
from yoban.kube.resource import LEASE, POD
from yoban.model.instance import DATABASE_LABEL
from yoban.reconcilers.database.admit import OperatorFacts
from yoban.reconcilers.database.builders.blueprint import Runtime
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.reconciler import DatabaseReconciler
from yoban.reconcilers.shared import BY_POLICY, BY_STORE, Shared
from yoban.runtime import NORMAL, URGENT, Controller, Manager, by_label, intent_changed, users_of
from yoban.runtime.settings import Settings

_HANDED_ON = ("YOBAN_PLUGINS", "YOBAN_PLUGINS_DISABLED", "YOBAN_LOG_LEVEL", "YOBAN_LOG_FORMAT")


def operator_facts(settings: Settings, environ: Mapping[str, str]) -> OperatorFacts:
    """What a new Pod gets of the operator: its image, and the plugins and telemetry that its agents are to have."""
    env = {name: value for name, value in environ.items() if value and (name in _HANDED_ON or name.startswith("OTEL_"))}
    # Headers may hold a token, and nothing secret goes into an environment.
    env = {name: value for name, value in env.items() if "HEADERS" not in name}
    return OperatorFacts(settings.namespace, Runtime(settings.image, env=env, pull_policy=settings.image_pull_policy))


def build(manager: Manager, shared: Shared, operator: OperatorFacts, *, workers: int = 4) -> Controller:
    """Make the controller and give it to the manager. To be called once, before the manager runs."""
    caches = Caches.of(manager, operator.namespace)
    recorder = shared.recorder

    def tell(obj: Obj, reason: str, note: str, warning: bool) -> None:
        if recorder is not None:
            recorder.event(obj, reason, note, action="Reconcile", warning=warning)

    reconciler = DatabaseReconciler(
        shared.client,
        caches,
        shared.registry,
        operator,
        agents=shared.observatory,
        stores=shared.stores,
        catalogues=shared.catalogues,
        verdict=shared.verdicts.get,
        tell=tell,
        clock=shared.clock,
    )
    controller = Controller("database", reconciler.reconcile, workers=workers)
    controller.watches(caches.databases, predicate=intent_changed)
    for resource, informer in caches.children.items():
        controller.watches(
            informer,
            by_label(DATABASE_LABEL),
            predicate=_reign_changed if resource is LEASE else None,
            priority=URGENT if resource in (POD, LEASE) else NORMAL,
        )
    controller.watches(caches.authorities, _database_of_authority)
    controller.watches(caches.policies, users_of(caches.databases.store, BY_POLICY))
    controller.watches(caches.stores, users_of(caches.databases.store, BY_STORE))
    controller.watches(caches.stores, _users_through_policies(caches))
    shared.observatory.subscribe(controller.enqueue)
    shared.catalogues.subscribe(controller.enqueue)
    shared.verdicts.subscribe(controller.enqueue)
    manager.add(controller)
    return controller


def _reign_changed(old: Obj | None, new: Obj) -> bool:
    """Whether a Lease says something else than that its holder is alive."""
    if old is None:
        return True
    holders = [(obj.get("spec") or {}).get("holderIdentity") for obj in (old, new)]
    return holders[0] != holders[1] or annotations_of(old) != annotations_of(new) or labels_of(old) != labels_of(new)


def _database_of_authority(obj: Obj) -> Iterable[ObjectKey]:
    notes = annotations_of(obj)
    namespace, name = notes.get("yoban.dev/database-namespace"), notes.get("yoban.dev/database-name")
    return (ObjectKey(namespace, name),) if namespace and name else ()


def _users_through_policies(caches: Caches) -> Callable[[Obj], Iterable[ObjectKey]]:
    def mapping(store: Obj) -> Iterable[ObjectKey]:
        for policy in caches.policies.store.by_index(BY_STORE, str(key_of(store))):
            for database in caches.databases.store.by_index(BY_POLICY, str(key_of(policy))):
                yield key_of(database)

    return mapping
