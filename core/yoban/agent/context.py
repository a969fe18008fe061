"""Builds what an engine's facets are handed: the instance as the document in force describes it. Pure but for paths."""

from __future__ import annotations

import os

from yoban.agent.document import Configuration
from yoban.agent.environment import Environment
from yoban.model.instance import InstanceDocument, Member
from yoban.plugins import (
    Account,
    Durability,
    DurabilityMode,
    Engine,
    InstanceContext,
    Peer,
    Processes,
    ServerFacts,
    SettingClass,
    TlsFiles,
)


def own_member(environment: Environment, document: InstanceDocument) -> Member | None:
    """Return this instance's entry in the document, None when it is no member (any more)."""
    return next((member for member in document.members if member.name == environment.instance), None)


def peer_of(document: InstanceDocument, name: str) -> Peer | None:
    """Return an instance as engines know it."""
    member = next((member for member in document.members if member.name == name), None)
    return Peer(member.name, member.host, member.port) if member is not None else None


def effective_settings(engine: Engine, document: InstanceDocument, facts: ServerFacts) -> dict[str, str]:
    """Return the user's settings over the engine's defaults, those that we set or refuse left out."""
    allowed = {
        name: value
        for name, value in document.settings.items()
        if engine.setting_rule(name, document.version).kind in (SettingClass.RELOAD, SettingClass.RESTART)
    }
    return {**engine.default_settings(facts), **allowed}


def build_context(
    environment: Environment, configuration: Configuration, engine: Engine, processes: Processes
) -> InstanceContext:
    """Return the context of this instance."""
    document = configuration.document
    layout = engine.layout(document.version)
    member = own_member(environment, document)
    log_mount = environment.path(layout.log_mount) if layout.log_mount is not None else None
    separate = log_mount is not None and (os.path.ismount(log_mount) or bool(os.environ.get("YOBAN_LOG_VOLUME")))
    tls = environment.tls
    facts = ServerFacts(
        version=document.version,
        memory=environment.memory,
        cpus=environment.cpus,
        instances=max(1, len(document.members)),
    )
    return InstanceContext(
        namespace=document.namespace,
        database=document.database,
        name=environment.instance,
        number=environment.number,
        incarnation=document.incarnation,
        version=document.version,
        data=environment.path(layout.data_mount) / "data",
        log=log_mount / "log" if separate and log_mount is not None else None,
        run=environment.run,
        tmp=environment.tmp,
        settings=effective_settings(engine, document, facts),
        engine_config=document.engine_config,
        durability=Durability(DurabilityMode(document.durability_mode), document.durability_replicas),
        accounts={
            spec.purpose: Account(spec.user, configuration.passwords[spec.purpose])
            for spec in engine.accounts(document.database)
            if spec.purpose in configuration.passwords
        },
        tls=TlsFiles(
            ca=tls / "ca.crt",
            certificate=tls / "tls.crt",
            key=tls / "tls.key",
            client_certificate=tls / "client.crt",
            client_key=tls / "client.key",
        ),
        peers=tuple(
            Peer(other.name, other.host, other.port) for other in document.members if other.name != environment.instance
        ),
        host=member.host if member is not None else "localhost",
        port=member.port if member is not None else layout.port,
        memory=environment.memory,
        cpus=environment.cpus,
        ask=(str(environment.ask), str(environment.agent_socket)),
        processes=processes,
    )
