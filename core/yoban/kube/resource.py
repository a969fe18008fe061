"""Which collection of the API a call is about: group, version, plural and kind, and the paths they make.

Guarantees: a path is quoted, so no name can leave its collection. Does not know which resources a server has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")


def quoted(text: str) -> str:
    """`text` as one part of a path, or one value of a query. Names in Kubernetes need no quoting, which is quick to tell."""
    return text if _UNRESERVED.fullmatch(text) else quote(text, safe="")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object as the API server serves it.

    Attributes:
        group: API group, "" for the core group.
        version: API version, `v1`.
        plural: the name in paths, `configmaps`.
        kind: the name in objects, `ConfigMap`.
        namespaced: whether objects live in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What objects say in `apiVersion`: `v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, of one object, or of its subresource.

        Raises ValueError when an object of a namespaced kind is named without its namespace, or a cluster-scoped one with
        a namespace.
        """
        if namespace and not self.namespaced:
            raise ValueError(f"{self.kind} is cluster-scoped; leave the namespace {namespace!r} out")
        if name is not None and self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name!r} needs a namespace")
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if namespace:
            parts.append(f"namespaces/{quoted(namespace)}")
        parts.append(self.plural)
        if name is not None:
            if not name or name in (".", ".."):
                raise ValueError(f"{name!r} is no name of a {self.kind}")
            parts.append(quoted(name))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _core(plural: str, kind: str, *, namespaced: bool = True) -> Resource:
    return Resource("", "v1", plural, kind, namespaced)


CONFIG_MAP = _core("configmaps", "ConfigMap")
ENDPOINTS = _core("endpoints", "Endpoints")
NAMESPACE = _core("namespaces", "Namespace", namespaced=False)
NODE = _core("nodes", "Node", namespaced=False)
PERSISTENT_VOLUME = _core("persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIM = _core("persistentvolumeclaims", "PersistentVolumeClaim")
POD = _core("pods", "Pod")
SECRET = _core("secrets", "Secret")
SERVICE = _core("services", "Service")
SERVICE_ACCOUNT = _core("serviceaccounts", "ServiceAccount")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SET = Resource("apps", "v1", "statefulsets", "StatefulSet")
JOB = Resource("batch", "v1", "jobs", "Job")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
ENDPOINT_SLICE = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
EVENT = Resource("events.k8s.io", "v1", "events", "Event")
NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
POD_DISRUPTION_BUDGET = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
ROLE = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDING = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
STORAGE_CLASS = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
CUSTOM_RESOURCE_DEFINITION = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
