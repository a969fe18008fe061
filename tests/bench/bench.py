"""What all measures share: sizes, folder, both contestants, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.found import Found
from tests.bench.ours import Ours
from tests.bench.peer import Peer


@dataclass(frozen=True)
class Sizes:
    """How much is measured: rounds, bytes of tables, segments of the log, commands timed, seconds of write load."""

    rounds: int
    data: int
    segments: int
    commands: int
    seconds: float


@dataclass
class Bench(Found):
    """A run."""

    sizes: Sizes
    folder: Path
    ours: Ours
    peer: Peer
