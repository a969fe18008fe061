"""The invariants, checked while a world runs. What breaks one ends the run with its name.

`leader`     **Never two leaders acting in the same term.** An act is a request that may change something (all but
             those on the Lease), or a call of the external system, at the moment of its *sending*. At that moment the
             Lease as stored names the sender, with the term (`leaseTransitions`) in which it believes to lead, and no
             other process has acted in that term. What is not promised, by client-go neither: that an act *arrives*
             in time, since the network may hold it up; and that a process which stood still as a whole does nothing
             in the very instant in which it goes on, before its elector, or its watchdog's thread, had a turn. That
             instant is exempt, and nothing after it.
`overlap`    No key is worked on twice at once in one process.
`handlers`   A handler hears of an addition only for what it did not know, of updates and deletions only for what it
             knew, and of no object under another uid without the end of the one before.
`finalizer`  Our finalizer leaves an object only after its clean-up succeeded, and something external is made only for
             an object that has it.
`queue`      Never more ready and waiting keys than there are keys; heaps do not grow with the number of passes; in
             the end nothing is ready, those of standbys too, and no failure is counted.
`rate`       No process sends more than `RATE` requests in a second, whatever fails.
`ended`      A process ends by itself only for a lost Lease, or caches that cannot be filled; nothing of it is left
             running.
`converged`  Within `BOUND` seconds after the last fault all is as the specs say: see `Judge.lacks`.
`caches`     Then each cache equals what is stored, and so does what handlers were told.
`quiet`      Then nobody writes anything but the Lease.
`leaks`      Then each informer has one open watch; after the stop nothing runs and the Lease is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from yoban.kube.informer import Handler, Informer
from yoban.kube.objects import Obj, ObjectKey, generation_of, is_deleting, key_of, resource_version_of, uid_of
from yoban.kube.resource import CONFIG_MAP, LEASE, Resource
from yoban.kube.workqueue import WorkQueue
from yoban.testing.apirequest import Request
from yoban.testing.apiwatch import Change

from tests.simulation.operator import CARD_LABEL, FINALIZER, LEASE_KEY, WIDGET, card_name

if TYPE_CHECKING:
    from tests.simulation.external import External
    from tests.simulation.processes import Process, Processes
    from tests.simulation.replica import Replica

BOUND = 300.0
"""Virtual seconds from the last fault until all is as it should be: a silent watch is noticed after 70 s, the longest
back-off is 60 s, a Lease runs out after 15 s, a failed key waits 18 s, a write that nobody saw is looked at again after 90 s,
and one may come after the other."""

RATE = 60


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str, at: float) -> None:
        super().__init__(f"[{invariant}] at {at:.3f} s: {what}")
        self.invariant = invariant
        self._made_of = (invariant, what, at)

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str, float]]:
        return Violation, self._made_of


class Stored(Protocol):
    """What the server has stored: the model of an API server itself, or what is known of a real one."""

    @property
    def watchers(self) -> int:
        """Open watches of the replicas."""

    def find(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """One object."""

    def objects(self, resource: Resource) -> Iterable[Obj]:
        """All of a kind."""


class Judge:
    """See the module."""

    def __init__(self, loop: Processes, server: Stored, external: External) -> None:
        self.violations: list[Violation] = []
        self.acts = 0
        self.exempt = 0
        """Acts in the instant in which a process went on."""
        self.on_told: Callable[[Resource, Obj], object] = lambda resource, obj: None
        """Called with what a replica's handlers are told, before the replica can act on it."""
        self.writes = 0
        self.wrote_at = 0.0
        self.reconciles = 0
        self._loop = loop
        self._server = server
        self._external = external
        self._second = 0
        self._sent: Counter[str] = Counter()
        self._terms: dict[int, str] = {}
        self._working: set[tuple[str, ObjectKey]] = set()
        self._replicas: dict[Process, Replica] = {}
        self._keys: set[ObjectKey] = set()

    def broken(self, invariant: str, what: str) -> None:
        """Note a violation; the world looks for it."""
        self.violations.append(Violation(invariant, what, self._loop.time()))

    def check(self) -> None:
        """Raise the first violation."""
        if self.violations:
            raise self.violations[0]

    @property
    def terms(self) -> int:
        """How many terms there were in which somebody acted."""
        return len(self._terms)

    # -- leader ------------------------------------------------------------------------------------------------------

    def enter(self, replica: Replica) -> None:
        """From now on `replica` may act."""
        self._replicas[replica.process] = replica

    def sent(self, process: Process, request: Request) -> None:
        """`process` sends `request`."""
        second = int(self._loop.time())
        if self._second != second:
            self._second = second
            self._sent.clear()
        self._sent[process.name] += 1
        if self._sent[process.name] > RATE:
            self.broken("rate", f"{process.name} sent {RATE} requests within a second")
        if request.is_write and request.resource != LEASE.plural:
            self.writes += 1
            self.wrote_at = self._loop.time()
            self._acted(process, f"{request.verb} {request.resource}/{request.subresource} {request.name}")

    def called(self, process: Process, uid: str) -> None:
        """`process` calls the external system."""
        self._acted(process, f"external call for {uid}")
        self._has_finalizer(uid)

    def _acted(self, process: Process, what: str) -> None:
        self.acts += 1
        record = self._replicas[process].lock.record
        term = record.transitions if record is not None else -1
        lease = self._server.find(LEASE, *LEASE_KEY)
        spec: Obj = lease["spec"] if lease is not None else {}
        holder = spec.get("holderIdentity")
        if holder == self._replicas[process].lock.identity and spec.get("leaseTransitions") == term:
            first = self._terms.setdefault(term, process.name)
            if first != process.name:
                self.broken("leader", f"{process.name} and {first} both act in term {term}: {what}")
        elif process.thawed_at == self._loop.time():
            self.exempt += 1
        else:
            stored = f"{holder or 'nobody'} in term {spec.get('leaseTransitions')}"
            self.broken("leader", f"{process.name} acts in term {term} ({what}), and the Lease is held by {stored}")

    # -- work --------------------------------------------------------------------------------------------------------

    def begins(self, process: Process, key: ObjectKey) -> None:
        """A reconcile begins."""
        self.reconciles += 1
        if (process.name, key) in self._working:
            self.broken("overlap", f"{process.name} works on {key} twice at once")
        self._working.add((process.name, key))

    def ends(self, process: Process, key: ObjectKey, queue: WorkQueue[ObjectKey]) -> None:
        """A reconcile ended."""
        self._working.discard((process.name, key))
        known = len(self._keys)
        ready, waiting = len(queue), queue.waiting
        if ready > known or waiting > known:
            self.broken("queue", f"{ready} ready and {waiting} waiting items for {known} keys")
        heaps = max(len(queue._ready), len(queue._waiting))
        if heaps > 24 + 2 * known:
            self.broken("queue", f"a heap of {heaps} entries for {known} keys")

    def handler(self, process: Process, informer: Informer) -> dict[ObjectKey, Obj]:
        """Listen to `informer`; what the returned dict holds is what a handler was told."""
        told: dict[ObjectKey, Obj] = {}

        def wrong(what: str, obj: Obj) -> None:
            known = told.get(key_of(obj))
            found = f"{uid_of(obj)} v{resource_version_of(obj)}"
            before = f"{uid_of(known)} v{resource_version_of(known)}" if known is not None else "nothing"
            self.broken(
                "handlers", f"{process.name}: {what}: {informer.resource} {key_of(obj)} {found}, known is {before}"
            )

        def on_add(obj: Obj, initial: bool) -> None:
            self.on_told(informer.resource, obj)
            if key_of(obj) in told:
                wrong("a second addition", obj)
            told[key_of(obj)] = obj

        def on_update(old: Obj, new: Obj) -> None:
            self.on_told(informer.resource, new)
            known = told.get(key_of(new))
            if known is None or uid_of(known) != uid_of(new) or known is not old:
                wrong("an update of something else than is known", new)
            told[key_of(new)] = new

        def on_delete(obj: Obj, stale: bool) -> None:
            known = told.get(key_of(obj))
            if known is None or uid_of(known) != uid_of(obj):
                wrong("the deletion of something else than is known", obj)
            told.pop(key_of(obj), None)

        informer.add_handler(Handler(on_add, on_update, on_delete))
        return told

    # -- finalizers --------------------------------------------------------------------------------------------------

    def _has_finalizer(self, uid: str) -> None:
        if uid in self._external.gone:
            return
        for obj in self._server.objects(WIDGET):
            if uid_of(obj) == uid and FINALIZER in (obj["metadata"].get("finalizers") or ()):
                return
        self.broken("finalizer", f"something external is made for {uid}, which has no finalizer")

    def changed(self, change: Change) -> None:
        """The server stored a change."""
        if change.resource == WIDGET:
            self._keys.add(change.key)
        if change.resource != WIDGET or change.old is None:
            return
        had = FINALIZER in (change.old["metadata"].get("finalizers") or ())
        has = change.new is not None and FINALIZER in (change.new["metadata"].get("finalizers") or ())
        uid = uid_of(change.old)
        if had and not has and uid not in self._external.gone:
            self.broken("finalizer", f"the finalizer of {change.key} {uid} is gone before the clean-up")

    # -- the end -----------------------------------------------------------------------------------------------------

    def lacks(self) -> str:
        """What is not as the specs say, "" for nothing."""
        widgets = self._server.objects(WIDGET)
        cards = {key_of(o): o for o in self._server.objects(CONFIG_MAP)}
        things = dict(self._external.things)
        for widget in widgets:
            key, uid = key_of(widget), uid_of(widget)
            if is_deleting(widget):
                return f"{key} is still being deleted"
            problem = _lack(widget, cards.pop(ObjectKey(key.namespace, card_name(key.name)), None))
            if problem:
                return f"{key}: {problem}"
            if things.pop(uid, (0, None))[1] != widget["spec"]["value"]:
                return f"{key}: the external thing is not so"
        if cards or things:
            return f"left over: {[str(key) for key in cards]} {list(things)}"
        return ""

    def final(self, replicas: list[Replica]) -> None:
        """All has converged and is quiet: caches, queues and watches are as they should be."""
        for problem in self.stale(replicas):
            self.broken("caches", problem)
        for replica in replicas:
            queue = replica.controller.queue
            held = len(queue._dirty) + queue.processing
            if held or len(queue.limiter):
                what = f"{held} items and {len(queue.limiter)} counters of failures"
                self.broken("queue", f"{replica.process.name}: the queue holds {what}, and all is done")
            replica.check_mutation()
        watches = self.reflectors(replicas)
        if self._server.watchers > watches:
            self.broken("leaks", f"{self._server.watchers} open watches for {watches} reflectors")

    def reflectors(self, replicas: list[Replica]) -> int:
        """How many watches should be open."""
        return sum(len(replica.scopes) * len(replica.told) for replica in replicas)

    def stale(self, replicas: list[Replica]) -> list[str]:
        """Which caches, or which handlers' knowledge, differ from what is stored."""
        problems = []
        for replica in replicas:
            if not replica.told:
                problems.append(f"{replica.process.name} has no caches yet")
            for informer, told in replica.told:
                stored = {
                    key_of(o): resource_version_of(o)
                    for o in self._server.objects(informer.resource)
                    if informer.resource != CONFIG_MAP or CARD_LABEL in (o["metadata"].get("labels") or {})
                }
                views: list[tuple[str, Any]] = [("cache", informer.store.objects()), ("handlers", told.values())]
                for name, objects in views:
                    seen = {key_of(o): resource_version_of(o) for o in objects}
                    if seen != stored:
                        problems.append(
                            f"{replica.process.name} {informer.resource} {name}: {seen}, stored is {stored}"
                        )
        return problems


def _lack(widget: Obj, card: Obj | None) -> str:
    value = str(widget["spec"]["value"])
    if FINALIZER not in (widget["metadata"].get("finalizers") or ()):
        return "no finalizer"
    if card is None:
        return "no ConfigMap"
    if card.get("data") != {"value": value}:
        return f"the ConfigMap says {card.get('data')}, the spec {value}"
    owners = [owner["uid"] for owner in card["metadata"].get("ownerReferences") or ()]
    if owners != [uid_of(widget)]:
        return f"the ConfigMap is owned by {owners}, not {uid_of(widget)}"
    status, generation = widget.get("status") or {}, generation_of(widget)
    if status.get("observedGeneration") != generation:
        return f"observedGeneration is {status.get('observedGeneration')}, generation {generation}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] == "True":
            return "" if condition["observedGeneration"] == generation else "the condition is stale"
    return "not Ready"
