"""An application beside the database: a Pod with the engine's own client, that connects as any application would.

It takes host, port, user, password and database from the connection Secret, and goes through the Service. One small
description per engine says how; the story is the same for all.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from deploy.demo.flights import Table
from deploy.demo.kubectl import Kubectl, KubectlError, Object

_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 999,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Checksum:
    """Content of a table: its rows, and a sum over hashes of all of them (order does not matter)."""

    rows: int
    digest: str


class Client(ABC):
    """A Pod that speaks SQL to one Database.

    Attributes:
        image: has the engine's client program.
        bookings: how the table `bookings` of the story is made, with a number and a time of the server's own.
    """

    image: str
    bookings: str

    def __init__(self, kubectl: Kubectl, database: str) -> None:
        self.kubectl = kubectl
        self.database = database
        self.pod = f"{database}-client"

    def start(self) -> None:
        """Make the Pod and wait until it runs. May be called again."""
        self.kubectl.apply(self.manifest())
        self.kubectl.run("wait", "pod", self.pod, "--for=condition=Ready", "--timeout=120s", deadline=130)

    def restart(self) -> None:
        """Make the Pod anew, as an application is restarted to read a changed Secret."""
        self.kubectl.delete("pod", self.pod)
        self.start()

    def until_it_works(self, text: str = "SELECT 1", *, deadline: float) -> str:
        """Run SQL again and again, as a pool that reconnects, until it succeeds, and return its bare result.

        Raises:
            KubectlError: none succeeded within `deadline` seconds; it is the last one's.
        """
        end = time.monotonic() + deadline
        while True:
            try:
                return self.sql(text, deadline=20)
            except KubectlError:
                if time.monotonic() >= end:
                    raise
                time.sleep(1)

    def manifest(self) -> Object:
        """Return the Pod."""
        environment = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": self.database, "key": key}}}
            for name, key in self.environment().items()
        ]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.pod, "labels": {"app.kubernetes.io/name": "yoban-demo-client"}},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "client",
                        "image": self.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"],
                        "env": [*environment, *self.fixed_environment()],
                        "securityContext": _SECURITY,
                    }
                ],
            },
        }

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables of the engine's client, each with the key of the connection Secret it is taken from."""

    def fixed_environment(self) -> list[Object]:
        """Further variables."""
        return []

    @abstractmethod
    def sql(self, text: str, *, stdin: bytes | None = None, deadline: float = 120.0) -> str:
        """Run SQL and return its bare result."""

    @abstractmethod
    def create(self, table: Table) -> None:
        """Make a table and load its rows."""

    @abstractmethod
    def checksum(self, table: str) -> Checksum:
        """Return count and checksum of a table."""

    @abstractmethod
    def now(self) -> str:
        """Return the server's time, RFC 3339 with an offset, to the microsecond."""

    @abstractmethod
    def fill(self, table: str, first: int, last: int) -> None:
        """Insert the numbers from `first` to `last` into a table of one column, in one transaction."""

    @abstractmethod
    def started(self) -> float:
        """Return when the server was started, in seconds since the epoch, to a second or two."""


class PostgresClient(Client):
    """psql, from the image that the Database itself runs."""

    image = "localhost/yoban-lab/postgres:17"
    bookings = (
        "CREATE TABLE IF NOT EXISTS bookings (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, flight integer,"
        " passenger text, booked_at timestamptz DEFAULT clock_timestamp())"
    )

    def environment(self) -> dict[str, str]:
        return {
            "PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "database",
        }  # fmt: skip

    def fixed_environment(self) -> list[Object]:
        return [{"name": "PGSSLMODE", "value": "require"}, {"name": "PGCONNECT_TIMEOUT", "value": "5"}]

    def sql(self, text: str, *, stdin: bytes | None = None, deadline: float = 120.0) -> str:
        argv = ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text)
        return self.kubectl.execute(self.pod, *argv, stdin=stdin, deadline=deadline).strip()

    def create(self, table: Table) -> None:
        columns = ", ".join(f"{name} {kind}" for name, kind in table.columns)
        self.sql(f"DROP TABLE IF EXISTS {table.name}; CREATE TABLE {table.name} ({columns})")
        self.sql(f"COPY {table.name} FROM STDIN WITH (FORMAT csv, HEADER, NULL 'NA')", stdin=table.csv, deadline=300)

    def checksum(self, table: str) -> Checksum:
        answer = self.sql(f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {table} t")
        rows, digest = answer.split("|")
        return Checksum(int(rows), digest)

    def now(self) -> str:
        return self.sql(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
        )

    def fill(self, table: str, first: int, last: int) -> None:
        self.sql(f"INSERT INTO {table} SELECT generate_series({first}, {last})")

    def started(self) -> float:
        return float(self.sql("SELECT extract(epoch FROM pg_postmaster_start_time())"))
