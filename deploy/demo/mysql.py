"""The application beside a MySQL Database: the `mysql` client of the image that the Database itself runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from deploy.demo.client import Checksum, Client
from deploy.demo.flights import Table
from deploy.demo.kubectl import Object

_TYPES = {"text": "varchar(100)", "timestamptz": "datetime", "double precision": "double"}
_BATCH = 2000
"""Rows of one INSERT, which is one transaction."""
_SETTINGS = "/tmp/client.cnf"
_WRITE_SETTINGS = (
    'umask 077; printf "[client]\\nhost=%s\\nport=%s\\nuser=%s\\npassword=\\"%s\\"\\nssl-mode=REQUIRED\\nconnect-timeout=5\\n'
    f'" "$DB_HOST" "$DB_PORT" "$DB_USER" "$DB_PASSWORD" > {_SETTINGS}; '
)


class MySQLClient(Client):
    """The `mysql` program; it reads what opens the database from a file of its own, mode 0600."""

    image = "localhost/yoban-lab/mysql:9.7"
    bookings = (
        "CREATE TABLE IF NOT EXISTS bookings (id bigint AUTO_INCREMENT PRIMARY KEY, flight integer,"
        " passenger varchar(100), booked_at timestamp(6) DEFAULT CURRENT_TIMESTAMP(6))"
    )

    def manifest(self) -> Object:
        """See `Client.manifest`; the client's file is written first."""
        pod = super().manifest()
        command = pod["spec"]["containers"][0]["command"]
        pod["spec"]["containers"][0]["command"] = [*command[:2], _WRITE_SETTINGS + command[2]]
        return pod

    def environment(self) -> dict[str, str]:
        return {
            "DB_HOST": "host",
            "DB_PORT": "port",
            "DB_USER": "user",
            "DB_PASSWORD": "password",
            "DB_NAME": "database",
        }

    def sql(self, text: str, *, stdin: bytes | None = None, deadline: float = 120.0) -> str:
        more = b"" if stdin is None else stdin
        run = f'exec mysql --defaults-extra-file={_SETTINGS} --batch --skip-column-names --raw "$DB_NAME"'
        return self.kubectl.execute(
            self.pod, "sh", "-c", run, stdin=text.encode() + b";\n" + more, deadline=deadline
        ).strip()

    def create(self, table: Table) -> None:
        self.sql(f"DROP TABLE IF EXISTS {table.name}; CREATE TABLE {table.name} ({columns(table)})")
        self.sql("SET NAMES utf8mb4", stdin=b"".join(inserts(table)), deadline=300)

    def checksum(self, table: str) -> Checksum:
        rows = self.sql(f"SELECT count(*) FROM {table}")
        digest = self.sql(f"CHECKSUM TABLE {table} EXTENDED").split("\t")[-1]
        return Checksum(int(rows), digest)

    def now(self) -> str:
        return self.sql("SELECT date_format(utc_timestamp(6), '%Y-%m-%dT%H:%i:%s.%f+00:00')")

    def fill(self, table: str, first: int, last: int) -> None:
        self.sql(
            f"SET SESSION cte_max_recursion_depth = {last - first + 1}; INSERT INTO {table} WITH RECURSIVE s AS"
            f" (SELECT {first} AS n UNION ALL SELECT n + 1 FROM s WHERE n < {last}) SELECT n FROM s"
        )

    def started(self) -> float:
        return float(
            self.sql(
                "SELECT unix_timestamp() - variable_value FROM performance_schema.global_status"
                " WHERE variable_name = 'Uptime'"
            )
        )


def columns(table: Table) -> str:
    """The columns as `CREATE TABLE` takes them."""
    return ", ".join(f"{name} {_TYPES.get(kind, kind)}" for name, kind in table.columns)


def inserts(table: Table) -> Iterator[bytes]:
    """The rows as statements of `_BATCH` rows each; `NA` is null, everything else a quoted literal."""
    rows = csv.reader(io.StringIO(table.csv.decode()))
    next(rows)
    kinds = [kind for _, kind in table.columns]
    batch: list[str] = []
    for row in rows:
        batch.append("(" + ",".join(_literal(value, kind) for value, kind in zip(row, kinds, strict=True)) + ")")
        if len(batch) == _BATCH:
            yield _insert(table.name, batch)
            batch.clear()
    if batch:
        yield _insert(table.name, batch)


def _insert(table: str, rows: list[str]) -> bytes:
    return f"INSERT INTO {table} VALUES {','.join(rows)};\n".encode()


def _literal(value: str, kind: str) -> str:
    if value == "NA":
        return "NULL"
    if kind == "timestamptz":
        value = value.removesuffix("Z").replace("T", " ")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
