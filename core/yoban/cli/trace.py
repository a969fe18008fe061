"""`kubectl yoban trace BACKUP`: where the time of a backup went, as a waterfall.

Each process keeps the spans of work that crossed processes in memory (`yoban.telemetry.spans`); this command gathers them
from the operator's Pods and the Database's, and joins them by their ids. What a restarted process had is gone: traces for
good go to a collector (OTLP).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from yoban.cli.cluster import Cluster, add_arguments, connect
from yoban.errors import NotFound, NotReady, YobanError
from yoban.kube.resource import POD, Resource
from yoban.model.instance import DATABASE_LABEL, METRICS_PORT
from yoban.telemetry import waterfall
from yoban.telemetry.spans import SpanRecord, decode

BACKUP = Resource("yoban.dev", "v1alpha1", "backups", "Backup")
OPERATOR_LABELS = "app.kubernetes.io/name=yoban,app.kubernetes.io/component=operator"
OPERATOR_PORT = 8080


def main(arguments: Sequence[str]) -> int:
    """Print the waterfall. Raises NotReady for a backup that has no trace yet, NotFound when no process has its spans."""
    parser = argparse.ArgumentParser(prog="kubectl yoban trace", description="Show where the time of a Backup went.")
    parser.add_argument("backup", help="name of the Backup")
    parser.add_argument(
        "--operator-namespace", default="yoban-system", help="namespace of the operator (default: %(default)s)"
    )
    parser.add_argument("--width", type=int, default=0, help="columns (default: the terminal's)")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    asyncio.run(_show(options))
    return 0


async def _show(options: argparse.Namespace) -> None:
    async with connect(options) as cluster:
        backup = await cluster.client.get(BACKUP, options.backup, cluster.namespace)
        trace = backup.get("status", {}).get("traceId", "")
        if not trace:
            raise NotReady(
                "has no trace yet", object=f"Backup {cluster.namespace}/{options.backup}", fix="wait until it has begun"
            )
        found = await gather(cluster, trace, backup["spec"]["database"], options.operator_namespace)
    if not found:
        raise NotFound(
            "no process has spans of it any more",
            object=f"trace {trace}",
            cause="they are kept in memory, and newer ones push them out",
            fix="set OTEL_EXPORTER_OTLP_ENDPOINT to keep traces in a collector",
        )
    width = options.width or shutil.get_terminal_size((110, 24)).columns
    print(f"Backup {options.backup}, trace {trace}, {len(found)} spans\n")
    print(waterfall.render(found, width))


async def gather(cluster: Cluster, trace: str, database: str, operator_namespace: str) -> list[SpanRecord]:
    """Return the spans that the operator's and the Database's Pods have; a Pod that does not answer is named and left out."""
    places = [(operator_namespace, OPERATOR_LABELS, OPERATOR_PORT)]
    places.append((cluster.namespace, f"{DATABASE_LABEL}={database}", METRICS_PORT))
    found: list[SpanRecord] = []
    for namespace, labels, port in places:
        pods = (await cluster.client.list(POD, namespace, labels=labels)).items
        for part in await asyncio.gather(*(_of_pod(cluster, namespace, pod, port, trace) for pod in pods)):
            found += part
    return found


async def _of_pod(cluster: Cluster, namespace: str, pod: dict[str, Any], port: int, trace: str) -> list[SpanRecord]:
    try:
        return decode(await cluster.pod_page(namespace, pod["metadata"]["name"], port, f"traces/{trace}"))
    except (YobanError, ValueError) as error:
        print(f"left out: {error}", file=sys.stderr)
        return []
