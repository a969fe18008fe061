"""`yoban operator`: puts the operator together and runs it until it is told to stop.

Guarantees: a wrong setting or plugin ends the process before anything else is done, with a message that names it; health,
metrics and traces are served from the start, by standbys too; a lost Lease ends the process (exit code 2).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
from collections.abc import Sequence

from pydantic import ValidationError

from yoban import __version__
from yoban.errors import InvalidInput
from yoban.kube.client import Client
from yoban.kube.config import load_config
from yoban.kube.election import Elector, process_identity
from yoban.kube.events import Recorder
from yoban.kube.lease import LeaseLock, LeaseLost
from yoban.kube.watchdog import Watchdog
from yoban.plugins.registry import Registry
from yoban.reconcilers import backup, backuppolicy, figures, objectstore
from yoban.reconcilers.database import controller as database
from yoban.reconcilers.shared import share
from yoban.runtime import Group, HealthServer, Manager
from yoban.runtime.manager import exit_code
from yoban.runtime.memory import Memory, settle, share_heap
from yoban.runtime.settings import Settings
from yoban.telemetry.setup import Telemetry, setup

log = logging.getLogger("yoban.operator")

FIELD_MANAGER = "yoban-operator"


def main(arguments: Sequence[str]) -> int:
    """Run the operator; all settings come from the environment and the settings file (docs/reference/settings.md).

    Raises:
        InvalidInput: a setting that cannot be.
        PluginError: a plugin that breaks the contract.
    """
    parser = argparse.ArgumentParser(
        prog="yoban operator",
        description="Run the operator. Settings come from YOBAN_… variables, then from the file that YOBAN_SETTINGS names.",
    )
    parser.parse_args(arguments)
    share_heap()
    settings = read_settings()
    telemetry = setup(
        "yoban-operator", instance=settings.pod, log_format=settings.log_format, log_level=settings.log_level
    )
    registry = Registry.load(settings.plugins, settings.plugins_disabled)
    try:
        asyncio.run(operate(settings, registry, telemetry))
    except LeaseLost as error:
        log.error("another operator leads now: %s", error)
        return exit_code(error)
    finally:
        telemetry.shutdown()
    return 0


def read_settings() -> Settings:
    """Return the settings. Raises InvalidInput that names each wrong one by its environment variable."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"YOBAN_{'_'.join(str(part) for part in one['loc']).upper()}: {one['msg']}" for one in error.errors()
        )
        raise InvalidInput(
            "cannot be used", object="settings", cause=wrong, fix="see docs/reference/settings.md"
        ) from None


async def operate(settings: Settings, registry: Registry, telemetry: Telemetry) -> None:
    """Run until a signal asks to stop. Raises what ended it otherwise."""
    config = await load_config(settings.kubeconfig, context=settings.context)
    async with Client.connect(config, field_manager=FIELD_MANAGER) as client:
        manager = assemble(settings, registry, telemetry, client)
        settle()
        log.info(
            "yoban %s, engines %s, object stores %s, watching %s",
            __version__,
            ", ".join(registry.engines) or "none",
            ", ".join(registry.store_providers) or "none",
            ", ".join(settings.namespaces) or "all namespaces",
        )
        await manager.run_until_signal()


def assemble(settings: Settings, registry: Registry, telemetry: Telemetry, client: Client) -> Manager:
    """Make the manager with everything in it. Called inside the running loop."""
    health = HealthServer(settings.bind, settings.health_port)
    metrics = HealthServer(
        settings.bind, settings.metrics_port, metrics=telemetry.metrics_text, traces=telemetry.trace_lines
    )
    recorder = Recorder(client, "yoban.dev/operator", settings.pod or process_identity())
    manager = Manager(
        client,
        namespaces=settings.namespaces or None,
        elector=_elector(settings, client) if settings.leader_election else None,
        recorder=recorder,
        health=health,
        sync_timeout=settings.sync_timeout,
        stop_timeout=settings.stop_timeout,
        max_silence=settings.max_silence,
        detect_mutation=settings.detect_mutation,
    )
    manager.add(metrics, Group.HTTP)
    manager.add(Memory(), Group.HTTP)
    shared = share(manager, registry, recorder=recorder)
    figures.observe(shared.databases.store.objects, shared.backups.store.objects)
    facts = database.operator_facts(settings, os.environ)
    for controller in (
        objectstore.build(manager, shared),
        backup.build(manager, shared),
        backuppolicy.build(manager, shared),
        database.build(manager, shared, facts, workers=settings.workers),
    ):
        controller.deadline = settings.reconcile_deadline
    return manager


def _elector(settings: Settings, client: Client) -> Elector:
    timings = settings.timings()
    lock = LeaseLock(
        client,
        settings.lease_namespace or settings.namespace,
        settings.lease_name,
        process_identity(),
        duration=math.ceil(timings.duration),
        timeout=timings.request,
    )
    return Elector(lock, timings, watchdog=Watchdog())
