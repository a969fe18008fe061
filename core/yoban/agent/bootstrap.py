"""How data comes to an empty volume: created, or copied from the primary; and how it is announced.

Guarantees "a Database initialises once": the marker says `making` before anything is written and `ready` only when the data
is complete and synced; then the repository's identity, then the Lease. A crash anywhere leaves a state from which
`yoban.agent.decisions` begins the same step again. Restoring is in `yoban.agent.restorer`.
"""

from __future__ import annotations

import asyncio
import logging

from yoban.agent.instance import Instance
from yoban.agent.lease import PrimaryLease
from yoban.agent.marker import read_marker, wipe, write_marker
from yoban.agent.rate import Rate
from yoban.errors import NotReady, Terminal, Unsupported
from yoban.model.control import Progress
from yoban.model.instance import LEASE_INITIALIZED, Marker
from yoban.plugins import InstanceContext, Peer
from yoban.repository import Identity

log = logging.getLogger("yoban.agent.bootstrap")
INITIALIZE_DEADLINE = 900.0
VERSION_DEADLINE = 60.0
STORE_DEADLINE = 30.0


async def begin(context: InstanceContext, instance: Instance, origin: str) -> None:
    """Mark the volume as being filled, and empty it."""

    def work() -> None:
        write_marker(
            context,
            Marker(incarnation=context.incarnation, instance=context.name, state="making", origin=origin),
        )
        wipe(context)

    instance.board.set(data="making")
    await asyncio.to_thread(work)


async def complete(context: InstanceContext, instance: Instance, origin: str, *, term: int, reigned: bool) -> None:
    """Mark the volume as complete. Whoever made the data has synced it: initialize, provision, or a clean stop."""

    def work() -> None:
        write_marker(
            context,
            Marker(
                incarnation=context.incarnation,
                instance=context.name,
                state="ready",
                origin=origin,
                reigned=reigned,
                term=term,
            ),
        )

    await asyncio.to_thread(work)
    instance.board.set(data="ready")


async def reign(context: InstanceContext, *, reigned: bool, term: int | None = None) -> None:
    """Note on the volume that its server reigns (in `term`), or follows from now on."""

    def work() -> None:
        marker = read_marker(context)
        assert marker is not None
        fresh = Marker(
            incarnation=marker.incarnation,
            instance=marker.instance,
            state=marker.state,
            origin=marker.origin,
            reigned=reigned,
            term=marker.term if term is None else term,
        )
        if fresh != marker:
            write_marker(context, fresh)

    await asyncio.to_thread(work)


async def check_versions(instance: Instance) -> None:
    """Check that the image has the version asked for, and that the data is of it, before a server touches the data.

    Raises Terminal (VersionMismatch) or NotFound when the image has no such server.
    """
    context, server = instance.context, instance.engine.server
    async with asyncio.timeout(VERSION_DEADLINE):
        binary = await server.binary_version(context)
        data = await server.data_version(context)
    if binary != context.version:
        raise Terminal(
            f"the image has version {binary}, spec.version says {context.version}",
            object=context.name,
            fix="correct spec.image or spec.version",
            reason="VersionMismatch",
        )
    if data and data != context.version:
        raise Terminal(
            f"the data was written by version {data}, spec.version says {context.version}",
            object=context.name,
            fix=f"set spec.version back to {data}",
            reason="VersionMismatch",
        )


async def initialise(instance: Instance, term: int) -> None:
    """Create the Database's data. The caller is the founder and holds the Lease.

    Raises InvalidInput when the engine's configuration cannot work, OwnedByAnother when the repository is somebody else's.
    """
    context = instance.context
    await check_versions(instance)
    await claim(instance)
    await begin(context, instance, "new")
    async with asyncio.timeout(INITIALIZE_DEADLINE):
        await instance.engine.server.initialize(context)
    if not await instance.engine.server.initialized(context):
        raise NotReady("the engine says that its new data is not complete", object=context.name)
    await complete(context, instance, "new", term=term, reigned=True)


async def claim(instance: Instance) -> None:
    """Make the repository ours, where one is configured. Raises OwnedByAnother, or what the store says."""
    configuration = instance.configuration
    document = configuration.document
    async with asyncio.timeout(STORE_DEADLINE):
        repository = await instance.storage.archive(configuration)
        if repository is None:
            if document.archive is not None:
                raise NotReady("the archive's store is not configured yet", object=document.database)
            return
        await repository.identity.claim(
            Identity(
                incarnation=document.incarnation,
                uid=document.uid,
                namespace=document.namespace,
                name=document.database,
                engine=document.engine,
                created=instance.clock.now(),
                origin="restore" if document.restore is not None else "new",
            )
        )


async def announce(instance: Instance, lease: PrimaryLease) -> None:
    """Write down that the data exists: in the repository first, then in the Lease. May be repeated."""
    configuration = instance.configuration
    await claim(instance)
    repository = await instance.storage.archive(configuration)
    if repository is not None:
        async with asyncio.timeout(STORE_DEADLINE):
            await repository.identity.mark_initialized(configuration.document.incarnation)
    await lease.note({LEASE_INITIALIZED: configuration.document.incarnation})
    log.info("the data of incarnation %s exists from now on", configuration.document.incarnation)


async def provision(instance: Instance, donor: Peer) -> None:
    """Copy the data from `donor`. Raises Unavailable when it does not serve now."""
    replication = instance.engine.replication
    if replication is None:
        raise Unsupported("the engine has no replicas", object=f"engine {instance.engine.name}")
    context = instance.context
    await check_versions(instance)
    await begin(context, instance, "copy")
    rate = Rate(instance.clock)

    def progress(done: int, total: int) -> None:
        what = f"copying from {donor.name}"
        instance.board.set(progress=Progress(what=what, done=done, total=total, rate=rate.at(done)))

    try:
        await replication.provision(context, donor, progress)
    finally:
        instance.board.set(progress=None)
    await complete(context, instance, "copy", term=0, reigned=False)
