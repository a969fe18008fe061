"""`python -m yoban.agent.main`: the agent, a child of the supervisor. Wires the parts and owns their tasks.

Guarantees: ends with status 0 when the Pod's end was carried out, with another one when anything failed (the supervisor
starts the next); the server is never touched by our own end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from yoban import __version__
from yoban.agent import figures
from yoban.agent.asksocket import AskSocket
from yoban.agent.assembly import assemble, beat
from yoban.agent.board import Board
from yoban.agent.control import Control
from yoban.agent.document import Configurations
from yoban.agent.environment import Environment, read_environment
from yoban.agent.instance import Instance
from yoban.agent.jobs import Jobs
from yoban.agent.probes import Probes
from yoban.agent.processes import ImageProcesses
from yoban.agent.storage import Storage
from yoban.agent.supervision import Supervision
from yoban.errors import InvalidInput, YobanError
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.config import load_config
from yoban.plugins.registry import Registry
from yoban.runtime.health import HealthServer
from yoban.runtime.memory import Memory, settle, share_heap
from yoban.telemetry.setup import Telemetry, setup

log = logging.getLogger("yoban.agent")


class _Ended(Exception):
    """Everything was brought to its end."""


async def run(environment: Environment, telemetry: Telemetry) -> None:
    """Run until the Pod's end was carried out. Raises what made us give up."""
    clock = SystemClock()
    supervision = Supervision(environment.supervisor_socket)
    await supervision.connect()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervision.run())
            await supervision.learn()
            registry = await asyncio.to_thread(Registry.from_environment)
            configurations = Configurations(environment)
            # Until the parts beat for themselves: what comes before may wait for an API server that is slow.
            beating = group.create_task(beat(supervision, None))
            await _first_document(configurations, supervision)
            group.create_task(configurations.run())
            document = configurations.current.document if configurations.current is not None else None
            if document is None:
                raise _Ended
            engine = registry.engine(document.engine)
            layout = engine.layout(document.version)
            processes = ImageProcesses(str(layout.home), environment.tmp)
            board = Board(environment.instance, __version__, clock)
            figures.observe(lambda: board.status)
            instance = Instance(
                environment, engine, configurations, supervision, Storage(registry), board, processes, clock
            )
            async with Client.connect(await load_config(environment.kubeconfig), field_manager="yoban-agent") as client:
                try:
                    await _live(group, instance, client, telemetry, beating)
                finally:
                    await instance.storage.close()
            raise _Ended
    except* _Ended:
        log.info("agent ends")
    finally:
        await supervision.close()


async def _first_document(configurations: Configurations, supervision: Supervision) -> None:
    """Wait for the document: without it not even the engine is known."""
    while configurations.current is None and supervision.stop_by is None:
        try:
            await asyncio.to_thread(configurations.look)
        except (OSError, InvalidInput) as error:
            log.warning("waiting for the document: %s", error)
        if configurations.current is None:
            await supervision.changed.wait(supervision.changed.serial, 1.0)


async def _live(
    group: asyncio.TaskGroup, instance: Instance, client: Client, telemetry: Telemetry, beating: asyncio.Task[None]
) -> None:
    environment, supervision = instance.environment, instance.supervision
    parts = assemble(instance, client)
    jobs = Jobs(group, {"backup": parts.backups.run})
    probes = Probes(environment.bind, environment.probe_port, parts.ready)
    ask = AskSocket(instance, environment.agent_socket, parts.shipper.archive, parts.restorer.answer)
    control = Control(
        instance.board,
        instance.configurations,
        jobs,
        ship=parts.shipping.here,
        restart=supervision.restart_agent,
        peer=instance.engine.replication_user,
        bind=environment.bind,
        port=environment.control_port,
        clock=instance.clock,
    )
    pages = HealthServer(
        environment.bind or "",
        environment.metrics_port,
        metrics=telemetry.metrics_text,
        traces=telemetry.trace_lines,
    )
    tasks: list[asyncio.Task[None]] = []
    try:
        await probes.start()
        await ask.start()
        # First of all, so that a primary which an agent before us left is renewed before its deadline.
        await parts.lease.refresh()
        for work in (*parts.work(), control.run(instance.context.tls), pages.run(), Memory().run()):
            tasks.append(group.create_task(work))
        beating.cancel()
        await asyncio.wait({beating})
        settle()
        await parts.life.run()
    finally:
        for task in tasks:
            task.cancel()
        await ask.stop()
        await probes.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=5)


def main() -> int:
    """Run the agent and return its exit status."""
    share_heap()
    try:
        environment = read_environment(os.environ)
    except InvalidInput as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 64
    telemetry = setup(
        "yoban-agent",
        instance=environment.instance,
        log_level=os.environ.get("YOBAN_LOG_LEVEL") or "info",
    )

    async def until_signal() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await run(environment, telemetry)

    try:
        asyncio.run(until_signal())
    except asyncio.CancelledError:
        log.info("agent ends because it was told to; the server goes on")
        return 0
    except BaseExceptionGroup as group:
        log.error("agent fails", exc_info=group)
        return 1
    except YobanError as error:
        log.error("agent fails: %s", error)
        return 1
    finally:
        telemetry.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
