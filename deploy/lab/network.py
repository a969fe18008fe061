"""The lab's network: a bridge, a network namespace a node, static routes, and a wall around it.

Guarantees that nothing on the bridge is forwarded anywhere else, that nodes have no default route, and that `remove`
leaves no link, namespace or table. Needs root. Everything may be called again at any time.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.lab import layout
from deploy.lab.layout import BRIDGE, BRIDGE_ADDRESS, NODES
from deploy.lab.process import run

TABLE = "yoban-lab"
PROXY_PORTS = "6444-6499"
"""Ports on the bridge that Pods may reach besides API, DNS and store: for fault proxies of tests."""

DNS_PORT = 1053

_WALL = f"""
table inet {TABLE} {{
  counter escaped {{ }}
  counter refused {{ }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname "{BRIDGE}" oifname "{BRIDGE}" accept
    iifname "{BRIDGE}" counter name escaped drop
    oifname "{BRIDGE}" counter name refused drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname != "{BRIDGE}" accept
    ct state established,related accept
    ip protocol icmp accept
    tcp dport {{ {DNS_PORT}, {layout.API_PORT}, {PROXY_PORTS}, {layout.STORE_PORT}-9199, {layout.STORE_TLS_PORT} }} accept
    udp dport {DNS_PORT} accept
    counter name refused drop
  }}
  chain output {{
    type filter hook output priority -10; policy accept;
    ip daddr {layout.LAB_NETWORK} oifname != {{ "{BRIDGE}", "lo" }} counter name escaped drop
  }}
}}
"""


def namespace(number: int) -> str:
    """The network namespace of a node."""
    return f"yoban-{layout.node_name(number)}"


def link(number: int) -> str:
    """The host's end of a node's cable: set it down and the node is cut off."""
    return f"yoban-n{number}"


def ensure() -> None:
    """Make what is missing of bridge, wall and namespaces; cables that a test cut are connected again."""
    if not _exists(BRIDGE):
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    _sysctl(f"net/ipv6/conf/{BRIDGE}/disable_ipv6", "1")
    run(["ip", "addr", "replace", f"{BRIDGE_ADDRESS}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    run(["nft", "-f", "-"], stdin=f"add table inet {TABLE}\ndelete table inet {TABLE}\n{_WALL}")
    for number in NODES:
        _ensure_node(number)
    for number in NODES:
        _route(layout.pod_network(number), layout.node_address(number))
    # Services from the host: node 1's kube-proxy finds the Pod and hides where the packet came from.
    _route(layout.SERVICE_NETWORK, layout.node_address(1))


def exists() -> bool:
    """Whether there is anything of the network."""
    return _exists(BRIDGE) or any((Path("/run/netns") / namespace(number)).exists() for number in NODES)


def complete() -> bool:
    """Whether bridge, wall and every cable are there and up."""
    links = {entry["ifname"]: entry for entry in json.loads(run(["ip", "-json", "link", "show"]))}
    wanted = [BRIDGE, *(link(number) for number in NODES)]
    if not all(name in links and "UP" in links[name]["flags"] for name in wanted):
        return False
    return f"table inet {TABLE}" in run(["nft", "list", "tables"])


def remove() -> None:
    """Remove cables, namespaces, bridge (its routes go with it) and wall. May be called twice."""
    for number in NODES:
        run(["ip", "link", "del", link(number)], check=False)
        run(["ip", "netns", "del", namespace(number)], check=False)
    run(["ip", "link", "del", BRIDGE], check=False)
    run(["nft", "delete", "table", "inet", TABLE], check=False)


def set_cable(number: int, *, up: bool) -> None:
    """Cut a node off, or connect it again: packets vanish, no connection is reset."""
    run(["ip", "link", "set", link(number), "up" if up else "down"])


def counter(name: str) -> int:
    """Packets that the wall dropped: `escaped` (on their way out of the lab) or `refused` (on their way in)."""
    listed = json.loads(run(["nft", "--json", "list", "counter", "inet", TABLE, name]))
    return next(int(entry["counter"]["packets"]) for entry in listed["nftables"] if "counter" in entry)


def _ensure_node(number: int) -> None:
    space, cable = namespace(number), link(number)
    if not (Path("/run/netns") / space).exists():
        run(["ip", "netns", "add", space])
    inside = ["ip", "-netns", space]
    if not _exists(cable):
        run(["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space])
    run(["ip", "link", "set", cable, "master", BRIDGE, "up"])
    _sysctl(f"net/ipv6/conf/{cable}/disable_ipv6", "1")
    enter = ["nsenter", f"--net=/run/netns/{space}", "sysctl", "--quiet", "--write"]
    settings = ("ipv6.conf.all.disable_ipv6=1", "ipv4.ip_forward=1")
    filters = ("ipv4.conf.all.rp_filter=0", "ipv4.conf.default.rp_filter=0")
    run([*enter, *(f"net.{setting}" for setting in settings + filters)])
    run([*inside, "addr", "replace", f"{layout.node_address(number)}/24", "dev", "eth0"])
    for name in ("lo", "eth0"):
        run([*inside, "link", "set", name, "up"])
    for other in NODES:
        if other != number:
            run([*inside, "route", "replace", layout.pod_network(other), "via", layout.node_address(other)])
    # Where kube-proxy knows a service it rewrites the packet before this route is used; others end at the wall.
    run([*inside, "route", "replace", layout.SERVICE_NETWORK, "via", BRIDGE_ADDRESS])


def _exists(name: str) -> bool:
    return (Path("/sys/class/net") / name).exists()


def _route(network: str, via: str) -> None:
    run(["ip", "route", "replace", network, "via", via, "dev", BRIDGE])


def _sysctl(key: str, value: str) -> None:
    path = Path("/proc/sys") / key
    if path.exists():
        path.write_text(value)
