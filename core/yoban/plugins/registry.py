"""Which plugins there are, which are enabled, and the engines and object stores that they supply.

Guarantees that every enabled plugin was imported, speaks our API version, implements only hooks that exist, and supplies
objects of the right form under unique names; otherwise `PluginError`, which names plugin, distribution, version, fact and
fix, and start-up stops. A disabled plugin is never imported. Nothing can be added later. Says nothing about how well a
plugin works.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

import pluggy

from yoban.errors import InvalidInput, PluginError, Unsupported, YobanError
from yoban.plugins import checks
from yoban.plugins.engine import Engine
from yoban.plugins.hookspecs import PROJECT, HookSpecs
from yoban.plugins.objectstore import ObjectStoreProvider
from yoban.plugins.version import API_VERSION

T = TypeVar("T", Engine, ObjectStoreProvider)

GROUP = "yoban.plugins"
"""Group of entry points by which plugins are found."""
ALLOW = "YOBAN_PLUGINS"
"""Environment variable: names of the plugins to enable, separated by commas; absent or empty means all installed."""
DISABLED = "YOBAN_PLUGINS_DISABLED"
"""Environment variable: names of plugins to leave out, separated by commas; it wins over `YOBAN_PLUGINS`."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a plugin comes from: its name, and the distribution with its version ("" for one given in-process)."""

    plugin: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        origin = f"{self.distribution} {self.version}" if self.distribution else "in-process"
        return f"plugin '{self.plugin}' ({origin})"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of `yoban plugins`.

    Attributes:
        name: of the engine or the provider; of the plugin when it supplies nothing or is disabled.
        kind: `engine`, `object store`, or `-`.
        source: plugin, distribution and version.
        api: version of the plugin API that it was written for, `-` when it was not loaded.
        capabilities: what it can do, sorted.
        enabled: whether it can be used.
        note: why not, when it cannot.
    """

    name: str
    kind: str
    source: Source
    api: str
    capabilities: tuple[str, ...]
    enabled: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Loaded:
    source: Source
    module: object
    api: tuple[int, int]
    status: str


class Registry:
    """Engines and providers of object stores by name. Made by `load`, `from_environment` or `in_process`; immutable."""

    def __init__(
        self,
        loaded: Collection[_Loaded],
        disabled: Mapping[str, tuple[Source, str]],
        engines: Mapping[str, tuple[Engine, Source]],
        providers: Mapping[str, tuple[ObjectStoreProvider, Source]],
    ) -> None:
        self._loaded = tuple(loaded)
        self._disabled = dict(disabled)
        self._engines = dict(engines)
        self._providers = dict(providers)

    @classmethod
    def load(
        cls,
        allow: Collection[str] | None = None,
        disabled: Collection[str] = (),
        *,
        entries: Iterable[EntryPoint] | None = None,
    ) -> Registry:
        """Load the installed plugins. May be called again; each call imports nothing twice and asks the hooks anew.

        Args:
            allow: names of the plugins to enable; None or empty means all.
            disabled: names of plugins to leave out, whatever `allow` says.
            entries: entry points to use in place of the installed ones, for tests.

        Raises:
            PluginError: a name that is not installed, or a plugin that breaks the contract.
        """
        found = sorted(
            entry_points(group=GROUP) if entries is None else entries, key=lambda e: (e.name, _source(e).distribution)
        )
        by_name: dict[str, EntryPoint] = {}
        for entry in found:
            if entry.name in by_name:
                raise PluginError(
                    f"plugin '{entry.name}' is installed twice: by {_origin(by_name[entry.name])} and {_origin(entry)}",
                    fix="uninstall one of them",
                )
            by_name[entry.name] = entry
        for variable, names in ((ALLOW, allow or ()), (DISABLED, disabled)):
            for name in names:
                if name not in by_name:
                    raise PluginError(
                        f"{variable} names plugin '{name}', which is not installed",
                        cause=f"installed: {', '.join(by_name) or 'none'}",
                        fix=f"install its distribution in the operator's image, or take it out of {variable}",
                    )
        off: dict[str, tuple[Source, str]] = {}
        modules: list[tuple[Source, object]] = []
        for name, entry in by_name.items():
            if name in disabled:
                off[name] = (_source(entry), f"disabled by {DISABLED}")
            elif allow and name not in allow:
                off[name] = (_source(entry), f"not listed in {ALLOW}")
            else:
                modules.append((_source(entry), _import(entry)))
        return cls._build(modules, off)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Registry:
        """Load as `YOBAN_PLUGINS` and `YOBAN_PLUGINS_DISABLED` say. Raises as `load` does."""
        environ = os.environ if environ is None else environ
        return cls.load(names(environ.get(ALLOW, "")), names(environ.get(DISABLED, "")))

    @classmethod
    def in_process(cls, plugins: Mapping[str, object]) -> Registry:
        """Register modules (or any objects with the same attributes) by name, without entry points: for tests.

        Raises:
            PluginError: as `load` does.
        """
        return cls._build([(Source(name), module) for name, module in plugins.items()], {})

    @classmethod
    def _build(cls, modules: Iterable[tuple[Source, object]], off: Mapping[str, tuple[Source, str]]) -> Registry:
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(HookSpecs)
        loaded = [_register(manager, source, module) for source, module in modules]
        sources = {one.source.plugin: one.source for one in loaded}
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise _unknown_hook(manager, sources, error) from error
        # An abstract class is all that isinstance needs, hence the suppressions.
        engines = _supplied(
            manager,
            sources,
            "yoban_engines",
            "engine",
            Engine,  # type: ignore[type-abstract]
            checks.check_engine,
        )
        providers = _supplied(
            manager,
            sources,
            "yoban_object_stores",
            "object store",
            ObjectStoreProvider,  # type: ignore[type-abstract]
            checks.check_provider,
        )
        return cls(loaded, off, engines, providers)

    @property
    def engines(self) -> Mapping[str, Engine]:
        """Enabled engines by name."""
        return {name: engine for name, (engine, _) in sorted(self._engines.items())}

    @property
    def store_providers(self) -> Mapping[str, ObjectStoreProvider]:
        """Enabled providers of object stores by name."""
        return {name: provider for name, (provider, _) in sorted(self._providers.items())}

    def engine(self, name: str) -> Engine:
        """Return the engine of that name.

        Raises:
            InvalidInput: reason `EngineUnknown`: nothing installed supplies it.
            Unsupported: reason `PluginDisabled` when its plugin is installed and disabled, `NotImplemented` when its
                plugin is there and does not supply it yet.
        """
        if name in self._engines:
            return self._engines[name][0]
        raise self._absent("engine", name, self._engines, "EngineUnknown")

    def engine_source(self, name: str) -> Source:
        """Return where the engine of that name comes from. Raises as `engine` does."""
        self.engine(name)
        return self._engines[name][1]

    def store_provider(self, name: str) -> ObjectStoreProvider:
        """Return the provider of object stores of that name. Raises as `engine` does, with `ProviderUnknown`."""
        if name in self._providers:
            return self._providers[name][0]
        raise self._absent("object store", name, self._providers, "ProviderUnknown")

    def table(self) -> list[Row]:
        """Return what there is, sorted by name: what enabled plugins supply, those that supply nothing, disabled ones."""
        rows: list[Row] = []
        api = {one.source.plugin: ".".join(map(str, one.api)) for one in self._loaded}
        for kind, supplied in (("engine", self._engines), ("object store", self._providers)):
            for name, (thing, source) in supplied.items():
                can = tuple(sorted(c.value for c in thing.capabilities))
                rows.append(Row(name, kind, source, api[source.plugin], can, True))
        supplying = {row.source.plugin for row in rows}
        for one in self._loaded:
            if one.source.plugin not in supplying:
                note = one.status or "supplies nothing"
                rows.append(Row(one.source.plugin, "-", one.source, api[one.source.plugin], (), False, note))
        for name, (source, why) in self._disabled.items():
            rows.append(Row(name, "-", source, "-", (), False, why))
        return sorted(rows, key=lambda row: (row.name, row.kind))

    def _absent(self, kind: str, name: str, known: Mapping[str, object], reason: str) -> YobanError:
        if name in self._disabled:
            source, why = self._disabled[name]
            return Unsupported(
                f"{source} is installed but {why}",
                object=f"{kind} '{name}'",
                fix=f"add '{name}' to {ALLOW}"
                if ALLOW in why and DISABLED not in why
                else f"remove it from {DISABLED}",
                reason="PluginDisabled",
            )
        for one in self._loaded:
            if one.source.plugin == name:
                return Unsupported(
                    f"{one.source} supplies no {kind} of that name",
                    object=f"{kind} '{name}'",
                    cause=one.status,
                    fix=f"use one of: {', '.join(sorted(known)) or 'none enabled'}",
                    reason="NotImplemented",
                )
        hidden = ", ".join(sorted(self._disabled))
        return InvalidInput(
            "no enabled plugin supplies it",
            object=f"{kind} '{name}'",
            cause=f"disabled plugins that may: {hidden}" if hidden else "no plugin is disabled",
            fix=f"use one of: {', '.join(sorted(known)) or 'none enabled'}; or install a plugin that supplies it",
            reason=reason,
        )


def names(text: str) -> tuple[str, ...]:
    """Split a list of names as it stands in an environment variable: by commas or blanks, empty ones dropped."""
    return tuple(name for name in re.split(r"[,\s]+", text) if name)


def _source(entry: EntryPoint) -> Source:
    if entry.dist is None:
        return Source(entry.name)
    return Source(entry.name, entry.dist.name, entry.dist.version)


def _origin(entry: EntryPoint) -> str:
    source = _source(entry)
    return f"{source.distribution} {source.version}".strip() or entry.value


def _import(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except Exception as error:
        raise PluginError(
            f"cannot be imported from '{entry.value}'",
            object=str(_source(entry)),
            cause=f"{type(error).__name__}: {error}",
            fix=f"mend or reinstall it, or add '{entry.name}' to {DISABLED}",
        ) from error


def _register(manager: pluggy.PluginManager, source: Source, module: object) -> _Loaded:
    api = getattr(module, "YOBAN_PLUGIN_API", None)
    ours = f"({API_VERSION[0]}, {API_VERSION[1]})"
    if api is None:
        raise PluginError("declares no YOBAN_PLUGIN_API", object=str(source), fix=f"add YOBAN_PLUGIN_API = {ours}")
    if not (isinstance(api, tuple) and len(api) == 2 and all(type(part) is int for part in api)):
        raise PluginError(
            f"declares YOBAN_PLUGIN_API = {api!r}, which is no pair of integers",
            object=str(source),
            fix=f"write YOBAN_PLUGIN_API = {ours}",
        )
    if api[0] != API_VERSION[0] or api[1] > API_VERSION[1]:
        newer = api > API_VERSION
        raise PluginError(
            f"needs plugin API {api[0]}.{api[1]}, this operator provides {API_VERSION[0]}.{API_VERSION[1]}",
            object=str(source),
            fix="upgrade the operator, or install an older release of the plugin"
            if newer
            else "install a newer release of the plugin",
        )
    try:
        manager.register(module, source.plugin)
    except Exception as error:  # pluggy leaves it half registered: nothing goes on after this
        raise PluginError(
            "cannot be registered",
            object=str(source),
            cause=" ".join(str(error).split()),
            fix="give the hook the name and arguments that yoban.plugins.hookspecs has",
        ) from error
    return _Loaded(source, module, api, str(getattr(module, "YOBAN_PLUGIN_STATUS", "")))


def _unknown_hook(
    manager: pluggy.PluginManager, sources: Mapping[str, Source], error: pluggy.PluginValidationError
) -> PluginError:
    source = sources.get(manager.get_name(error.plugin) or "")
    found = re.search(r"unknown hook '([^']+)'", str(error))
    hooks = sorted(name for name in vars(HookSpecs) if name.startswith("yoban_"))
    return PluginError(
        f"unknown hook '{found[1]}'" if found else str(error),
        object=str(source),
        fix=f"use one of the hooks {', '.join(hooks)}",
    )


def _supplied(
    manager: pluggy.PluginManager,
    sources: Mapping[str, Source],
    hook: str,
    kind: str,
    expected: type[T],
    check: Callable[[T], list[checks.Finding]],
) -> dict[str, tuple[T, Source]]:
    """Call `hook` of every plugin, in the order of their names, and check what comes back."""
    caller: pluggy.HookCaller = getattr(manager.hook, hook)
    found: dict[str, tuple[T, Source]] = {}
    for implementation in sorted(caller.get_hookimpls(), key=lambda one: one.plugin_name):
        source = sources[implementation.plugin_name]
        for thing in _answer(source, hook, implementation):
            if not isinstance(thing, expected):
                is_class = isinstance(thing, type) and issubclass(thing, expected)
                raise PluginError(
                    f"{hook} returned {f'the class {thing.__name__}' if is_class else repr(thing)}",  # type: ignore[attr-defined]
                    object=str(source),
                    fix=f"return instances of yoban.plugins.{expected.__name__}",
                )
            findings = check(thing)
            if findings:
                raise PluginError(
                    "; ".join(one.fact for one in findings),
                    object=str(source),
                    fix="; ".join(dict.fromkeys(one.fix for one in findings)),
                )
            if thing.name in found:
                raise PluginError(
                    f"{kind} '{thing.name}' is provided twice: {found[thing.name][1]} and {source}",
                    fix=f"disable one with {DISABLED}",
                )
            found[thing.name] = (thing, source)
    return found


def _answer(source: Source, hook: str, implementation: pluggy.HookImpl) -> list[object]:
    function = implementation.function
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginError(f"{hook} is a hook wrapper", object=str(source), fix="write a plain function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{hook} must not be 'async def'", object=str(source), fix="write 'def' and return a list")
    if inspect.signature(function).parameters:
        raise PluginError(f"{hook} takes arguments", object=str(source), fix="take none, not even with a default")
    try:
        answer = function()
        if answer is None or isinstance(answer, (str, bytes, Mapping)):
            raise TypeError(f"it returned {answer!r}, not a list")
        return list(answer)  # type: ignore[call-overload, no-any-return]
    except Exception as error:
        raise PluginError(
            f"{hook} failed",
            object=str(source),
            cause=f"{type(error).__name__}: {error}",
            fix="return a list, empty when it supplies none; complete what an abstract class asks for",
        ) from error
