"""`python -m deploy.lab COMMAND`: see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.lab import binaries, cluster, faults, images
from deploy.lab.failure import LabError
from deploy.lab.layout import BRIDGE_ADDRESS, NODES
from deploy.lab.proxy import FaultProxy
from deploy.lab.proxy_control import control


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 when it worked, 1 with a message when it did not."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.lab", description="The lab cluster; see deploy/lab/README.md."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str, run: Callable[[argparse.Namespace], object]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        return command

    add("up", "bring the lab up, or repair it", lambda _: cluster.up())
    add("down", "remove the lab with all its data", lambda _: cluster.down())
    add("status", "what runs, as JSON", lambda _: print(json.dumps(cluster.status(), indent=1)))
    build = add("build", "build the programs that are missing in the cache", _programs)
    build.add_argument("names", nargs="*", metavar="PROGRAM", help="all when left out")
    build.add_argument(
        "--images",
        action="store_true",
        help="and meanwhile all images that are missing, with their archives: the network's work, not the CPU's",
    )
    built = add("images", "build images (again: only what changed is done)", _images)
    built.add_argument("names", nargs="*", metavar="IMAGE", help="all when left out, such as postgres:17, yoban:dev")
    load = add("load", "bring images into all nodes, built when missing", lambda a: cluster.load(a.names))
    load.add_argument("names", nargs="+", metavar="IMAGE")
    for name, about in (
        ("cut", "cut a node off the network"),
        ("heal", "end of cut"),
        ("freeze", "stop every process of a node"),
        ("thaw", "end of freeze"),
        ("kill", "pull a node's plug"),
        ("restart", "start a killed node"),
    ):
        command = add(name, about, lambda a: getattr(faults, a.command)(a.node))
        command.add_argument("node", type=int, choices=NODES)
    store = add("store", "stop or start the object store", lambda a: getattr(faults, f"store_{a.action}")())
    store.add_argument("action", choices=("stop", "start"))
    slow = add("slow", "delay the object store's data; 0 ends it", lambda a: faults.store_slow(a.milliseconds))
    slow.add_argument("milliseconds", type=float)
    config = add("kubeconfig", "print the path of the administrator's kubeconfig, or write a copy", _kubeconfig)
    config.add_argument("file", nargs="?", type=Path, help="where to write it (mode 0600)")
    proxy = add(
        "proxy", "serve a fault proxy before the lab's API server until interrupted", lambda a: asyncio.run(_proxy(a))
    )
    proxy.add_argument("--port", type=int, default=6444, help="on the bridge")
    proxy.add_argument("--control-port", type=int, default=0, help="on loopback")
    return parser


def _programs(given: argparse.Namespace) -> None:
    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(_missing_images) if given.images and os.geteuid() == 0 else None
        binaries.build(given.names or binaries.PROGRAMS)
        if meanwhile is not None:
            meanwhile.result()


def _missing_images() -> None:
    try:
        images.ensure(list(images.IMAGES))
        for name in images.IMAGES:
            images.archive(name)
    except LabError as error:
        # Not everything needs images: what does will say so again.
        print(f"lab: {error}", file=sys.stderr)


def _images(given: argparse.Namespace) -> None:
    for name in given.names or images.IMAGES:
        images.build(name)


def _kubeconfig(given: argparse.Namespace) -> None:
    found = cluster.kubeconfig()
    if given.file is None:
        print(found)
        return
    from deploy.lab.kubeconfig import write_private

    write_private(given.file, found.read_text())


async def _proxy(given: argparse.Namespace) -> None:
    async with (
        FaultProxy(cluster.current(), host=BRIDGE_ADDRESS, port=given.port) as proxy,
        control(proxy, given.control_port) as port,
    ):
        print(f"proxy {proxy.url}\nkubeconfig {proxy.kubeconfig}\ncontrol http://127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
