"""First phase: whether a Database's specification can be at all, by what is known without looking anywhere.

Guarantees: pure. Everything that the engine cannot do, or refuses, is told with reason, cause and fix before anything
is made; what passes has all defaults filled in. Does not look at other objects: that is `references`' part.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.domain import settings, version
from yoban.domain.identity import incarnation
from yoban.errors import InvalidInput, Unsupported, YobanError
from yoban.model.database import Database
from yoban.model.pod import PodOptions
from yoban.plugins import Capability, Engine, RecoveryTarget, TargetType
from yoban.plugins.registry import Registry, Source
from yoban.reconcilers.database.builders.blueprint import Blueprint, Placement, Resources, Runtime, VolumeSpec
from yoban.reconcilers.database.builders.names import Names
from yoban.reconcilers.database.jsonschema import faults

_REASONS = {
    "UnknownEngine": "EngineUnknown",
    "UnsupportedVersion": "VersionUnsupported",
    "VersionUnknown": "VersionUnsupported",
}


@dataclass(frozen=True, slots=True)
class OperatorFacts:
    """The operator itself: its namespace, and what it would put into a new Pod."""

    namespace: str
    runtime: Runtime


@dataclass(frozen=True, slots=True)
class Admitted:
    """A Database that can be: the resource, its engine and where that comes from, the inputs of its builders, the parsed
    restore target.
    """

    database: Database
    engine: Engine
    source: Source
    blueprint: Blueprint
    target: RecoveryTarget | None = None

    @property
    def names(self) -> Names:
        """Names of its objects."""
        return self.blueprint.names


def names_of(database: Database) -> Names:
    """Names of a Database's objects, known before it is admitted."""
    meta = database.metadata
    return Names(meta.namespace, meta.name, incarnation(meta.uid))


def admit(database: Database, registry: Registry, operator: OperatorFacts) -> Admitted:
    """Check a specification and fill in its defaults.

    Raises:
        Terminal: it cannot be; `reason` is that of the condition (`EngineUnknown`, `PluginDisabled`, `NotImplemented`,
            `VersionUnsupported`, `SettingRefused`, `EngineConfigInvalid`, `ReplicasUnsupported`, `DurabilityUnsupported`,
            `LogVolumeUnsupported`, `BackupUnsupported`, `RestoreUnsupported`, `TargetInvalid`).
    """
    spec = database.spec
    try:
        engine, source = registry.engine(spec.engine), registry.engine_source(spec.engine)
        choice = version.choose(engine, spec.version, spec.image)
    except YobanError as error:
        error.reason = _REASONS.get(error.reason, error.reason)
        raise
    settings.check(engine, choice.version, spec.settings)
    _check_config(database, engine)
    _check_capabilities(database, engine)
    layout = engine.layout(choice.version)
    log = None
    if spec.storage.log is not None:
        if layout.log_mount is None:
            raise _lacks(engine, "no volume of its own for the log", "storage.log", "LogVolumeUnsupported")
        log = VolumeSpec(spec.storage.log.size, spec.storage.log.storage_class or "")
    blueprint = Blueprint(
        names=names_of(database),
        engine=engine.name,
        version=choice.version,
        image=choice.image,
        layout=layout,
        instances=spec.instances,
        data=VolumeSpec(spec.storage.size, spec.storage.storage_class or ""),
        log=log,
        resources=Resources(dict(spec.resources.requests), dict(spec.resources.limits)),
        placement=_placement(spec.pod),
        operator_namespace=operator.namespace,
        host_names=tuple(spec.tls.additional_names),
    )
    return Admitted(database, engine, source, blueprint, _target(database, engine))


def check_version(admitted: Admitted, before: str) -> None:
    """Check that data which exists, made for version `before`, is not to be run by another one.

    Raises:
        Unsupported: it is (`VersionChangeUnsupported`); nothing may be rolled out: no server would start on the data.
    """
    wanted = admitted.blueprint.version
    if before and before != wanted:
        raise Unsupported(
            f"version {before} cannot be changed to {wanted} in place",
            object=str(admitted.database),
            cause="servers of another version do not start on this data",
            fix=f"set spec.version and spec.image back to {before}; load a dump into a new Database to change it",
            reason="VersionChangeUnsupported",
        )


def _check_config(database: Database, engine: Engine) -> None:
    wrong = faults(database.spec.engine_config, engine.config_schema())
    if wrong:
        raise InvalidInput(
            "engineConfig does not fit the engine",
            object=str(database),
            cause="; ".join(wrong[:10]),
            fix="correct spec.engineConfig",
            reason="EngineConfigInvalid",
        )


def _check_capabilities(database: Database, engine: Engine) -> None:
    spec, can = database.spec, engine.capabilities
    if spec.instances > 1 and Capability.REPLICAS not in can:
        raise _lacks(engine, "no replicas", "instances above 1", "ReplicasUnsupported")
    if spec.durability.mode == "synchronous" and Capability.SYNCHRONOUS not in can:
        raise _lacks(engine, "no synchronous replicas", "durability.mode synchronous", "DurabilityUnsupported")
    if spec.storage.log is not None and Capability.LOG_VOLUME not in can:
        raise _lacks(engine, "no volume of its own for the log", "storage.log", "LogVolumeUnsupported")
    if spec.backup is not None and Capability.BACKUP not in can:
        raise _lacks(engine, "no backups", "backup", "BackupUnsupported")
    if spec.restores and Capability.RESTORE not in can:
        raise _lacks(engine, "no restores", "bootstrap.restore", "RestoreUnsupported")


def _lacks(engine: Engine, what: str, field: str, reason: str) -> Unsupported:
    return Unsupported(
        f"the engine has {what}", object=f"engine {engine.name}", fix=f"remove spec: {field}", reason=reason
    )


def _target(database: Database, engine: Engine) -> RecoveryTarget | None:
    bootstrap = database.spec.bootstrap
    if bootstrap is None or bootstrap.restore is None:
        return None
    wish = bootstrap.restore.target
    target = RecoveryTarget(
        type=TargetType(wish.type),
        value=wish.value or "",
        exclusive=wish.exclusive,
        line=wish.line or "",
        backup=wish.backup or "",
        skip=tuple(wish.skip),
    )
    if engine.targets is None:
        return target
    try:
        return engine.targets.parse(target)
    except YobanError as error:
        if error.reason in (InvalidInput.reason, Unsupported.reason):
            error.reason = "TargetInvalid"
        raise


def _placement(pod: PodOptions) -> Placement:
    return Placement(
        labels=dict(pod.labels),
        annotations=dict(pod.annotations),
        node_selector=dict(pod.node_selector),
        tolerations=tuple(entry.wire() for entry in pod.tolerations),
        affinity=pod.affinity,
        topology_spread=tuple(entry.wire() for entry in pod.topology_spread_constraints),
        pull_secrets=tuple(entry.name for entry in pod.image_pull_secrets),
        priority_class=pod.priority_class_name or "",
    )
