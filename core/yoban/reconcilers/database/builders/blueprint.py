"""The inputs of the builders: everything about one Database that shapes its objects, checked and with defaults filled
in.

Guarantees: frozen; holds no secret. `inputs` is a digest of all that a change of must reach running Pods, and of
nothing else. Does not validate: phase `admit` has done so before it makes a `Blueprint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import msgspec

from yoban.plugins import Layout
from yoban.reconcilers.database.builders.names import Names


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A volume to be claimed: size as a Kubernetes quantity, storage class ("" for the cluster's default)."""

    size: str
    storage_class: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """What an instance may use and is promised, as Kubernetes quantities by resource name."""

    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """The `pod` block of a Database: plain Kubernetes fields, passed on."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] | None = None
    topology_spread: tuple[Mapping[str, Any], ...] = ()
    pull_secrets: tuple[str, ...] = ()
    pull_policy: str = ""
    priority_class: str = ""
    termination_seconds: int = 600


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the operator puts into a Pod beside the user's own: it is pinned, so that an upgrade restarts nothing.

    Attributes:
        image: the operator's image, from which `/opt/yoban` is copied.
        revision: of the Pod template's form; a builder keeps making each form that may still be in use.
        env: variables handed on to agents (plugins, telemetry).
        pull_policy: of `image`, "" for Kubernetes' default.
    """

    image: str
    revision: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    pull_policy: str = ""

    def encode(self) -> str:
        """As text for an annotation."""
        return msgspec.json.encode(
            {"image": self.image, "revision": self.revision, "env": dict(self.env), "pullPolicy": self.pull_policy},
            order="sorted",
        ).decode()

    @classmethod
    def decode(cls, text: str) -> Runtime | None:
        """The reverse of `encode`; None for text that is not of that form."""
        try:
            raw = msgspec.json.decode(text, type=dict[str, Any])
            env = {str(k): str(v) for k, v in raw.get("env", {}).items()}
            return cls(str(raw["image"]), int(raw["revision"]), env, str(raw.get("pullPolicy", "")))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One Database, ready to be built.

    Attributes:
        names: names of its objects.
        engine: the engine's name, for labels.
        image: the engine's image.
        layout: where things are in it.
        instances: how many are wanted.
        data, log: volumes; `log` None when the log lives with the data.
        operator_namespace: where the operator runs, for the NetworkPolicy.
        host_names: further names that certificates are good for.
    """

    names: Names
    engine: str
    version: str
    image: str
    layout: Layout
    instances: int
    data: VolumeSpec
    log: VolumeSpec | None = None
    resources: Resources = field(default_factory=Resources)
    placement: Placement = field(default_factory=Placement)
    operator_namespace: str = ""
    host_names: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every child object."""
        return self.names.labels(self.engine)

    @property
    def inputs(self) -> str:
        """A digest of all that the Pod template takes from the specification: a change must reach the Pods."""
        relevant = {
            "image": self.image,
            "layout": [str(part) for part in _layout_parts(self.layout)],
            "log": self.log is not None,
            "resources": [dict(self.resources.requests), dict(self.resources.limits)],
            "placement": _plain(self.placement),
        }
        return hashlib.sha256(msgspec.json.encode(relevant, order="sorted")).hexdigest()[:16]


def _layout_parts(layout: Layout) -> tuple[object, ...]:
    mounts: tuple[PurePosixPath | None, ...] = (layout.home, layout.data_mount, layout.log_mount, *layout.writable)
    return (layout.uid, layout.gid, layout.user, layout.group, layout.port, layout.port_name, *mounts)


def _plain(placement: Placement) -> dict[str, Any]:
    return {name: getattr(placement, name) for name in Placement.__dataclass_fields__}
