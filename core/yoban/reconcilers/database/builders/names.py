"""Names, labels and hosts of everything that belongs to one Database.

Guarantees: names follow from the Database and an instance's number alone, and fit Kubernetes' limits for a Database
name of at most 40 characters. Names that hold data carry the incarnation. Does not guarantee that a name is free:
whoever writes checks whose object is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.domain.identity import instance_name, instance_number, repository_path
from yoban.model.instance import DATABASE_LABEL, INSTANCE_LABEL, ROLE_LABEL

MANAGED_BY = "yoban"
INCARNATION_LABEL = "yoban.dev/incarnation"
VOLUME_LABEL = "yoban.dev/volume"
"""On volume claims: `data` or `log`."""
FINALIZER = "yoban.dev/database"


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the objects of one Database; `incarnation` is the id of this life of its data."""

    namespace: str
    database: str
    incarnation: str

    @property
    def lease(self) -> str:
        """The Lease that the primary holds."""
        return f"{self.database}-primary"

    @property
    def account(self) -> str:
        """ServiceAccount, Role, RoleBinding, PodDisruptionBudget and NetworkPolicy."""
        return self.database

    @property
    def connection(self) -> str:
        """The Secret that applications use."""
        return self.database

    @property
    def accounts(self) -> str:
        """The Secret with a password per purpose."""
        return f"{self.database}-accounts"

    @property
    def store(self) -> str:
        """The Secret with the archive store's configuration."""
        return f"{self.database}-store"

    @property
    def source(self) -> str:
        """The Secret with the configuration of the store that is restored from."""
        return f"{self.database}-source"

    @property
    def spec(self) -> str:
        """The ConfigMap with the instance document."""
        return f"{self.database}-spec"

    @property
    def public_ca(self) -> str:
        """The ConfigMap with the certificates to trust."""
        return f"{self.database}-ca"

    @property
    def ca(self) -> str:
        """The Secret with the signing key, in the operator's namespace.

        It carries the incarnation: `a-b`/`c` and `a`/`b-c` must not share a key.
        """
        return f"yoban-ca-{self.namespace}-{self.database}-{self.incarnation[:6]}"

    @property
    def read_write(self) -> str:
        """The Service of the primary."""
        return f"{self.database}-rw"

    @property
    def read_only(self) -> str:
        """The Service of the replicas."""
        return f"{self.database}-ro"

    @property
    def read_any(self) -> str:
        """The Service of every instance that is ready."""
        return f"{self.database}-r"

    @property
    def peers(self) -> str:
        """The headless Service that gives each instance a stable host."""
        return f"{self.database}-peers"

    @property
    def repository(self) -> str:
        """Where this incarnation's backups and log lie in a store."""
        return repository_path(self.namespace, self.database, self.incarnation)

    def instance(self, number: int) -> str:
        """The instance's name, which is its StatefulSet's too."""
        return instance_name(self.database, number)

    def number(self, instance: str) -> int | None:
        """The number in an instance's name, None for another name."""
        return instance_number(self.database, instance)

    def pod(self, number: int) -> str:
        """The instance's Pod."""
        return f"{self.instance(number)}-0"

    def data(self, number: int) -> str:
        """The claim of the data volume."""
        return f"{self.instance(number)}-{self.incarnation[:6]}"

    def log(self, number: int) -> str:
        """The claim of the log's own volume."""
        return f"{self.data(number)}-log"

    def tls(self, number: int) -> str:
        """The Secret with the instance's certificates."""
        return f"{self.instance(number)}-tls"

    def objects(self, number: int) -> frozenset[str]:
        """The names of an instance's own objects of any kind: what bears its labels under another name is none of them."""
        return frozenset(
            (self.instance(number), self.pod(number), self.tls(number), self.data(number), self.log(number))
        )

    def host(self, number: int) -> str:
        """The instance's stable DNS name, without the cluster's domain, which need not be the usual one."""
        return f"{self.pod(number)}.{self.peers}.{self.namespace}.svc"

    def service_host(self, service: str) -> str:
        """The DNS name of one of the Services."""
        return f"{service}.{self.namespace}.svc"

    def labels(self, engine: str) -> dict[str, str]:
        """Labels of every child object."""
        return {
            "app.kubernetes.io/name": engine,
            "app.kubernetes.io/instance": self.database,
            "app.kubernetes.io/component": "database",
            "app.kubernetes.io/managed-by": MANAGED_BY,
            DATABASE_LABEL: self.database,
        }

    def instance_labels(self, engine: str, number: int) -> dict[str, str]:
        """Labels of the objects of one instance. The role label is the agent's to set and is never among them."""
        return {**self.labels(engine), INSTANCE_LABEL: self.instance(number)}

    @property
    def selector(self) -> dict[str, str]:
        """Label selector of all Pods of the Database."""
        return {DATABASE_LABEL: self.database}

    def role_selector(self, role: str) -> dict[str, str]:
        """Label selector of the Pods in a role (`primary`, `replica`)."""
        return {**self.selector, ROLE_LABEL: role}
