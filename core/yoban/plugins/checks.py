"""Structure of what a plugin supplies: right types, right kinds of methods, legal names.

Guarantees that core can call what has no findings without a surprise of form: an `async def` is one, a facet is an
instance of its class, every argument of the contract is accepted. Says nothing about behaviour: that is what the contract
classes in `yoban.testing` are for. Calls nothing of the plugin but the properties named `capabilities`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from yoban.plugins.backup import BackupSession, BaseBackup
from yoban.plugins.engine import Capability, Engine
from yoban.plugins.log import LogSource
from yoban.plugins.objectstore import BucketAdmin, ObjectStore, ObjectStoreProvider, StoreCapability
from yoban.plugins.positions import Positions
from yoban.plugins.recovery import Recovery
from yoban.plugins.replication import Replication
from yoban.plugins.server import Server
from yoban.plugins.targets import Targets, TargetType

NAME = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?")
"""Legal names of engines and providers; they become values of fields and of labels."""

_REQUIRED: Mapping[str, type] = {"positions": Positions, "server": Server}
_OPTIONAL: Mapping[str, type] = {
    "targets": Targets,
    "replication": Replication,
    "base_backup": BaseBackup,
    "log_source": LogSource,
    "recovery": Recovery,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a plugin: the fact, and an imperative sentence that says how to mend it."""

    fact: str
    fix: str


def check_engine(engine: Engine) -> list[Finding]:
    """Return what is wrong with the form of an engine and its facets, in a stable order; empty when nothing is."""
    kind = type(engine).__name__
    found = [*_names(engine, kind), *_methods(engine, Engine), *_capabilities(engine, kind, Capability)]
    if not (isinstance(user := getattr(engine, "replication_user", None), str) and user):
        found.append(Finding(f"{kind}.replication_user is {user!r}", "give a user name, or leave the default"))
    for name, facet in _REQUIRED.items():
        value = getattr(engine, name, None)
        if value is None:
            found.append(Finding(f"{kind} has no '{name}'", f"set it to an instance of a {facet.__name__}"))
        else:
            found += _facet(kind, name, value, facet)
    for name, facet in _OPTIONAL.items():
        value = getattr(engine, name, None)
        if value is not None:
            found += _facet(kind, name, value, facet)
    for name, needed in (("recovery", "base_backup"), ("recovery", "targets"), ("log_source", "recovery")):
        if getattr(engine, name, None) is not None and getattr(engine, needed, None) is None:
            found.append(Finding(f"{kind} has '{name}' but no '{needed}'", f"add '{needed}' or leave out '{name}'"))
    if isinstance(targets := engine.targets, Targets):
        found += _members(targets, "supported", TargetType)
    if isinstance(engine.replication, Replication) and engine.replication.election not in ("agent", "self"):
        found.append(
            Finding(
                f"{type(engine.replication).__name__}.election is {engine.replication.election!r}",
                "use 'agent' or 'self'",
            )
        )
    return found


def check_provider(provider: ObjectStoreProvider) -> list[Finding]:
    """Return what is wrong with the form of a provider of object stores; empty when nothing is."""
    kind = type(provider).__name__
    found = [
        *_names(provider, kind),
        *_methods(provider, ObjectStoreProvider),
        *_capabilities(provider, kind, StoreCapability),
    ]
    keys = provider.secret_keys
    if not (isinstance(keys, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in keys.items())):
        found.append(Finding(f"{kind}.secret_keys is {keys!r}", "make it a mapping from entry name to description"))
    return found


def check_store(store: ObjectStore) -> list[Finding]:
    """Return what is wrong with the form of an opened store; for contract tests, where there is one to look at."""
    kind = type(store).__name__
    found = [*_methods(store, ObjectStore), *_capabilities(store, kind, StoreCapability)]
    if store.bucket is not None:
        found += _facet(kind, "bucket", store.bucket, BucketAdmin)
    if (store.bucket is not None) != (StoreCapability.BUCKET_ADMIN in store.capabilities):
        found.append(
            Finding(f"{kind}.bucket and the capability bucket-admin disagree", "declare it exactly when there is one")
        )
    return found


def check_session(session: BackupSession) -> list[Finding]:
    """Return what is wrong with the form of a backup session; for contract tests."""
    return list(_methods(session, BackupSession))


def _names(thing: object, kind: str) -> Iterator[Finding]:
    name = getattr(thing, "name", None)
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        yield Finding(
            f"{kind}.name is {name!r}",
            "use 1 to 30 lower case letters, digits and '-', beginning with a letter and not ending with '-'",
        )
    title = getattr(thing, "title", None)
    if not (isinstance(title, str) and title):
        yield Finding(f"{kind}.title is {title!r}", "give a name for people")


def _facet(owner: str, name: str, value: object, facet: type) -> Iterator[Finding]:
    if isinstance(value, type):
        yield Finding(f"{owner}.{name} is the class {value.__name__}", f"make an instance: {value.__name__}()")
    elif not isinstance(value, facet):
        yield Finding(
            f"{owner}.{name} is a {type(value).__name__}, not a {facet.__name__}",
            f"derive {type(value).__name__} from yoban.plugins.{facet.__name__}",
        )
    else:
        yield from _methods(value, facet)


def _capabilities(thing: object, kind: str, enum: type[Enum]) -> Iterator[Finding]:
    yield from _members(thing, "capabilities", enum, kind)


def _members(thing: object, attribute: str, enum: type[Enum], kind: str = "") -> Iterator[Finding]:
    kind = kind or type(thing).__name__
    try:
        value = getattr(thing, attribute)
    except Exception as error:  # a property of the plugin: whatever it raises is a finding
        yield Finding(f"{kind}.{attribute} raised {type(error).__name__}: {error}", "make it plain data")
        return
    if not (isinstance(value, frozenset) and all(isinstance(member, enum) for member in value)):
        yield Finding(f"{kind}.{attribute} is {value!r}", f"make it a frozenset of {enum.__name__} members")


def _methods(thing: object, contract: type) -> Iterator[Finding]:
    """Compare each public method with the one that the contract declares: kind of function, and arguments."""
    kind = type(thing).__name__
    for name, declared in vars(contract).items():
        if name.startswith("_") or not inspect.isfunction(declared):
            continue
        found = inspect.getattr_static(type(thing), name, None)
        while isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        given = getattr(thing, name)
        where = f"{kind}.{name}"
        if not callable(given):
            yield Finding(f"{where} is {given!r}", "make it a method")
        elif inspect.iscoroutinefunction(declared):
            if not inspect.iscoroutinefunction(given):
                yield Finding(f"{where} must be 'async def'", "write 'async def' (without 'yield')")
            else:
                yield from _arguments(where, declared, given)
        elif inspect.iscoroutinefunction(given):
            yield Finding(f"{where} must not be 'async def'", _plain_fix(declared))
        elif inspect.isasyncgenfunction(given) and "AsyncIterator" not in _returns(declared):
            yield Finding(f"{where} must not be an async generator", _plain_fix(declared))
        else:
            yield from _arguments(where, declared, given)


def _returns(function: object) -> str:
    return str(getattr(function, "__annotations__", {}).get("return", ""))


def _plain_fix(declared: object) -> str:
    returns = _returns(declared)
    if "AsyncIterator" in returns:
        return "write an async generator ('async def' with 'yield')"
    if "AsyncContextManager" in returns:
        return "decorate an async generator with contextlib.asynccontextmanager"
    return "write 'def': it is pure"


def _arguments(where: str, declared: object, given: object) -> Iterator[Finding]:
    """The contract's arguments must fit: positional ones by place, keyword-only ones by name."""
    wanted = list(inspect.signature(declared).parameters.values())[1:]  # type: ignore[arg-type]
    positional = [p.name for p in wanted if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.name for p in wanted if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(given).bind(*positional, **keywords)  # type: ignore[arg-type]
    except TypeError as error:
        shown = ", ".join([*positional, *(["*", *keywords] if keywords else [])])
        yield Finding(f"{where} does not take the arguments ({shown}): {error}", "take them as the contract does")
