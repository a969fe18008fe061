"""An API server in this process, for tests of controllers.

Guarantees the semantics that controllers depend on, held to a real kube-apiserver by tests: optimistic
locking, uids and generations, status subresources, finalizers and deletion, server-side apply with field ownership,
selectors, paging, watches with bookmarks that end in time, versions that expire. Everything is synchronous inside, so
each request is atomic; time is the running loop's, so it works on virtual time. No schemas, no defaults, no admission,
no garbage collection but on demand.

Use it as the transport of a client::

    server = FakeApiServer()
    client = Client(server)
    server.put(CONFIG_MAP, {"metadata": {"namespace": "shop", "name": "a"}, "data": {"k": "v"}})
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from yoban.kube import resource as resources
from yoban.kube.clock import Clock, SystemClock, rfc3339
from yoban.kube.errors import Timeout, Unreachable
from yoban.kube.objects import Obj, ObjectKey, copy, key_of
from yoban.kube.resource import Resource
from yoban.kube.transport import Answer
from yoban.testing.apilist import as_of, page, refuse_future
from yoban.testing.apirequest import Request, parse_request
from yoban.testing.apistatus import Rejection, failure
from yoban.testing.apiwatch import Change, Watcher, Whole
from yoban.testing.fieldsets import Ownership
from yoban.testing.patches import json_patch, merge_patch
from yoban.testing.selectors import selector

_NO_STATUS = frozenset(("configmaps", "secrets", "events", "leases", "endpoints", "endpointslices", "serviceaccounts"))
_BUILT_IN = [value for value in vars(resources).values() if isinstance(value, Resource)]


Fault = Callable[[Request], "Answer | Exception | Awaitable[Answer | None] | None"]
"""Answers in the server's place: an answer, an error to raise, something to await first, or None to let it pass."""


class _Collection:
    def __init__(self, resource: Resource, status: bool, validate: Callable[[Obj], str | None] | None) -> None:
        self.resource = resource
        self.status = status
        self.validate = validate
        self.objects: dict[ObjectKey, Obj] = {}
        self.owners: dict[ObjectKey, Ownership] = {}


class FakeApiServer:
    """See the module. It is a `Transport`.

    Args:
        clock: for timestamps.
        latency: seconds before each answer.
        uids: gives the uid of each new object.

    Attributes:
        listening: whether connections are accepted. What is refused is no request and counts in `refused` alone.
        lag: writes that the cache behind lists with a resource version has not seen yet.
        on_change: called with each write, after it is stored.
    """

    def __init__(
        self, *, clock: Clock | None = None, latency: float = 0.0, uids: Callable[[], str] = lambda: str(uuid.uuid4())
    ) -> None:
        self.clock = clock or SystemClock()
        self.latency = latency
        self.lag = 0
        self.listening = True
        self.refused = 0
        self.probes = 0
        """How often somebody asked whether it is ready; these are no `requests`, and no fault meets them."""
        self.on_change: list[Callable[[Change], object]] = []
        self._uids = uids
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._collections: dict[tuple[str, str, str], _Collection] = {}
        self._version = 100
        self._oldest = 100
        self._history: deque[Change] = deque()
        self._watchers: list[Watcher] = []
        for resource in _BUILT_IN:
            self.register(resource, status=resource.plural not in _NO_STATUS)

    # -- for tests -------------------------------------------------------------------------------------------------

    def register(
        self, resource: Resource, *, status: bool = True, validate: Callable[[Obj], str | None] | None = None
    ) -> None:
        """Serve a kind; `validate` says what is wrong with an object (422), None for nothing."""
        key = (resource.group, resource.version, resource.plural)
        self._collections[key] = _Collection(resource, status, validate)

    def put(self, resource: Resource, obj: Obj, *, manager: str = "test") -> Obj:
        """Store `obj` as it is given, status included; keeps uid and what is not given of metadata. Returns a copy."""
        collection = self._collection(resource)
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, **copy(obj)}
        old = collection.objects.get(key_of(obj))
        kept = {
            k: v for k, v in (old or {}).get("metadata", {}).items() if k in ("uid", "creationTimestamp", "generation")
        }
        obj["metadata"] = {**kept, **obj["metadata"]}
        return copy(self._store(collection, old, obj, manager, ""))

    def edit(self, resource: Resource, namespace: str, name: str, change: Callable[[Obj], None]) -> Obj:
        """Change the stored object as any other program would; KeyError when it is not there. Returns a copy."""
        collection = self._collection(resource)
        old = collection.objects[ObjectKey(namespace, name)]
        new = copy(old)
        change(new)
        return copy(self._store(collection, old, new, "test", ""))

    def find(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """A copy of the stored object, or None."""
        obj = self._collection(resource).objects.get(ObjectKey(namespace, name))
        return copy(obj) if obj is not None else None

    def objects(self, resource: Resource, namespace: str | None = None) -> list[Obj]:
        """Copies of all stored objects of a kind."""
        stored = self._collection(resource).objects
        return [copy(o) for k, o in stored.items() if namespace is None or k.namespace == namespace]

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Take the object away at once, whatever its finalizers; nothing when it is not there."""
        collection = self._collection(resource)
        old = collection.objects.get(ObjectKey(namespace, name))
        if old is not None:
            self._drop(collection, old)

    def collect_garbage(self) -> int:
        """Delete what all owners of are gone, until nothing changes; how many objects. The real one is a controller."""
        removed = 0
        while True:
            uids = {o["metadata"]["uid"] for c in self._collections.values() for o in c.objects.values()}
            orphans = [
                (c, o)
                for c in self._collections.values()
                for o in c.objects.values()
                if (owners := o["metadata"].get("ownerReferences"))
                and not any(owner["uid"] in uids for owner in owners)
                and not o["metadata"].get("deletionTimestamp")
            ]
            if not orphans:
                return removed
            for collection, orphan in orphans:
                self._delete_object(collection, orphan)
                removed += 1

    def writes(self) -> list[Request]:
        """The requests so far that may have changed something."""
        return [request for request in self.requests if request.is_write]

    def fail(
        self, answer: Answer | Exception, *, verb: str = "*", resource: str = "*", times: int = 1, after: int = 0
    ) -> None:
        """Answer the next `times` requests that match (glob patterns), after letting `after` of them pass, with `answer`."""
        left = [after, times]

        def fault(request: Request) -> Answer | Exception | None:
            if not (fnmatch.fnmatch(request.verb, verb) and fnmatch.fnmatch(request.resource, resource)):
                return None
            if left[0] > 0:
                left[0] -= 1
                return None
            if left[1] <= 0:
                return None
            left[1] -= 1
            return answer

        self.faults.append(fault)

    def compact(self) -> None:
        """Forget all history: watches from a version before now get a 410, continue tokens too."""
        self._oldest = self._version
        self._history.clear()

    def go_away(self) -> None:
        """Break all connections and accept none; `listening` brings it back."""
        self.listening = False
        self.break_watches()

    def end_watches(self) -> None:
        """End all watches as a server that restarts in order does."""
        for watcher in list(self._watchers):
            watcher.end()

    def break_watches(self) -> None:
        """Break the connections of all watches."""
        for watcher in list(self._watchers):
            watcher.end(Unreachable("the connection broke"))

    def expire_watches(self) -> None:
        """Compact, and send each watch an ERROR event with a 410."""
        self.compact()
        for watcher in list(self._watchers):
            watcher.send("ERROR", Rejection(410, "Expired", "too old resource version").status())
            watcher.end()

    def inject(self, data: bytes) -> None:
        """Send raw bytes on all watches."""
        for watcher in list(self._watchers):
            watcher.push(data)

    @contextlib.contextmanager
    def silence(self) -> Any:
        """Within the block no watch brings anything, bookmarks and ends included; what happens is lost for them."""
        silenced = list(self._watchers)
        for watcher in silenced:
            watcher.muted = True
        yield

    @property
    def watchers(self) -> int:
        """Open watches."""
        return len(self._watchers)

    @property
    def version(self) -> str:
        """The newest resource version."""
        return str(self._version)

    # -- the transport -----------------------------------------------------------------------------------------------

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        """See `Transport.request`."""
        try:
            async with asyncio.timeout(deadline):
                await self._accept(target)
                if target == "/readyz":
                    self.probes += 1
                    return Answer(200, {}, b"ok")
                request, collection = self._parse(method, target, body)
                fault = await self._fault(request)
                if fault is not None:
                    return fault
                return self._answer(request, collection, content_type or "")
        except TimeoutError as error:
            raise Timeout("no answer", object=target) from error

    @contextlib.asynccontextmanager
    async def stream(self, target: str, *, deadline: float) -> AsyncIterator[Any]:
        """See `Transport.stream`."""
        try:
            async with asyncio.timeout(deadline):
                await self._accept(target)
                request, collection = self._parse("GET", target, None)
                fault = await self._fault(request)
        except TimeoutError as error:
            raise Timeout("no answer", object=target) from error
        if fault is None and collection is None:
            fault = failure(Rejection(404, "NotFound", "the server could not find the requested resource"))
        if fault is not None or collection is None:
            yield Whole(fault or Answer(404, {}, b""))
            return
        watcher = self._watch(collection, request)
        try:
            yield watcher
        finally:
            self.close_watch(watcher)

    async def _accept(self, target: str) -> None:
        await asyncio.sleep(self.latency)
        if not self.listening:
            self.refused += 1
            raise Unreachable("connection refused", object=target, sent=False)

    async def close(self) -> None:
        """End all watches."""
        self.end_watches()

    def serve(self, method: str, target: str, body: bytes | None = None, content_type: str | None = None) -> Answer:
        """The answer to one request, at once and without faults: for a model of the network around the server."""
        request, collection = self._parse(method, target, body)
        self.requests.append(request)
        return self._answer(request, collection, content_type or "")

    def open(self, target: str) -> Watcher | Answer:
        """A watch, at once and without faults, to be given back by `close_watch`; or the answer in its place."""
        request, collection = self._parse("GET", target, None)
        self.requests.append(request)
        if collection is None:
            return failure(Rejection(404, "NotFound", "the server could not find the requested resource"))
        return self._watch(collection, request)

    def close_watch(self, watcher: Watcher) -> None:
        """Nobody reads it any more; nothing when it is closed already."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    async def _fault(self, request: Request) -> Answer | None:
        self.requests.append(request)
        for fault in list(self.faults):
            outcome = fault(request)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None and not isinstance(outcome, Answer):
                outcome = await outcome
            if outcome is not None:
                return outcome
        return None

    # -- requests --------------------------------------------------------------------------------------------------

    def _parse(self, method: str, target: str, body: bytes | None) -> tuple[Request, _Collection | None]:
        request = parse_request(method, target, body)
        return request, self._collections.get((request.group, request.version, request.resource))

    def _answer(self, request: Request, collection: _Collection | None, content_type: str) -> Answer:
        try:
            if collection is None:
                raise Rejection(404, "NotFound", "the server could not find the requested resource")
            code, obj = self._serve(request, collection, content_type)
        except Rejection as rejection:
            return failure(rejection)
        return Answer(code, {"Content-Type": "application/json"}, msgspec.json.encode(obj))

    def _serve(self, request: Request, collection: _Collection, content_type: str) -> tuple[int, Obj]:
        if request.verb == "list":
            return 200, self._list(request, collection)
        if request.verb == "create":
            return 201, self._create(request, collection)
        key = ObjectKey(request.namespace, request.name)
        old = collection.objects.get(key)
        if content_type == "application/apply-patch+yaml":
            return (200 if old else 201), self._apply(request, collection, old)
        if old is None or (request.subresource and not collection.status):
            name = str(request.name)
            if request.verb == "update" and request.resource == "leases" and request.body["metadata"].get("uid"):
                # As the real one: a Lease may be made by an update, so what fails is the comparison with nothing.
                raise Rejection(409, "Conflict", f"Precondition failed: UID of {collection.resource} {name}", name=name)
            raise Rejection(404, "NotFound", f'{collection.resource} "{name}" not found', name=name)
        if request.verb == "get":
            return 200, old
        if request.verb == "delete":
            return 200, self._delete(request, collection, old)
        if request.verb == "update":
            new = request.body
            if not new["metadata"].get("resourceVersion") and "." in collection.resource.group:
                raise Rejection(422, "Invalid", "metadata.resourceVersion: must be specified for an update")
        elif content_type == "application/merge-patch+json":
            new = merge_patch(old, request.body)
        else:
            new = json_patch(old, request.body)
        return 200, self._replace(request, collection, old, new)

    def _list(self, request: Request, collection: _Collection) -> Obj:
        wanted, version = request.query.get("resourceVersion", ""), self._version
        refuse_future(wanted, version)
        if wanted and self.lag and "continue" not in request.query:
            version = max(self._oldest, version - self.lag, int(wanted) if wanted.isdigit() else 0)
        objects = as_of(collection.objects, self._history, collection.resource, version)
        return page(
            objects.items(), collection.resource, request.namespace, request.query, version=version, oldest=self._oldest
        )

    def _create(self, request: Request, collection: _Collection) -> Obj:
        obj = copy(request.body)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if metadata.get("resourceVersion"):
            raise Rejection(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        self._address(request, collection, metadata)
        key = key_of(obj)
        if key in collection.objects:
            raise Rejection(409, "AlreadyExists", f'{collection.resource} "{key.name}" already exists', name=key.name)
        if collection.status:
            obj.pop("status", None)
        for name in ("uid", "deletionTimestamp", "managedFields"):
            metadata.pop(name, None)
        return self._finish(request, collection, None, obj)

    def _address(self, request: Request, collection: _Collection, metadata: Obj) -> None:
        if not metadata.get("name"):
            raise Rejection(422, "Invalid", "metadata.name: Required value: name or generateName is required")
        if request.name and metadata["name"] != request.name:
            raise Rejection(400, "BadRequest", "the name of the object does not match the name on the URL")
        if collection.resource.namespaced:
            if metadata.setdefault("namespace", request.namespace) != request.namespace:
                raise Rejection(400, "BadRequest", "the namespace of the object does not match the request")
        else:
            metadata.pop("namespace", None)

    def _replace(self, request: Request, collection: _Collection, old: Obj, new: Obj) -> Obj:
        new = copy(new)
        metadata, was = new.setdefault("metadata", {}), old["metadata"]
        self._address(request, collection, metadata)
        self._check(metadata, was)
        if request.subresource == "status":
            new = {**old, "status": new.get("status", {}), "metadata": dict(was)}
        else:
            if collection.status:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = old["status"]
            for name in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
                metadata.pop(name, None)
                if name in was:
                    metadata[name] = was[name]
            if was.get("deletionTimestamp"):
                added = set(metadata.get("finalizers") or ()) - set(was.get("finalizers") or ())
                if added:
                    raise Rejection(422, "Invalid", "metadata.finalizers: Forbidden: no new finalizers can be added")
        return self._finish(request, collection, old, new)

    @staticmethod
    def _check(metadata: Obj, was: Obj) -> None:
        """Optimistic locking: version and uid, where given, must be the present ones."""
        for name in ("resourceVersion", "uid"):
            if metadata.get(name) and metadata[name] != was[name]:
                message = "the object has been modified; please apply your changes to the latest version and try again"
                raise Rejection(409, "Conflict", f"{message} ({name})", name=was["name"])

    def _apply(self, request: Request, collection: _Collection, old: Obj | None) -> Obj:
        applied = copy(request.body)
        metadata = applied.setdefault("metadata", {})
        self._address(request, collection, metadata)
        if "managedFields" in metadata:
            raise Rejection(400, "BadRequest", "metadata.managedFields must be nil")
        if not request.query.get("fieldManager"):
            raise Rejection(400, "BadRequest", "fieldManager is required for apply patch")
        if old is None:
            if request.subresource or metadata.get("resourceVersion") or metadata.get("uid"):
                code, reason = (404, "NotFound") if request.subresource else (409, "Conflict")
                raise Rejection(code, reason, f'{collection.resource} "{request.name}" not found', name=request.name)
        else:
            # As the real one: an apply to a subresource looks at the version, and not at the uid.
            uid = metadata.get("uid")
            if uid and uid != old["metadata"]["uid"] and not request.subresource:
                raise Rejection(422, "Invalid", "metadata.uid: Invalid value: field is immutable", name=request.name)
            self._check({"resourceVersion": metadata.get("resourceVersion")}, old["metadata"])
        part = {k: v for k, v in applied.items() if (k == "status") == (request.subresource == "status")}
        if request.subresource == "status":
            part = {"status": part.get("status", {})}
        elif not collection.status and "status" in applied:
            part["status"] = applied["status"]
        live = old or {
            "apiVersion": applied.get("apiVersion"),
            "kind": applied.get("kind"),
            "metadata": {"name": request.name, **({"namespace": request.namespace} if request.namespace else {})},
        }
        ownership = Ownership()
        known = collection.owners.get(key_of(live))
        ownership.fields = {owner: set(paths) for owner, paths in known.fields.items()} if known else {}
        part["metadata"] = {
            k: v for k, v in metadata.items() if k not in ("resourceVersion", "uid", "namespace", "name")
        }
        if request.subresource == "status":
            part.pop("metadata")
        new, conflicts = ownership.apply(
            request.query["fieldManager"], request.subresource, live, part, force=request.query.get("force") == "true"
        )
        if conflicts:
            causes = [
                {"reason": "FieldManagerConflict", "message": f'conflict with "{who}"', "field": ".".join(path)}
                for who, path in conflicts
            ]
            raise Rejection(409, "Conflict", f"Apply failed with {len(causes)} conflicts", causes=causes)
        return self._finish(request, collection, old, new, ownership)

    def _finish(
        self,
        request: Request,
        collection: _Collection,
        old: Obj | None,
        new: Obj,
        ownership: Ownership | None = None,
    ) -> Obj:
        problem = collection.validate(new) if collection.validate is not None else None
        if problem is not None:
            causes = [{"reason": "FieldValueInvalid", "message": problem, "field": problem.partition(":")[0]}]
            raise Rejection(422, "Invalid", f"{collection.resource.kind} is invalid: {problem}", causes=causes)
        if request.query.get("dryRun") == "All":
            return new
        manager = request.query.get("fieldManager") or "unknown"
        return self._store(collection, old, new, manager, request.subresource, ownership)

    def _delete(self, request: Request, collection: _Collection, old: Obj) -> Obj:
        options = request.body or {}
        for name, value in (options.get("preconditions") or {}).items():
            if old["metadata"].get(name) != value:
                raise Rejection(409, "Conflict", f"Precondition failed: {name}", name=request.name)
        return self._delete_object(collection, old)

    def _delete_object(self, collection: _Collection, old: Obj) -> Obj:
        if not old["metadata"].get("finalizers"):
            self._drop(collection, old)
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        if old["metadata"].get("deletionTimestamp"):
            return old
        new = copy(old)
        new["metadata"]["deletionTimestamp"] = rfc3339(self.clock.now())
        new["metadata"]["deletionGracePeriodSeconds"] = 0
        return self._store(collection, old, new, "", "")

    # -- storage ---------------------------------------------------------------------------------------------------

    def _collection(self, resource: Resource) -> _Collection:
        return self._collections[(resource.group, resource.version, resource.plural)]

    def _store(
        self,
        collection: _Collection,
        old: Obj | None,
        new: Obj,
        manager: str,
        subresource: str,
        ownership: Ownership | None = None,
    ) -> Obj:
        key = key_of(new)
        metadata = new["metadata"]
        metadata.pop("managedFields", None)
        if not metadata.get("uid"):
            metadata["uid"] = self._uids()
        metadata.setdefault("creationTimestamp", rfc3339(self.clock.now()))
        if ownership is None:
            ownership = collection.owners.get(key) or Ownership()
            ownership.update(manager, subresource, _bare(old), _bare(new))
        if old is None:
            metadata["generation"] = 1
        elif _intent(old) != _intent(new) or old["metadata"].get("deletionTimestamp") != metadata.get(
            "deletionTimestamp"
        ):
            metadata["generation"] = int(old["metadata"].get("generation", 1)) + 1
        unchanged = old is not None and _bare(old) == _bare(new)
        if unchanged and old is not None and ownership.fields == getattr(collection.owners.get(key), "fields", {}):
            return old
        collection.owners[key] = ownership
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return self._drop(collection, new if old is None else {**new})
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        metadata["managedFields"] = ownership.render(collection.resource.api_version, rfc3339(self.clock.now()))
        collection.objects[key] = new
        self._tell(Change(self._version, collection.resource, old, new))
        return new

    def _drop(self, collection: _Collection, obj: Obj) -> Obj:
        key = key_of(obj)
        old = collection.objects.pop(key)
        collection.owners.pop(key, None)
        self._version += 1
        final = copy(obj)
        final["metadata"]["resourceVersion"] = str(self._version)
        self._tell(Change(self._version, collection.resource, old, None, final))
        return final

    def _tell(self, change: Change) -> None:
        self._history.append(change)
        for told in self.on_change:
            told(change)
        for watcher in list(self._watchers):
            watcher.notice(change)

    def _watch(self, collection: _Collection, request: Request) -> Watcher:
        query = request.query
        watcher = Watcher(lambda: self.version, collection.resource, request.namespace, selector(query), query)
        self._watchers.append(watcher)
        wanted = query.get("resourceVersion", "")
        if wanted in ("", "0"):
            for obj in collection.objects.values():
                watcher.notice(Change(self._version, collection.resource, None, obj))
        elif int(wanted) < self._oldest:
            watcher.send("ERROR", Rejection(410, "Expired", f"too old resource version: {wanted}").status())
            watcher.end()
        else:
            for change in self._history:
                if change.version > int(wanted):
                    watcher.notice(change)
        return watcher


def _bare(obj: Obj | None) -> Obj:
    """Without what the server itself writes."""
    if obj is None:
        return {}
    own = ("resourceVersion", "managedFields", "generation")
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k not in own}}


def _intent(obj: Obj) -> Obj:
    return {k: v for k, v in obj.items() if k not in ("metadata", "status", "apiVersion", "kind")}
