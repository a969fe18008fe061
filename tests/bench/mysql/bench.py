"""What all measures share: sizes, folder, the Database, servers without an agent, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.found import Found
from tests.bench.mysql.ours import Ours
from tests.bench.mysql.servers import Servers


@dataclass(frozen=True)
class Sizes:
    """How much is measured: rounds, transactions to replay, bytes of tables, seconds of write load."""

    rounds: int
    transactions: int
    data: int
    seconds: float


@dataclass
class Bench(Found):
    """A run."""

    sizes: Sizes
    folder: Path
    ours: Ours
    servers: Servers
