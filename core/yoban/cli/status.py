"""`kubectl yoban status NAME`: a Database on one screen: instances, roles, lag, recoverable window, archive, conditions.

Shows what the operator wrote to the status, at most a minute old, beside what is known now: Pods and the primary's Lease by
the API server, lag and archive by each agent's metrics, where the user may reach them. Decides nothing and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from yoban.cli import table
from yoban.cli.cluster import Cluster, add_arguments, connect
from yoban.domain.summary import size, span
from yoban.errors import YobanError
from yoban.kube.clock import parse_rfc3339
from yoban.kube.resource import LEASE, POD, Resource
from yoban.model.instance import DATABASE_LABEL, INSTANCE_LABEL, LEASE_TERM, METRICS_PORT, ROLE_LABEL

DATABASE = Resource("yoban.dev", "v1alpha1", "databases", "Database")

Obj = Mapping[str, Any]
Live = Mapping[str, Mapping[str, float]]
"""By instance, the figures that its agent serves now, by metric."""


def main(arguments: Sequence[str]) -> int:
    """Print the status. Raises NotFound for a Database that does not exist."""
    parser = argparse.ArgumentParser(prog="kubectl yoban status", description="Show a Database on one screen.")
    parser.add_argument("database", help="name of the Database")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    print(asyncio.run(_read(options)))
    return 0


async def _read(options: argparse.Namespace) -> str:
    async with connect(options) as cluster:
        database = await cluster.client.get(DATABASE, options.database, cluster.namespace)
        lease = await cluster.client.find(LEASE, f"{options.database}-primary", cluster.namespace)
        pods = await cluster.client.list(POD, cluster.namespace, labels=f"{DATABASE_LABEL}={options.database}")
        live = dict(await asyncio.gather(*(_figures(cluster, pod) for pod in pods.items)))
    return render(database, pods.items, lease, datetime.now(UTC), live)


async def _figures(cluster: Cluster, pod: Obj) -> tuple[str, Mapping[str, float]]:
    """The instance of a Pod and its figures; none when it cannot be reached, or the user may not."""
    instance = pod["metadata"].get("labels", {}).get(INSTANCE_LABEL, "")
    try:
        page = await cluster.pod_page(cluster.namespace, pod["metadata"]["name"], METRICS_PORT, "metrics")
    except YobanError:
        return instance, {}
    return instance, parse(page.decode(errors="replace"))


def parse(page: str) -> dict[str, float]:
    """Return the samples without labels of a Prometheus page, by name. Pure."""
    found = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("yoban_") and "{" not in name:
            try:
                found[name] = float(value)
            except ValueError:
                continue
    return found


def render(database: Obj, pods: Sequence[Obj], lease: Obj | None, now: datetime, live: Live | None = None) -> str:
    """Return the screen for a Database, its Pods, its Lease, and what agents say now. Pure."""
    live = live or {}
    return "\n".join(
        [
            *_head(database, lease),
            "",
            _instances(database, pods, live),
            "",
            *_archive(database, now, live),
            *_conditions(database, now),
        ]
    )


def _head(database: Obj, lease: Obj | None) -> Iterator[str]:
    meta, spec, status = database["metadata"], database.get("spec", {}), database.get("status", {})
    version = status.get("version") or spec.get("version", "")
    phase = status.get("phase") or "not seen yet"
    yield f"Database {meta['namespace']}/{meta['name']}: {spec.get('engine', '')} {version}, {phase}"
    details = []
    if lease is not None:
        term = lease["metadata"].get("annotations", {}).get(LEASE_TERM, "")
        holder = lease.get("spec", {}).get("holderIdentity") or "nobody"
        details.append(f"primary {holder}" + (f" (term {term})" if term else ""))
    if status.get("ready"):
        details.append(f"ready {status['ready']}")
    if status.get("incarnation"):
        details.append(f"incarnation {status['incarnation']}")
    if spec.get("paused"):
        details.append("paused")
    if details:
        yield ", ".join(details)


def _instances(database: Obj, pods: Sequence[Obj], live: Live) -> str:
    by_instance = {pod["metadata"].get("labels", {}).get(INSTANCE_LABEL, ""): pod for pod in pods}
    rows = []
    for one in database.get("status", {}).get("instances", []):
        pod = by_instance.pop(one["name"], None)
        lag = live.get(one["name"], {}).get("yoban_replication_lag_seconds", one.get("lagSeconds"))
        rows.append((*_instance(one, pod), one.get("position"), _lag(lag), one.get("message")))
    for name, pod in sorted(by_instance.items()):
        rows.append((*_instance({"name": name}, pod), "", "", "not in the status yet"))
    head = ("INSTANCE", "ROLE", "PHASE", "READY", "NODE", "RESTARTS", "POSITION", "LAG", "MESSAGE")
    return table.render(head, rows) if rows else "no instances yet"


def _instance(one: Obj, pod: Obj | None) -> tuple[object, ...]:
    """Name, role, phase, readiness, node and restarts; role and readiness from the Pod, which is never out of date."""
    if pod is None:
        return one["name"], one.get("role"), one.get("phase") or "no Pod", "no", "", ""
    status = pod.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    restarts = sum(c.get("restartCount", 0) for c in status.get("containerStatuses", []))
    role = pod["metadata"].get("labels", {}).get(ROLE_LABEL) or one.get("role")
    phase = one.get("phase") or status.get("phase", "").lower()
    return one["name"], role, phase, "yes" if ready else "no", pod.get("spec", {}).get("nodeName"), restarts


def _lag(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _archive(database: Obj, now: datetime, live: Live) -> Iterator[str]:
    status = database.get("status", {})
    for instance, figures in sorted(live.items()):
        if (age := figures.get("yoban_archive_window_age_seconds")) is not None:
            lag, waiting = figures.get("yoban_archive_lag_seconds", 0.0), int(figures.get("yoban_archive_backlog", 0))
            behind = f"{lag:.1f} s behind, {waiting} segments wait" if lag or waiting else "everything is stored"
            if failing := figures.get("yoban_archive_failing_seconds"):
                behind += f", failing for {failing:.0f} s"
            yield f"Archive      {behind}; restorable to {age:.1f} s ago (by {instance}, now)"
        if kept := figures.get("yoban_archive_backlog_size_bytes"):
            full = figures.get("yoban_log_volume_full_seconds")
            lasts = f", full in about {span(full)}" if full is not None else ""
            limit = size(figures.get("yoban_log_volume_limit_bytes", 0.0))
            yield f"Log kept     {size(kept)} not stored, of {limit} that the volume can hold{lasts} (by {instance}, now)"
    if restored := status.get("restored"):
        last = restored.get("lastCommit")
        yield f"Restored     from {restored['backup']}" + (f", last commit {last} ({ago(last, now)})" if last else "")
    window = status.get("window")
    if window:
        yield f"Window       {window['start']} to {window['end']} ({ago(window['end'], now)})"
        if window.get("lastCommit"):
            yield f"Last commit  {window['lastCommit']} ({ago(window['lastCommit'], now)})"
    else:
        yield "Window       nothing can be restored yet"
    if status.get("lastBackup"):
        yield f"Last backup  {status['lastBackup']} ({ago(status['lastBackup'], now)})"
    if status.get("rpo"):
        yield f"RPO          {status['rpo']}"
    if status.get("policySatisfied") is not None:
        held = "satisfied" if status["policySatisfied"] else "NOT satisfied"
        since = f" since {status['policySince']}" if status.get("policySince") else ""
        yield f"Policy       {held}{since}"
    if status.get("switchover"):
        one = status["switchover"]
        yield f"Switchover   {one['id']}: {one.get('state', '')} {one.get('message', '')}".rstrip()


def _conditions(database: Obj, now: datetime) -> Iterator[str]:
    conditions = database.get("status", {}).get("conditions", [])
    if not conditions:
        return
    generation = database["metadata"].get("generation", 0)
    yield ""
    rows = []
    for one in conditions:
        stale = " (of an older specification)" if one.get("observedGeneration", generation) < generation else ""
        since = one.get("lastTransitionTime")
        rows.append(
            (
                one["type"],
                one["status"],
                one.get("reason"),
                ago(since, now) if since else "",
                one.get("message", "") + stale,
            )
        )
    yield table.render(("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)


def ago(moment: str, now: datetime) -> str:
    """Return how long ago an RFC 3339 time was, roughly: `12 s ago`, `3 h ago`; a future one is `just now`."""
    seconds = (now - parse_rfc3339(moment)).total_seconds()
    if seconds < 1:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"
