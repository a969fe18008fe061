"""The engines of the demo and the end-to-end tests, each in a few words: the story and the tests are the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.demo import manifests
from deploy.demo.client import Client, PostgresClient
from deploy.demo.kubectl import Kubectl, Object
from deploy.demo.mysql import MySQLClient


@dataclass(frozen=True)
class DemoEngine:
    """What a user of an engine writes, and the client that an application would use.

    Attributes:
        name: value of `spec.engine`.
        title: for people.
        version: value of `spec.version`.
        image: image of the server.
        client: makes the application beside a Database.
    """

    name: str
    title: str
    version: str
    image: str
    client: Callable[[Kubectl, str], Client]

    def database(self, name: str, *, instances: int, policy: str = "", **more: Any) -> Object:
        """Return a Database of this engine; `more` goes over what is usual."""
        values: dict[str, Any] = {"version": self.version, **more}
        return manifests.database(
            name, values.pop("engine", self.name), values.pop("image", self.image), instances=instances, policy=policy,
            **values,
        )  # fmt: skip

    def restored(self, name: str, source: str | Object, target: Object, *, policy: str = "") -> Object:
        """Return a Database that begins as another was; `source` is its name, or a place in a store."""
        return self.database(name, instances=1, policy=policy, bootstrap=manifests.restore_of(source, target))


POSTGRES = DemoEngine("postgres", "PostgreSQL 17", "17", PostgresClient.image, PostgresClient)
MYSQL = DemoEngine("mysql", "MySQL 9.7", "9.7", MySQLClient.image, MySQLClient)
ENGINES = {engine.name: engine for engine in (POSTGRES, MYSQL)}
